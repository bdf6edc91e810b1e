"""Attention over neighbors: equations (2.3) to (2.5) and (2.8), forward and backward.

One program is one atom.  It visits its neighbors in blocks of EDGES.  Channels of keys
(or values) are the columns of a block, head by head, each head in a power of two of
columns; those left over repeat the first channel, and what meets them is zero.

Of each atom ``projected`` [K_MAX dim, n_atoms, KEYS + KEYS + CHANNELS] holds the query
and what it sends to others: for keys, for values.
"""


@triton.jit
def radial(row, t):
    """psi(r) [edges, channels] at ``t`` [edges, 1] of an interval of the table."""
    value = tl.load(row + 5 * FUNCTIONS)
    for k in tl.static_range(4, -1, -1):
        value = tl.load(row + k * FUNCTIONS) + t * value
    return value


@triton.jit
def radial_and_slope(row, t):
    """The same, and its slope by t."""
    value = tl.load(row + 5 * FUNCTIONS)
    slope = value * 0.0
    for k in tl.static_range(4, -1, -1):
        slope = value + t * slope
        value = tl.load(row + k * FUNCTIONS) + t * value
    return value, slope


@triton.jit
def load_rows(pointer, stride, COUNT: tl.constexpr, mask):
    """Components [COUNT] that lie ``stride`` apart."""
    rows = ()
    for d in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer + d * stride, mask=mask, other=0.0),)
    return rows


@triton.jit
def load_all(pointer, stride, COUNT: tl.constexpr):
    """The same without a mask."""
    rows = ()
    for d in tl.static_range(COUNT):
        rows = rows + (tl.load(pointer + d * stride),)
    return rows


@triton.jit
def zero_rows(like, COUNT: tl.constexpr):
    rows = ()
    for _ in tl.static_range(COUNT):
        rows = rows + (like * 0.0,)
    return rows


@triton.jit
def scaled_rows(rows, factor, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (rows[d] * factor,)
    return result


@triton.jit
def added_rows(sums, rows, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (sums[d] + rows[d],)
    return result


@triton.jit
def added_products(sums, rows, factor, COUNT: tl.constexpr):
    result = ()
    for d in tl.static_range(COUNT):
        result = result + (sums[d] + factor * rows[d],)
    return result


@triton.jit
def dot_rows(left, right, COUNT: tl.constexpr):
    """Sum over components [edges, channels]."""
    total = left[0] * right[0]
    for d in tl.static_range(1, COUNT):
        total += left[d] * right[d]
    return total


@triton.jit
def store_sums(pointer, stride, rows, COUNT: tl.constexpr, mask):
    """Store the sums over the edges of a block."""
    for d in tl.static_range(COUNT):
        tl.store(pointer + d * stride, tl.sum(rows[d], axis=0), mask=mask)


@triton.jit
def columns_of(WIDE: tl.constexpr, HEADS_2: tl.constexpr, OF_HEAD_2: tl.constexpr):
    """Channel and head of each column, and whether it is one."""
    of_head: tl.constexpr = WIDE // HEADS
    column = tl.arange(0, HEADS_2 * OF_HEAD_2)
    head = column // OF_HEAD_2
    if HEADS_2 * OF_HEAD_2 == WIDE:  # known to lie side by side, and to need no mask
        return column, head, tl.full((WIDE,), 1, tl.int1)
    channel = column % OF_HEAD_2
    real = (head < HEADS) & (channel < of_head)
    return tl.where(real, head * of_head + channel, 0), head, real


# What the heads have of each edge is a tuple of blocks [edges]: unlike a block [edges,
# heads] it stays with the threads that have the channels of the edge.
@triton.jit
def sum_heads(values, head):
    """Sums over the channels of each head."""
    sums = ()
    for h in tl.static_range(HEADS):
        sums = sums + (tl.sum(tl.where(head == h, values, 0.0), axis=1),)
    return sums


@triton.jit
def spread_heads(values, head):
    """Give every channel [edges, channels] the value of its head."""
    wide = values[0][:, None]
    for h in tl.static_range(1, HEADS):
        wide = tl.where(head == h, values[h][:, None], wide)
    return wide


@triton.jit
def bounded(logit):
    """tanh."""
    return 1.0 - 2.0 / (tl.exp(2.0 * logit) + 1.0)


@triton.jit
def weights_of(logits, envelope):
    """u exp(a) of each head."""
    weights = ()
    for h in tl.static_range(HEADS):
        weights = weights + (envelope * tl.exp(LOGIT_BOUND * bounded(logits[h])),)
    return weights


@triton.jit
def place_in_table(distance, INTERVALS: tl.constexpr):
    """Interval, place in it from 0 to 1, and slope of the place, 1/A."""
    per_length: tl.constexpr = INTERVALS / (CUTOFF - TABLE_START)
    place = (distance - TABLE_START) * per_length
    steps = tl.where(place > 0.0, 1.0, 0.0).to(distance.dtype) * per_length
    place = tl.maximum(place, 0.0)
    interval = tl.minimum(tl.maximum(place.to(tl.int32), 0), INTERVALS - 1)
    return interval, place - interval.to(distance.dtype), steps


@triton.jit
def envelope_of(distance):
    """u(r) and du/dr."""
    x = distance * (1.0 / CUTOFF)
    cube = x * x * x
    rest = tl.maximum(1.0 - cube * x, 0.0)
    return rest * rest * rest, (-12.0 / CUTOFF) * cube * rest * rest


@launched
def attend(
    projected,
    table,
    count,
    neighbor,
    direction,
    distance,
    heads,
    inverse,
    n_atoms,
    room,
    INTERVALS: tl.constexpr,
    EDGES: tl.constexpr,
    HEADS_2: tl.constexpr,
    KEYS_2: tl.constexpr,
    VALUES_2: tl.constexpr,
):
    """Heads [L_MAX dim, n_atoms, CHANNELS], and 1 / (1 + sum of weights) [n_atoms, HEADS]."""
    DIM_IN: tl.constexpr = (K_MAX + 1) * (K_MAX + 1)
    DIM_OUT: tl.constexpr = (L_MAX + 1) * (L_MAX + 1)
    DIM_QUERY: tl.constexpr = (L_QUERY + 1) * (L_QUERY + 1)
    WIDTH: tl.constexpr = 2 * KEYS + CHANNELS
    atom = tl.program_id(0)
    of_key, key_head, real_key = columns_of(KEYS, HEADS_2, KEYS_2)
    of_value, value_head, real_value = columns_of(CHANNELS, HEADS_2, VALUES_2)
    stride = n_atoms * WIDTH
    query = load_rows(
        projected + atom * WIDTH + of_key[None, :], stride, DIM_QUERY, real_key[None, :]
    )
    n_edges = tl.minimum(tl.load(count + atom), room)
    edge = tl.arange(0, EDGES)
    kind = projected.dtype.element_ty
    sums = zero_rows(tl.zeros((EDGES, HEADS_2 * VALUES_2), kind), DIM_OUT)
    totals = zero_rows(tl.zeros((EDGES,), kind), HEADS)
    for start in range(0, n_edges, EDGES):
        slot = atom * room + start + edge
        valid = start + edge < n_edges
        other = tl.load(neighbor + slot, mask=valid, other=0)[:, None]
        r = tl.load(distance + slot, mask=valid, other=CUTOFF)
        planes = n_atoms * room
        Y = harmonics(
            tl.load(direction + slot, mask=valid, other=0.0)[:, None],
            tl.load(direction + planes + slot, mask=valid, other=0.0)[:, None],
            tl.load(direction + 2 * planes + slot, mask=valid, other=0.0)[:, None],
        )
        u, _ = envelope_of(r)
        u = tl.where(valid, u, 0.0)
        interval, t, _ = place_in_table(r, INTERVALS)
        row = table + interval[:, None] * (6 * FUNCTIONS)
        t = t[:, None]
        sender = projected + other * WIDTH + KEYS
        x = load_all(sender + of_key[None, :], stride, DIM_IN)
        key = key_message(Y, row + of_key[None, :], t, x)
        weights = weights_of(
            sum_heads(dot_rows(key, query, DIM_QUERY), key_head[None, :]), u
        )
        totals = added_rows(totals, weights, HEADS)
        x = load_all(sender + KEYS + of_value[None, :], stride, DIM_IN)
        value = value_message(Y, row + KEYS + of_value[None, :], t, x)
        wide = spread_heads(weights, value_head[None, :])
        sums = added_products(sums, value, wide, DIM_OUT)
    factor = tl.full((HEADS_2 * VALUES_2,), 1.0, kind)
    for h in tl.static_range(HEADS):
        rest = 1.0 / (1.0 + tl.sum(totals[h], axis=0))
        tl.store(inverse + atom * HEADS + h, rest)
        factor = tl.where(value_head == h, rest, factor)
    own = heads + atom * CHANNELS + of_value
    for d in tl.static_range(DIM_OUT):
        tl.store(
            own + d * n_atoms * CHANNELS,
            tl.sum(sums[d], axis=0) * factor,
            mask=real_value,
        )


@triton.jit
def push(
    pull,
    slot,
    planes,
    valid,
    u0,
    u1,
    u2,
    r,
    torque0,
    torque1,
    torque2,
    along,
    ADD: tl.constexpr,
):
    """Store dE/d(x_j - x_i) of edges, or add it to what is there."""
    p0 = (torque1 * u2 - torque2 * u1) / r + along * u0
    p1 = (torque2 * u0 - torque0 * u2) / r + along * u1
    p2 = (torque0 * u1 - torque1 * u0) / r + along * u2
    if ADD:
        p0 += tl.load(pull + slot, mask=valid, other=0.0)
        p1 += tl.load(pull + planes + slot, mask=valid, other=0.0)
        p2 += tl.load(pull + 2 * planes + slot, mask=valid, other=0.0)
    tl.store(pull + slot, p0, mask=valid)
    tl.store(pull + planes + slot, p1, mask=valid)
    tl.store(pull + 2 * planes + slot, p2, mask=valid)


@launched
def attend_back_to_center(
    projected,
    table,
    count,
    neighbor,
    direction,
    distance,
    heads,
    inverse,
    slope,
    alphas,
    logits_back,
    pull,
    back,
    n_atoms,
    room,
    INTERVALS: tl.constexpr,
    EDGES: tl.constexpr,
    HEADS_2: tl.constexpr,
    KEYS_2: tl.constexpr,
    VALUES_2: tl.constexpr,
    ADD: tl.constexpr,
    FIRST: tl.constexpr,
):
    """Backward pass at the center i of each edge i <- j.

    Computes the message again.  Stores alpha_ij and dE/d(logit), which the pass of the
    neighbor needs; what distance and direction change; and dE/d(query).

    Args:
        slope: dE/d(heads) [L_MAX dim, n_atoms, CHANNELS].
        alphas, logits_back: [n_atoms, room, HEADS].
        pull: dE/d(x_j - x_i) [3, n_atoms, room].
        back: dE/d(projected), of which this is the part of the queries.
        ADD: ``pull`` holds a part already.
        FIRST: Nothing before this layer depends on positions.
    """
    DIM_IN: tl.constexpr = (K_MAX + 1) * (K_MAX + 1)
    DIM_OUT: tl.constexpr = (L_MAX + 1) * (L_MAX + 1)
    DIM_QUERY: tl.constexpr = (L_QUERY + 1) * (L_QUERY + 1)
    WIDTH: tl.constexpr = 2 * KEYS + CHANNELS
    atom = tl.program_id(0)
    of_key, key_head, real_key = columns_of(KEYS, HEADS_2, KEYS_2)
    of_value, value_head, real_value = columns_of(CHANNELS, HEADS_2, VALUES_2)
    stride = n_atoms * WIDTH
    query = load_rows(
        projected + atom * WIDTH + of_key[None, :], stride, DIM_QUERY, real_key[None, :]
    )
    own = atom * CHANNELS + of_value[None, :]
    v = load_rows(slope + own, n_atoms * CHANNELS, DIM_OUT, real_value[None, :])
    result = load_all(heads + own, n_atoms * CHANNELS, DIM_OUT)
    dots = sum_heads(dot_rows(result, v, DIM_OUT), value_head[None, :])
    n_edges = tl.minimum(tl.load(count + atom), room)
    edge = tl.arange(0, EDGES)
    kind = projected.dtype.element_ty
    query_back = zero_rows(tl.zeros((EDGES, HEADS_2 * KEYS_2), kind), DIM_QUERY)
    planes = n_atoms * room
    for start in range(0, n_edges, EDGES):
        slot = atom * room + start + edge
        valid = start + edge < n_edges
        other = tl.load(neighbor + slot, mask=valid, other=0)[:, None]
        r = tl.load(distance + slot, mask=valid, other=CUTOFF)
        u0 = tl.load(direction + slot, mask=valid, other=0.0)
        u1 = tl.load(direction + planes + slot, mask=valid, other=0.0)
        u2 = tl.load(direction + 2 * planes + slot, mask=valid, other=0.0)
        Y = harmonics(u0[:, None], u1[:, None], u2[:, None])
        u, du = envelope_of(r)
        u = tl.where(valid, u, 0.0)
        du = tl.where(valid, du, 0.0)
        interval, t, steps = place_in_table(r, INTERVALS)
        row = table + interval[:, None] * (6 * FUNCTIONS)
        t = t[:, None]
        sender = projected + other * WIDTH + KEYS
        x = load_all(sender + of_key[None, :], stride, DIM_IN)
        key, along_key = key_message_and_slope(Y, row + of_key[None, :], t, x, query)
        logits = sum_heads(dot_rows(key, query, DIM_QUERY), key_head[None, :])
        x = load_all(sender + KEYS + of_value[None, :], stride, DIM_IN)
        value, along = value_message_and_slope(
            Y, row + KEYS + of_value[None, :], t, x, v
        )
        gains = sum_heads(dot_rows(value, v, DIM_OUT), value_head[None, :])
        weight = ()
        logit_back = ()
        stretch = r * 0.0
        for h in tl.static_range(HEADS):
            tanh = bounded(logits[h])
            exponent = tl.load(inverse + atom * HEADS + h) * tl.exp(LOGIT_BOUND * tanh)
            alpha = u * exponent
            gain = gains[h] - dots[h]  # dE/d(weight) / inverse
            change = alpha * gain * LOGIT_BOUND * (1.0 - tanh * tanh)
            stretch += gain * exponent * du
            if not FIRST:
                tl.store(alphas + slot * HEADS + h, alpha, mask=valid)
                tl.store(logits_back + slot * HEADS + h, change, mask=valid)
            weight = weight + (alpha,)
            logit_back = logit_back + (change,)
        wide_alpha = spread_heads(weight, value_head[None, :])
        wide_logit = spread_heads(logit_back, key_head[None, :])
        stretch += tl.sum(wide_alpha * along, axis=1) * steps
        stretch += tl.sum(wide_logit * along_key, axis=1) * steps
        torque0 = stretch * 0.0
        torque1 = torque0
        torque2 = torque0
        if L_MAX > 0:
            turn = torque_value(value, v)
            torque0 += tl.sum(wide_alpha * turn[0], axis=1)
            torque1 += tl.sum(wide_alpha * turn[1], axis=1)
            torque2 += tl.sum(wide_alpha * turn[2], axis=1)
        if L_QUERY > 0:
            turn = torque_key(key, query)
            torque0 += tl.sum(wide_logit * turn[0], axis=1)
            torque1 += tl.sum(wide_logit * turn[1], axis=1)
            torque2 += tl.sum(wide_logit * turn[2], axis=1)
        push(
            pull,
            slot,
            planes,
            valid,
            u0,
            u1,
            u2,
            r,
            torque0,
            torque1,
            torque2,
            stretch,
            ADD,
        )
        if not FIRST:
            query_back = added_products(query_back, key, wide_logit, DIM_QUERY)
    if not FIRST:
        own_back = back + atom * WIDTH + of_key
        store_sums(own_back, stride, query_back, DIM_QUERY, real_key)
        for d in tl.static_range(DIM_QUERY, DIM_IN):
            tl.store(
                own_back + d * stride,
                tl.zeros((HEADS_2 * KEYS_2,), kind),
                mask=real_key,
            )


@launched
def attend_back_to_neighbor(
    projected,
    table,
    count,
    neighbor,
    reverse,
    direction,
    distance,
    slope,
    alphas,
    logits_back,
    pull,
    back,
    n_atoms,
    room,
    INTERVALS: tl.constexpr,
    EDGES: tl.constexpr,
    HEADS_2: tl.constexpr,
    KEYS_2: tl.constexpr,
    VALUES_2: tl.constexpr,
):
    """Backward pass at the neighbor of each edge: this atom sends to the others.

    The edge j <- i is the reverse of i <- j, which this atom's list has.
    """
    DIM_IN: tl.constexpr = (K_MAX + 1) * (K_MAX + 1)
    DIM_OUT: tl.constexpr = (L_MAX + 1) * (L_MAX + 1)
    DIM_QUERY: tl.constexpr = (L_QUERY + 1) * (L_QUERY + 1)
    WIDTH: tl.constexpr = 2 * KEYS + CHANNELS
    atom = tl.program_id(0)
    of_key, key_head, real_key = columns_of(KEYS, HEADS_2, KEYS_2)
    of_value, value_head, real_value = columns_of(CHANNELS, HEADS_2, VALUES_2)
    stride = n_atoms * WIDTH
    sender = projected + atom * WIDTH + KEYS
    x_key = load_all(sender + of_key[None, :], stride, DIM_IN)
    x_value = load_all(sender + KEYS + of_value[None, :], stride, DIM_IN)
    n_edges = tl.minimum(tl.load(count + atom), room)
    edge = tl.arange(0, EDGES)
    kind = projected.dtype.element_ty
    key_back = zero_rows(tl.zeros((EDGES, HEADS_2 * KEYS_2), kind), DIM_IN)
    value_back = zero_rows(tl.zeros((EDGES, HEADS_2 * VALUES_2), kind), DIM_IN)
    planes = n_atoms * room
    for start in range(0, n_edges, EDGES):
        slot = atom * room + start + edge
        valid = start + edge < n_edges
        other = tl.load(neighbor + slot, mask=valid, other=0)[:, None]
        reversed_ = tl.load(reverse + slot, mask=valid, other=-1)
        r = tl.load(distance + slot, mask=valid, other=CUTOFF)
        u0 = tl.load(direction + slot, mask=valid, other=0.0)
        u1 = tl.load(direction + planes + slot, mask=valid, other=0.0)
        u2 = tl.load(direction + 2 * planes + slot, mask=valid, other=0.0)
        Y = harmonics(-u0[:, None], -u1[:, None], -u2[:, None])
        interval, t, _ = place_in_table(r, INTERVALS)
        row = table + interval[:, None] * (6 * FUNCTIONS)
        t = t[:, None]
        kept = reversed_ >= 0
        weight = ()
        logit_back = ()
        for h in tl.static_range(HEADS):
            of_head = reversed_ * HEADS + h
            weight = weight + (tl.load(alphas + of_head, mask=kept, other=0.0),)
            logit_back = logit_back + (
                tl.load(logits_back + of_head, mask=kept, other=0.0),
            )
        wide_alpha = spread_heads(weight, value_head[None, :])
        wide_alpha = tl.where(real_value[None, :], wide_alpha, 0.0)
        wide_logit = spread_heads(logit_back, key_head[None, :])
        wide_logit = tl.where(real_key[None, :], wide_logit, 0.0)
        v = load_all(
            slope + other * CHANNELS + of_value[None, :], n_atoms * CHANNELS, DIM_OUT
        )
        g = value_message_back(
            Y,
            row + KEYS + of_value[None, :],
            t,
            scaled_rows(v, wide_alpha, DIM_OUT),
        )
        value_back = added_rows(value_back, g, DIM_IN)
        turn = torque_in(g, x_value)
        torque0 = tl.sum(turn[0], axis=1)
        torque1 = tl.sum(turn[1], axis=1)
        torque2 = tl.sum(turn[2], axis=1)
        v = load_all(projected + other * WIDTH + of_key[None, :], stride, DIM_QUERY)
        g = key_message_back(
            Y, row + of_key[None, :], t, scaled_rows(v, wide_logit, DIM_QUERY)
        )
        key_back = added_rows(key_back, g, DIM_IN)
        turn = torque_in(g, x_key)
        torque0 += tl.sum(turn[0], axis=1)
        torque1 += tl.sum(turn[1], axis=1)
        torque2 += tl.sum(turn[2], axis=1)
        push(
            pull,
            slot,
            planes,
            valid,
            u0,
            u1,
            u2,
            r,
            torque0,
            torque1,
            torque2,
            torque0 * 0.0,
            True,
        )
    own_back = back + atom * WIDTH + KEYS
    store_sums(own_back + of_key, stride, key_back, DIM_IN, real_key)
    store_sums(own_back + KEYS + of_value, stride, value_back, DIM_IN, real_value)

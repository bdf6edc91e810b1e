"""Attention over neighbors, backward: at the center of each edge, and at its neighbor.

One program is one atom, as in the forward pass.  Messages are computed again.
"""


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

"""Attention over neighbors: equations (2.3) to (2.5) and (2.8).

One program is one atom.  It visits its neighbors in blocks of EDGES.

Of each atom ``projected`` [K_MAX dim, n_atoms, KEYS + KEYS + CHANNELS] holds the query
and what it sends to others: for keys, for values.
"""


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

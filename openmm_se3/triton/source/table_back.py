"""Derivatives by the radial tables: one program has one interval and one path.

It visits the edges whose distance lies in its interval, wherever their atoms are, and
is the only one that writes the coefficients of its path there: nothing is added to
memory that another program adds to.
"""


@triton.jit
def added_powers(sums, values, t):
    """Add values [edges, channels] times 1, t, ..., t^5."""
    result = ()
    power = values
    for k in tl.static_range(6):
        result = result + (sums[k] + power,)
        power = power * t
    return result


@launched
def attend_back_to_table(
    projected,
    order,
    first,
    neighbor,
    direction,
    distance,
    slope,
    alphas,
    logits_back,
    back,
    n_atoms,
    room,
    INTERVALS: tl.constexpr,
    EDGES: tl.constexpr,
    HEADS_2: tl.constexpr,
    KEYS_2: tl.constexpr,
    VALUES_2: tl.constexpr,
):
    """dE/d(table), from what the backward pass of attention stored.

    Args:
        order: Places of all edges in the lists, interval by interval [n_edges].
        first: Where those of each interval begin in ``order`` [INTERVALS + 1].
        slope: dE/d(heads) [L_MAX dim, n_atoms, CHANNELS].
        alphas, logits_back: [n_atoms, room, HEADS].
        back: dE/d(table) [INTERVALS, 6, FUNCTIONS].
    """
    WIDTH: tl.constexpr = 2 * KEYS + CHANNELS
    per_length: tl.constexpr = INTERVALS / (CUTOFF - TABLE_START)
    interval = tl.program_id(0)
    path = tl.program_id(1)
    of_key, key_head, real_key = columns_of(KEYS, HEADS_2, KEYS_2)
    of_value, value_head, real_value = columns_of(CHANNELS, HEADS_2, VALUES_2)
    stride = n_atoms * WIDTH
    planes = n_atoms * room
    begin = tl.load(first + interval)
    end = tl.load(first + interval + 1)
    edge = tl.arange(0, EDGES)
    kind = projected.dtype.element_ty
    keys = zero_rows(tl.zeros((EDGES, HEADS_2 * KEYS_2), kind), 6)
    values = zero_rows(tl.zeros((EDGES, HEADS_2 * VALUES_2), kind), 6)
    for start in range(begin, end, EDGES):
        valid = start + edge < end
        slot = tl.load(order + start + edge, mask=valid, other=0)
        center = (slot // room)[:, None]
        other = tl.load(neighbor + slot, mask=valid, other=0)[:, None]
        r = tl.load(distance + slot, mask=valid, other=CUTOFF)
        Y = harmonics(
            tl.load(direction + slot, mask=valid, other=0.0)[:, None],
            tl.load(direction + planes + slot, mask=valid, other=0.0)[:, None],
            tl.load(direction + 2 * planes + slot, mask=valid, other=0.0)[:, None],
        )
        place = tl.maximum((r - TABLE_START) * per_length, 0.0)
        t = (place - interval.to(kind))[:, None]
        weight = ()
        logit_back = ()
        for h in tl.static_range(HEADS):
            of_head = slot * HEADS + h
            weight = weight + (tl.load(alphas + of_head, mask=valid, other=0.0),)
            logit_back = logit_back + (
                tl.load(logits_back + of_head, mask=valid, other=0.0),
            )
        sender = projected + other * WIDTH + KEYS
        d = key_by_path(
            path,
            Y,
            sender + of_key[None, :],
            projected + center * WIDTH + of_key[None, :],
            stride,
            stride,
        )
        keys = added_powers(keys, d * spread_heads(logit_back, key_head[None, :]), t)
        d = value_by_path(
            path,
            Y,
            sender + KEYS + of_value[None, :],
            slope + center * CHANNELS + of_value[None, :],
            stride,
            n_atoms * CHANNELS,
        )
        values = added_powers(values, d * spread_heads(weight, value_head[None, :]), t)
    to = back + interval * (6 * FUNCTIONS) + path * (KEYS + CHANNELS)
    store_sums(to + of_key, FUNCTIONS, keys, 6, real_key)
    store_sums(to + KEYS + of_value, FUNCTIONS, values, 6, real_value)

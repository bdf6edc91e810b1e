"""Attentive self-interaction, equations (2.6) and (2.7), forward and backward.

One program has ATOMS atoms.  Products of channels and mixing weights of one atom are many:
they are made for a few channels at a time, blocks [atoms, pairs] of pairs (c, c').  The
weights ``hidden`` [degrees, channels, channels, WIDTH] are symmetric in the channels, and
``mixing`` is [degrees, WIDTH, channels, channels].
"""


@triton.jit
def rows_of(features, l, m, atom, channel, real, n_atoms):
    """Component m of degree l in some channels."""
    place = place_of(l * l + m, atom, channel, n_atoms)
    return tl.load(features + place, mask=real, other=0.0)


@triton.jit
def pairs_of(start, inside, TOGETHER: tl.constexpr, CHANNELS_2: tl.constexpr):
    """Channels c and c' of pairs from c = ``start`` on, and which are in the network."""
    pair = tl.arange(0, TOGETHER * CHANNELS_2)
    first = start + pair // CHANNELS_2
    second = pair % CHANNELS_2
    real = (first < CHANNELS) & (second < CHANNELS)
    return first, second, real, inside[:, None] & real[None, :]


@triton.jit
def added_mixtures(
    sums,
    factor,
    features,
    l: tl.constexpr,
    atom,
    first,
    both,
    n_atoms,
    ATOMS: tl.constexpr,
    TOGETHER: tl.constexpr,
    CHANNELS_2: tl.constexpr,
):
    """Add the sum over c of factor_cc' f_c to the sums [atoms, c'] of each component."""
    result = ()
    for m in tl.static_range(2 * l + 1):
        mixed = factor * rows_of(features, l, m, atom, first, both, n_atoms)
        mixed = tl.reshape(mixed, (ATOMS, TOGETHER, CHANNELS_2))
        result = result + (sums[m] + tl.sum(mixed, axis=1),)
    return result


@triton.jit
def add_to_rows(
    features,
    rows,
    factor: tl.constexpr,
    l: tl.constexpr,
    atom,
    channel,
    inside,
    n_atoms,
):
    """Add blocks [atoms, channels] to the components of a degree."""
    used = inside[:, None] & (channel < CHANNELS)[None, :]
    for m in tl.static_range(2 * l + 1):
        place = place_of(l * l + m, atom, channel, n_atoms)
        before = tl.load(features + place, mask=used, other=0.0)
        tl.store(features + place, before + factor * rows[m], mask=used)


@triton.jit
def hidden_weights(hidden, l, first, second, real, width):
    """[pairs, width]."""
    place = ((l * CHANNELS + first) * CHANNELS + second)[:, None] * WIDTH + width[
        None, :
    ]
    used = real[:, None] & (width < WIDTH)[None, :]
    return tl.load(hidden + place, mask=used, other=0.0)


@triton.jit
def mixing_weights(mixing, l, first, second, real, width):
    """[width, pairs]."""
    place = (
        (l * WIDTH + width)[:, None] * CHANNELS + first[None, :]
    ) * CHANNELS + second[None, :]
    used = (width < WIDTH)[:, None] & real[None, :]
    return tl.load(mixing + place, mask=used, other=0.0)


@launched
def self_interaction(
    features,
    hidden,
    hidden_bias,
    mixing,
    mixing_bias,
    update,
    inner,
    n_atoms,
    ATOMS: tl.constexpr,
    CHANNELS_2: tl.constexpr,
    WIDTH_2: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """Add to ``update``, and store what the hidden values are before the activation."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    channel = tl.arange(0, CHANNELS_2)
    width = tl.arange(0, WIDTH_2)
    inside = atom < n_atoms
    kind = features.dtype.element_ty
    h = tl.zeros((ATOMS, WIDTH_2), kind)
    h += tl.load(hidden_bias + width, mask=width < WIDTH, other=0.0)[None, :]
    for start in range(0, CHANNELS, TOGETHER):
        first, second, real, both = pairs_of(start, inside, TOGETHER, CHANNELS_2)
        for l in tl.static_range(L_QUERY + 1):
            products = tl.zeros((ATOMS, TOGETHER * CHANNELS_2), kind)
            for m in tl.static_range(2 * l + 1):
                products += rows_of(
                    features, l, m, atom, first, both, n_atoms
                ) * rows_of(features, l, m, atom, second, both, n_atoms)
            h += product(
                products, hidden_weights(hidden, l, first, second, real, width)
            )
    kept = inside[:, None] & (width < WIDTH)[None, :]
    tl.store(inner + atom[:, None] * WIDTH + width[None, :], h, mask=kept)
    h = h * sigmoid(h)
    for l in tl.static_range(L_QUERY + 1):
        sums = ()
        for _ in tl.static_range(2 * l + 1):
            sums = sums + (tl.zeros((ATOMS, CHANNELS_2), kind),)
        for start in range(0, CHANNELS, TOGETHER):
            first, second, real, both = pairs_of(start, inside, TOGETHER, CHANNELS_2)
            bias = mixing_bias + (l * CHANNELS + first) * CHANNELS + second
            mix = product(h, mixing_weights(mixing, l, first, second, real, width))
            mix += tl.load(bias, mask=real, other=0.0)[None, :]
            sums = added_mixtures(
                sums,
                mix,
                features,
                l,
                atom,
                first,
                both,
                n_atoms,
                ATOMS,
                TOGETHER,
                CHANNELS_2,
            )
        add_to_rows(update, sums, 1.0, l, atom, channel, inside, n_atoms)


@launched
def self_interaction_back(
    features,
    hidden,
    mixing,
    mixing_bias,
    inner,
    slope,
    back,
    n_atoms,
    ATOMS: tl.constexpr,
    CHANNELS_2: tl.constexpr,
    WIDTH_2: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    """Add dE/d(features) to ``back``, from ``slope``, dE/d(update)."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    channel = tl.arange(0, CHANNELS_2)
    width = tl.arange(0, WIDTH_2)
    inside = atom < n_atoms
    kind = features.dtype.element_ty
    kept = inside[:, None] & (width < WIDTH)[None, :]
    before = tl.load(
        inner + atom[:, None] * WIDTH + width[None, :], mask=kept, other=0.0
    )
    s = sigmoid(before)
    h = before * s
    h_back = tl.zeros((ATOMS, WIDTH_2), kind)
    for start in range(0, CHANNELS, TOGETHER):
        first, second, real, both = pairs_of(start, inside, TOGETHER, CHANNELS_2)
        mixed = start + tl.arange(0, TOGETHER)
        used = inside[:, None] & (mixed < CHANNELS)[None, :]
        for l in tl.static_range(L_QUERY + 1):
            weights = mixing_weights(mixing, l, first, second, real, width)
            bias = mixing_bias + (l * CHANNELS + first) * CHANNELS + second
            mix = product(h, weights) + tl.load(bias, mask=real, other=0.0)[None, :]
            mix_back = tl.zeros((ATOMS, TOGETHER * CHANNELS_2), kind)
            for m in tl.static_range(2 * l + 1):
                v = rows_of(slope, l, m, atom, second, both, n_atoms)
                mix_back += rows_of(features, l, m, atom, first, both, n_atoms) * v
                change = tl.sum(
                    tl.reshape(mix * v, (ATOMS, TOGETHER, CHANNELS_2)), axis=2
                )
                place = place_of(l * l + m, atom, mixed, n_atoms)
                change += tl.load(back + place, mask=used, other=0.0)
                tl.store(back + place, change, mask=used)
            h_back += product(mix_back, tl.trans(weights))
    h_back *= s * (1.0 + before * (1.0 - s))
    tl.debug_barrier()  # other threads of this program wrote what is added to now
    for l in tl.static_range(L_QUERY + 1):
        sums = ()
        for _ in tl.static_range(2 * l + 1):
            sums = sums + (tl.zeros((ATOMS, CHANNELS_2), kind),)
        for start in range(0, CHANNELS, TOGETHER):
            first, second, real, both = pairs_of(start, inside, TOGETHER, CHANNELS_2)
            weights = hidden_weights(hidden, l, first, second, real, width)
            pull = product(h_back, tl.trans(weights))
            sums = added_mixtures(
                sums,
                pull,
                features,
                l,
                atom,
                first,
                both,
                n_atoms,
                ATOMS,
                TOGETHER,
                CHANNELS_2,
            )
        add_to_rows(back, sums, 2.0, l, atom, channel, inside, n_atoms)

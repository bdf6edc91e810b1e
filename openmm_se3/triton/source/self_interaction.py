"""Attentive self-interaction, equations (2.6) and (2.7), forward and backward.

One program has ATOMS atoms.  Products of channels and mixing weights of one atom are many:
they are made for a few channels at a time, blocks [atoms, pairs] of pairs (c, c').  The
weights ``hidden`` [degrees, channels, channels, WIDTH] are symmetric in the channels, and
``mixing`` is [degrees, WIDTH, channels, channels].
"""


@triton.jit
def rows_of(features, l, m, atom, channel, real, n_atoms):
    """Component m of degree l in some channels."""
    place = ((l * l + m) * n_atoms + atom[:, None]) * CHANNELS + channel[None, :]
    return tl.load(features + place, mask=real, other=0.0)


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
    pair = tl.arange(0, TOGETHER * CHANNELS_2)
    second = pair % CHANNELS_2
    inside = atom < n_atoms
    kind = features.dtype.element_ty
    h = tl.zeros((ATOMS, WIDTH_2), kind)
    h += tl.load(hidden_bias + width, mask=width < WIDTH, other=0.0)[None, :]
    for start in range(0, CHANNELS, TOGETHER):
        first = start + pair // CHANNELS_2
        real = (first < CHANNELS) & (second < CHANNELS)
        both = inside[:, None] & real[None, :]
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
            first = start + pair // CHANNELS_2
            real = (first < CHANNELS) & (second < CHANNELS)
            both = inside[:, None] & real[None, :]
            bias = mixing_bias + (l * CHANNELS + first) * CHANNELS + second
            mix = product(h, mixing_weights(mixing, l, first, second, real, width))
            mix += tl.load(bias, mask=real, other=0.0)[None, :]
            more = ()
            for m in tl.static_range(2 * l + 1):
                mixed = mix * rows_of(features, l, m, atom, first, both, n_atoms)
                mixed = tl.reshape(mixed, (ATOMS, TOGETHER, CHANNELS_2))
                more = more + (sums[m] + tl.sum(mixed, axis=1),)
            sums = more
        used = inside[:, None] & (channel < CHANNELS)[None, :]
        for m in tl.static_range(2 * l + 1):
            place = ((l * l + m) * n_atoms + atom[:, None]) * CHANNELS + channel[
                None, :
            ]
            before = tl.load(update + place, mask=used, other=0.0)
            tl.store(update + place, before + sums[m], mask=used)


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
    pair = tl.arange(0, TOGETHER * CHANNELS_2)
    second = pair % CHANNELS_2
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
        first = start + pair // CHANNELS_2
        real = (first < CHANNELS) & (second < CHANNELS)
        both = inside[:, None] & real[None, :]
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
                place = ((l * l + m) * n_atoms + atom[:, None]) * CHANNELS + mixed[
                    None, :
                ]
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
            first = start + pair // CHANNELS_2
            real = (first < CHANNELS) & (second < CHANNELS)
            both = inside[:, None] & real[None, :]
            weights = hidden_weights(hidden, l, first, second, real, width)
            pull = product(h_back, tl.trans(weights))
            more = ()
            for m in tl.static_range(2 * l + 1):
                moved = pull * rows_of(features, l, m, atom, first, both, n_atoms)
                moved = tl.reshape(moved, (ATOMS, TOGETHER, CHANNELS_2))
                more = more + (sums[m] + tl.sum(moved, axis=1),)
            sums = more
        used = inside[:, None] & (channel < CHANNELS)[None, :]
        for m in tl.static_range(2 * l + 1):
            place = ((l * l + m) * n_atoms + atom[:, None]) * CHANNELS + channel[
                None, :
            ]
            change = tl.load(back + place, mask=used, other=0.0)
            tl.store(back + place, change + 2.0 * sums[m], mask=used)

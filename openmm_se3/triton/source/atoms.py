"""What happens on single atoms beside matrix products: the gate and the energy head.

One program has ATOMS atoms.  Blocks are [atoms, channels], of a power of two of channels.
"""


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def product(left, right):
    """Matrix product in the precision of the network."""
    return tl.dot(left, right, input_precision="ieee", out_dtype=left.dtype)


@triton.jit
def place_of(component, atom, channel, n_atoms):
    """Where a component of features [dim, n_atoms, CHANNELS] is, [atoms, channels]."""
    return (component * n_atoms + atom[:, None]) * CHANNELS + channel[None, :]


@triton.jit
def invariants_of(update, atom, channel, real, n_atoms):
    """What opens the gates: f^0 and |f^l|^2 / (2l + 1), by degree."""
    rows = ()
    for d in tl.static_range((L_MAX + 1) * (L_MAX + 1)):
        place = place_of(d, atom, channel, n_atoms)
        rows = rows + (tl.load(update + place, mask=real, other=0.0),)
    result = (rows[0],)
    for l in tl.static_range(1, L_MAX + 1):
        square = rows[l * l] * rows[l * l]
        for d in tl.static_range(l * l + 1, (l + 1) * (l + 1)):
            square += rows[d] * rows[d]
        result = result + (square * (1.0 / (2 * l + 1)),)
    return result


@triton.jit
def gates_of(invariants, weight, bias, channel, CHANNELS_2: tl.constexpr):
    """sigma(g) of each degree; weight [inputs, outputs]."""
    wide: tl.constexpr = (L_MAX + 1) * CHANNELS
    row = tl.arange(0, CHANNELS_2)[:, None]
    column = channel[None, :]
    real = (row < CHANNELS) & (column < CHANNELS)
    result = ()
    for l in tl.static_range(L_MAX + 1):
        opening = tl.load(
            bias + l * CHANNELS + column, mask=column < CHANNELS, other=0.0
        )
        opening = opening + invariants[0] * 0.0
        for k in tl.static_range(L_MAX + 1):
            place = (k * CHANNELS + row) * wide + l * CHANNELS + column
            opening += product(
                invariants[k], tl.load(weight + place, mask=real, other=0.0)
            )
        result = result + (sigmoid(opening),)
    return result


@launched
def gate(
    update,
    weight,
    bias,
    features,
    n_atoms,
    ATOMS: tl.constexpr,
    CHANNELS_2: tl.constexpr,
):
    """f sigma(g), [L_MAX dim, n_atoms, CHANNELS] both."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    channel = tl.arange(0, CHANNELS_2)
    real = (atom < n_atoms)[:, None] & (channel < CHANNELS)[None, :]
    invariants = invariants_of(update, atom, channel, real, n_atoms)
    gates = gates_of(invariants, weight, bias, channel, CHANNELS_2)
    # Features are loaded again, here and below: kept, they would not fit into registers.
    for l in tl.static_range(L_MAX + 1):
        for d in tl.static_range(l * l, (l + 1) * (l + 1)):
            place = place_of(d, atom, channel, n_atoms)
            f = tl.load(update + place, mask=real, other=0.0)
            tl.store(features + place, f * gates[l], mask=real)


@launched
def gate_back(
    update,
    weight,
    bias,
    slope,
    back,
    n_atoms,
    ATOMS: tl.constexpr,
    CHANNELS_2: tl.constexpr,
):
    """dE/d(update) from ``slope``, dE/d(features)."""
    wide: tl.constexpr = (L_MAX + 1) * CHANNELS
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    channel = tl.arange(0, CHANNELS_2)
    real = (atom < n_atoms)[:, None] & (channel < CHANNELS)[None, :]
    invariants = invariants_of(update, atom, channel, real, n_atoms)
    gates = gates_of(invariants, weight, bias, channel, CHANNELS_2)
    gates_back = ()
    for l in tl.static_range(L_MAX + 1):
        total = gates[l] * 0.0
        for d in tl.static_range(l * l, (l + 1) * (l + 1)):
            place = place_of(d, atom, channel, n_atoms)
            f = tl.load(update + place, mask=real, other=0.0)
            total += f * tl.load(slope + place, mask=real, other=0.0)
        gates_back = gates_back + (total * gates[l] * (1.0 - gates[l]),)
    row = tl.arange(0, CHANNELS_2)[:, None]
    column = channel[None, :]
    both = (row < CHANNELS) & (column < CHANNELS)
    # Not unrolled: that would take more registers than a thread has.
    for k in range(L_MAX + 1):
        change = gates[0] * 0.0
        for l in tl.static_range(L_MAX + 1):
            entry = (k * CHANNELS + column) * wide + l * CHANNELS + row  # transposed
            change += product(
                gates_back[l], tl.load(weight + entry, mask=both, other=0.0)
            )
        own = gates[0]
        for l in tl.static_range(1, L_MAX + 1):
            own = tl.where(k == l, gates[l], own)
        for component in range(k * k, (k + 1) * (k + 1)):
            place = place_of(component, atom, channel, n_atoms)
            f = tl.load(update + place, mask=real, other=0.0)
            opens = tl.where(k == 0, 1.0, 2.0 * f / (2 * k + 1))
            result = tl.load(slope + place, mask=real, other=0.0) * own
            tl.store(back + place, result + opens * change, mask=real)


@launched
def energy_head(
    features,
    species,
    isolated,
    hidden,
    hidden_bias,
    output,
    energies,
    slope,
    n_atoms,
    ATOMS: tl.constexpr,
    CHANNELS_2: tl.constexpr,
):
    """Energies of atoms relative to isolated ones, eV, and dE/d(features)."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    channel = tl.arange(0, CHANNELS_2)
    row = channel[:, None]
    column = channel[None, :]
    real = (atom < n_atoms)[:, None] & (column < CHANNELS)
    both = (row < CHANNELS) & (column < CHANNELS)
    place = atom[:, None] * CHANNELS + column
    f = tl.load(features + place, mask=real, other=0.0)
    h = product(f, tl.load(hidden + row * CHANNELS + column, mask=both, other=0.0))
    h += tl.load(hidden_bias + column, mask=column < CHANNELS, other=0.0)
    w = tl.load(output + column, mask=column < CHANNELS, other=0.0)
    s = sigmoid(h)
    energy = tl.sum((w * h * s).to(tl.float64), axis=1) * ENERGY_SCALE
    inside = atom < n_atoms
    alone = tl.load(isolated + tl.load(species + atom, mask=inside, other=0))
    tl.store(energies + atom, energy - alone, mask=inside)
    h = ENERGY_SCALE * w * s * (1.0 + h * (1.0 - s))
    back = product(h, tl.load(hidden + column * CHANNELS + row, mask=both, other=0.0))
    tl.store(slope + place, back, mask=real)

"""Forces and energy from what the layers give, and the repulsion of nuclei."""


@triton.jit
def wall_of(charge, screening, reach, r):
    """ZBL energy of a pair and its slope."""
    x = r * reach
    rest = tl.maximum(1.0 - x * x * x * x, 0.0)
    a = WALL_WEIGHT_0 * tl.exp(-WALL_EXPONENT_0 * r * screening)
    b = WALL_WEIGHT_1 * tl.exp(-WALL_EXPONENT_1 * r * screening)
    c = WALL_WEIGHT_2 * tl.exp(-WALL_EXPONENT_2 * r * screening)
    d = WALL_WEIGHT_3 * tl.exp(-WALL_EXPONENT_3 * r * screening)
    screened = a + b + c + d
    change = -screening * (
        WALL_EXPONENT_0 * a
        + WALL_EXPONENT_1 * b
        + WALL_EXPONENT_2 * c
        + WALL_EXPONENT_3 * d
    )
    fade = rest * rest * rest
    slope = -12.0 * x * x * x * rest * rest * reach
    scale = charge / r
    return scale * screened * fade, scale * (
        (change - screened / r) * fade + screened * slope
    )


@launched
def add_forces(
    pull,
    count,
    neighbor,
    reverse,
    direction,
    distance,
    species,
    walls,
    atoms,
    energies,
    forces,
    n_atoms,
    room,
    UNIT: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Forces of the particles, and the wall, which is added to the energies.

    Args:
        pull: dE/d(x_j - x_i) [3, n_atoms, room].
        walls: Charges, screening and reach of pairs of species [n_species^2, 3].
        energies: Of the atoms, eV [n_atoms].
        forces: Of the particles [n_particles, 3], in units of which there are ``UNIT``
            in 1 eV/A.
    """
    atom = tl.program_id(0)
    kind = distance.dtype.element_ty
    found = tl.load(count + atom)
    n_edges = tl.minimum(found, room)
    edge = tl.arange(0, EDGES)
    planes = n_atoms * room
    own_species = tl.load(species + atom).to(tl.int32)
    f0 = tl.zeros((EDGES,), tl.float64)
    f1 = tl.zeros((EDGES,), tl.float64)
    f2 = tl.zeros((EDGES,), tl.float64)
    energy = tl.zeros((EDGES,), tl.float64)
    for start in range(0, n_edges, EDGES):
        slot = atom * room + start + edge
        valid = start + edge < n_edges
        other = tl.load(reverse + slot, mask=valid, other=-1)
        both = other >= 0
        p0 = tl.load(pull + slot, mask=valid, other=0.0) - tl.load(
            pull + other, mask=both, other=0.0
        )
        p1 = tl.load(pull + planes + slot, mask=valid, other=0.0) - tl.load(
            pull + planes + other, mask=both, other=0.0
        )
        p2 = tl.load(pull + 2 * planes + slot, mask=valid, other=0.0) - tl.load(
            pull + 2 * planes + other, mask=both, other=0.0
        )
        if WALL:
            r = tl.load(distance + slot, mask=valid, other=CUTOFF)
            j = tl.load(neighbor + slot, mask=valid, other=0)
            pair = 3 * (own_species * N_SPECIES + tl.load(species + j).to(tl.int32))
            e, de = wall_of(
                tl.load(walls + pair).to(kind),
                tl.load(walls + pair + 1).to(kind),
                tl.load(walls + pair + 2).to(kind),
                r,
            )
            energy += tl.where(valid, 0.5 * e, 0.0).to(tl.float64)
            de = tl.where(valid, de, 0.0)
            p0 += de * tl.load(direction + slot, mask=valid, other=0.0)
            p1 += de * tl.load(direction + planes + slot, mask=valid, other=0.0)
            p2 += de * tl.load(direction + 2 * planes + slot, mask=valid, other=0.0)
        f0 += p0.to(tl.float64)
        f1 += p1.to(tl.float64)
        f2 += p2.to(tl.float64)
    # Wrong numbers are none.
    spoiled = tl.where(found > room, float("nan"), 0.0)
    to = forces + 3 * tl.load(atoms + atom)
    target = forces.dtype.element_ty
    tl.store(to, (tl.sum(f0, 0) * UNIT + spoiled).to(target))
    tl.store(to + 1, (tl.sum(f1, 0) * UNIT + spoiled).to(target))
    tl.store(to + 2, (tl.sum(f2, 0) * UNIT + spoiled).to(target))
    if WALL:
        tl.store(energies + atom, tl.load(energies + atom) + tl.sum(energy, 0))


@launched
def sum_energies(
    energies,
    count,
    offset,
    energy,
    n_atoms,
    room,
    UNIT: tl.constexpr,
    ATOMS: tl.constexpr,
):
    """The energy, with ``offset`` eV added, in units of which there are ``UNIT`` in 1 eV.

    It is NaN where there was too little room for neighbors.
    """
    atom = tl.arange(0, ATOMS)
    total = tl.zeros((ATOMS,), tl.float64)
    most = tl.zeros((ATOMS,), tl.int32)
    for start in range(0, n_atoms, ATOMS):
        inside = start + atom < n_atoms
        total += tl.load(energies + start + atom, mask=inside, other=0.0)
        most = tl.maximum(most, tl.load(count + start + atom, mask=inside, other=0))
    spoiled = tl.where(tl.max(most, 0) > room, float("nan"), 0.0)
    result = (tl.sum(total, 0) + tl.load(offset)) * UNIT + spoiled
    tl.store(energy, result.to(energy.dtype.element_ty))

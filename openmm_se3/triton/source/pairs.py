"""Neighbors of each atom, and forces and energy from what the layers give.

Every atom has room for the same number of neighbors, so that nothing depends on how
many there are but the number of turns of a loop.  Lists are sorted by distance: edges of
one block then read neighboring intervals of the radial tables.
"""

# Neighbors a little beyond the cutoff, whose envelope is zero, are listed too: whether
# two atoms are neighbors is then no question of rounding.
MARGIN = tl.constexpr(1.0005)
MOST_IMAGES = tl.constexpr(64)  # along a lattice vector; a smaller box has collapsed
# Steps along the three lattice vectors in one integer.
BASE = tl.constexpr(1024)
ORIGIN = tl.constexpr(512 + 512 * 1024 + 512 * 1024 * 1024)


@triton.jit
def lattice_of(box, length: tl.constexpr):
    """Lattice vectors as rows, A, and the inverse of that matrix, in float64."""
    a0 = tl.load(box).to(tl.float64) * length
    a1 = tl.load(box + 1).to(tl.float64) * length
    a2 = tl.load(box + 2).to(tl.float64) * length
    b0 = tl.load(box + 3).to(tl.float64) * length
    b1 = tl.load(box + 4).to(tl.float64) * length
    b2 = tl.load(box + 5).to(tl.float64) * length
    c0 = tl.load(box + 6).to(tl.float64) * length
    c1 = tl.load(box + 7).to(tl.float64) * length
    c2 = tl.load(box + 8).to(tl.float64) * length
    # Across b and c, across c and a, across a and b.
    p0, p1, p2 = b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0
    q0, q1, q2 = c1 * a2 - c2 * a1, c2 * a0 - c0 * a2, c0 * a1 - c1 * a0
    r0, r1, r2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    share = 1.0 / (a0 * p0 + a1 * p1 + a2 * p2)
    lattice = (a0, a1, a2, b0, b1, b2, c0, c1, c2)
    inverse = (
        (p0 * share, q0 * share, r0 * share)
        + (p1 * share, q1 * share, r1 * share)
        + (p2 * share, q2 * share, r2 * share)
    )
    return lattice, inverse


@triton.jit
def images_along(x, y, z):
    """Images to look at along a lattice vector, whose planes 1 / |(x, y, z)| are apart."""
    return tl.ceil(2.0 * MARGIN * CUTOFF * tl.sqrt(x * x + y * y + z * z))


@triton.jit
def vector_between(
    positions, atoms, i, j, image, lattice, length: tl.constexpr, PERIODIC: tl.constexpr
):
    """x_j - x_i in float64, A, of the image that ``image`` names."""
    p = 3 * tl.load(atoms + i)
    q = 3 * tl.load(atoms + j)
    x = (
        tl.load(positions + q).to(tl.float64) - tl.load(positions + p).to(tl.float64)
    ) * length
    y = (
        tl.load(positions + q + 1).to(tl.float64)
        - tl.load(positions + p + 1).to(tl.float64)
    ) * length
    z = (
        tl.load(positions + q + 2).to(tl.float64)
        - tl.load(positions + p + 2).to(tl.float64)
    ) * length
    if PERIODIC:
        steps_a = (image % BASE - BASE // 2).to(tl.float64)
        steps_b = (image // BASE % BASE - BASE // 2).to(tl.float64)
        steps_c = (image // (BASE * BASE) - BASE // 2).to(tl.float64)
        x += steps_a * lattice[0] + steps_b * lattice[3] + steps_c * lattice[6]
        y += steps_a * lattice[1] + steps_b * lattice[4] + steps_c * lattice[7]
        z += steps_a * lattice[2] + steps_b * lattice[5] + steps_c * lattice[8]
    return x, y, z


@launched
def find_neighbors(
    positions,
    box,
    atoms,
    found_neighbor,
    found_image,
    count,
    neighbor,
    image,
    direction,
    distance,
    n_atoms,
    room,
    LENGTH: tl.constexpr,
    ROOM_2: tl.constexpr,
    CANDIDATES: tl.constexpr,
    PERIODIC: tl.constexpr,
):
    """The neighbors of one atom, in any box or none, nearest first.

    Args:
        positions: Of all particles [n_particles, 3], of which ``atoms`` [n_atoms] are
            the network's, in lengths of ``LENGTH`` A.
        box: Lattice vectors as rows [3, 3].
        found_neighbor, found_image: Memory [n_atoms, room].
        count: Neighbors of each atom; more than ``room`` where some are missing.
        neighbor, image, distance: [n_atoms, room].
        direction: (x_j - x_i) / |x_j - x_i| [3, n_atoms, room].
    """
    atom = tl.program_id(0)
    kind = positions.dtype.element_ty
    here = 3 * tl.load(atoms + atom)
    x0 = tl.load(positions + here)
    y0 = tl.load(positions + here + 1)
    z0 = tl.load(positions + here + 2)
    limit: tl.constexpr = (CUTOFF * MARGIN / LENGTH) * (CUTOFF * MARGIN / LENGTH)
    candidate = tl.arange(0, CANDIDATES)
    mine = atom * room
    total = 0
    spoiled = 0  # whether there is no right answer
    if PERIODIC:
        lattice, inverse = lattice_of(box, 1.0)
        n_a = images_along(
            inverse[0] / LENGTH, inverse[3] / LENGTH, inverse[6] / LENGTH
        )
        n_b = images_along(
            inverse[1] / LENGTH, inverse[4] / LENGTH, inverse[7] / LENGTH
        )
        n_c = images_along(
            inverse[2] / LENGTH, inverse[5] / LENGTH, inverse[8] / LENGTH
        )
        sound = (n_a <= MOST_IMAGES) & (n_b <= MOST_IMAGES) & (n_c <= MOST_IMAGES)
        images_a = tl.where(sound, n_a, 1.0).to(tl.int32)
        images_b = tl.where(sound, n_b, 1.0).to(tl.int32)
        images_c = tl.where(sound, n_c, 1.0).to(tl.int32)
        spoiled += tl.where(sound, 0, 1)
        images = images_a * images_b * images_c
        half_a = (0.5 * n_a).to(kind)
        half_b = (0.5 * n_b).to(kind)
        half_c = (0.5 * n_c).to(kind)
    else:
        lattice = (0.0,)
        images = 1
        images_b = 1
        images_c = 1
    for number in range(0, images):
        for start in range(0, n_atoms, CANDIDATES):
            j = start + candidate
            inside = j < n_atoms
            there = 3 * tl.load(atoms + j, mask=inside, other=0)
            x = tl.load(positions + there) - x0
            y = tl.load(positions + there + 1) - y0
            z = tl.load(positions + there + 2) - z0
            if PERIODIC:
                f = (
                    x * inverse[0].to(kind)
                    + y * inverse[3].to(kind)
                    + z * inverse[6].to(kind)
                )
                g = (
                    x * inverse[1].to(kind)
                    + y * inverse[4].to(kind)
                    + z * inverse[7].to(kind)
                )
                h = (
                    x * inverse[2].to(kind)
                    + y * inverse[5].to(kind)
                    + z * inverse[8].to(kind)
                )
                steps_a = (number // (images_b * images_c)).to(kind) - tl.floor(
                    f + half_a
                )
                steps_b = (number // images_c % images_b).to(kind) - tl.floor(
                    g + half_b
                )
                steps_c = (number % images_c).to(kind) - tl.floor(h + half_c)
                x += (
                    steps_a * lattice[0].to(kind)
                    + steps_b * lattice[3].to(kind)
                    + steps_c * lattice[6].to(kind)
                )
                y += (
                    steps_a * lattice[1].to(kind)
                    + steps_b * lattice[4].to(kind)
                    + steps_c * lattice[7].to(kind)
                )
                z += (
                    steps_a * lattice[2].to(kind)
                    + steps_b * lattice[5].to(kind)
                    + steps_c * lattice[8].to(kind)
                )
                itself = (
                    (j == atom) & (steps_a == 0.0) & (steps_b == 0.0) & (steps_c == 0.0)
                )
                far = (
                    tl.maximum(
                        tl.maximum(tl.abs(steps_a), tl.abs(steps_b)), tl.abs(steps_c)
                    )
                    >= BASE // 2
                )
                name = (
                    steps_a.to(tl.int32)
                    + BASE * steps_b.to(tl.int32)
                    + BASE * BASE * steps_c.to(tl.int32)
                    + ORIGIN
                )
            else:
                itself = j == atom
                far = j < 0
                name = j * 0 + ORIGIN
            # A position that is no number is near to all others.
            near = inside & ~itself & ~(x * x + y * y + z * z > limit)
            places = total + tl.cumsum(near.to(tl.int32), 0) - 1
            kept = near & (places < room)
            tl.store(found_neighbor + mine + places, j, mask=kept)
            tl.store(found_image + mine + places, name, mask=kept)
            total += tl.sum(near.to(tl.int32), 0)
            spoiled += tl.sum((near & far).to(tl.int32), 0)
    tl.store(count + atom, tl.where(spoiled > 0, room + 1, total))
    tl.debug_barrier()  # other threads of this program wrote what is read now

    place = tl.arange(0, ROOM_2)
    used = place < tl.minimum(total, room)
    j = tl.load(found_neighbor + mine + place, mask=used, other=0)
    name = tl.load(found_image + mine + place, mask=used, other=ORIGIN)
    if PERIODIC:
        lattice, _ = lattice_of(box, LENGTH)
    x, y, z = vector_between(positions, atoms, atom, j, name, lattice, LENGTH, PERIODIC)
    r = tl.sqrt(x * x + y * y + z * z).to(tl.float32)
    # Positive numbers are ordered as the integers that their bits are.
    order = (r.to(tl.int32, bitcast=True).to(tl.int64) << 32) | place.to(tl.int64)
    order = tl.where(used, order, 0x7FFFFFFFFFFFFFFF)
    order = (tl.sort(order) & 0xFFFFFFFF).to(tl.int32)
    order = tl.where(used, order, 0)
    j = tl.load(found_neighbor + mine + order, mask=used, other=0)
    name = tl.load(found_image + mine + order, mask=used, other=ORIGIN)
    x, y, z = vector_between(positions, atoms, atom, j, name, lattice, LENGTH, PERIODIC)
    r = tl.sqrt(x * x + y * y + z * z + DISTANCE_EPSILON)
    planes = n_atoms * room
    to = distance.dtype.element_ty
    # Where the count says that the room is full, it is full of something.
    used = place < tl.where(spoiled > 0, room, total)
    used = used & (place < room)
    tl.store(neighbor + mine + place, j, mask=used)
    tl.store(image + mine + place, name, mask=used)
    tl.store(distance + mine + place, r.to(to), mask=used)
    tl.store(direction + mine + place, (x / r).to(to), mask=used)
    tl.store(direction + planes + mine + place, (y / r).to(to), mask=used)
    tl.store(direction + 2 * planes + mine + place, (z / r).to(to), mask=used)


@launched
def match_reverse(
    count, neighbor, image, reverse, room, ROOM_2: tl.constexpr, EDGES: tl.constexpr
):
    """Where j's list has i, for each neighbor j of i: a place in the lists, or -1."""
    atom = tl.program_id(0)
    n_edges = tl.minimum(tl.load(count + atom), room)
    edge = tl.arange(0, EDGES)
    place = tl.arange(0, ROOM_2)[None, :]
    for start in range(0, n_edges, EDGES):
        slot = atom * room + start + edge
        valid = start + edge < n_edges
        other = tl.load(neighbor + slot, mask=valid, other=0)
        back = 2 * ORIGIN - tl.load(image + slot, mask=valid, other=0)
        of_other = tl.minimum(tl.load(count + other), room)
        used = valid[:, None] & (place < of_other[:, None])
        there = other[:, None] * room + place
        found = tl.load(neighbor + there, mask=used, other=-1) == atom
        found = found & (tl.load(image + there, mask=used, other=0) == back[:, None])
        tl.store(
            reverse + slot,
            tl.max(tl.where(found & used, there, -1), axis=1),
            mask=valid,
        )


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

"""Neighbors of each atom.

Every atom has room for the same number of neighbors, so that nothing depends on how
many there are but the number of turns of a loop.  Lists are sorted by distance: edges of
one block then read neighboring intervals of the radial tables.
"""


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

"""Boxes, and vectors between atoms and their images."""

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

"""Edges of a set of atoms: all pairs, or neighbors within a cutoff.

These are as many as there are (``neighbor_pairs``), or as many as there is room for
(``fixed_pairs``), which can be recorded once for all positions.

An edge goes from a neighbor j to a center i and carries the vector x_j - x_i + shift,
where the shift is a lattice vector.  Edges are sorted by center, unless ``in_pairs``
has put them in another order.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from openmm_se3._moved import warn_renamed

# Room for neighbors of atoms half as dense again as those of water, in an A^3.
DENSITY_OF_ROOM = 0.15
# A box may shrink to this share of its length before images are missed.
SHRINKAGE = 0.9
# Longest position or box vector, A: beyond, the integers of a cell list overflow.
MAX_LENGTH = 1e6
# Thinnest box, in cutoffs: below, an atom has millions of images as neighbors.
MIN_WIDTH = 0.01


# Not with ``from __future__ import annotations``, which TorchScript cannot read here.
class Edges(NamedTuple):
    """Edges of a set of atoms, and the order that they are in.

    Attributes:
        center: Atom i of each edge [n_edges].
        neighbor: Atom j of each edge [n_edges].
        shifts: Lattice vector added to x_j - x_i [n_edges, 3], A; None without a box.
        layout: "list": any order.  "dense": every atom has as many edges, at least one,
            sorted by center.  "paired": the second half of the edges are those of the
            first, reversed.
    """

    center: Tensor
    neighbor: Tensor
    shifts: Tensor | None = None
    layout: str = "list"


def all_pairs(n_atoms: int, device: torch.device | None = None) -> Edges:
    """Return the n_atoms (n_atoms - 1) ordered pairs of atoms, as dense edges."""
    index = torch.arange(n_atoms, device=device)
    center = index.repeat_interleave(max(n_atoms - 1, 0))
    neighbor = index.repeat(n_atoms, 1)[~torch.eye(n_atoms, dtype=torch.bool)]
    return Edges(center, neighbor, layout="dense" if n_atoms > 1 else "list")


def neighbor_pairs(
    positions: Tensor, cutoff: float, cell: Tensor | None = None
) -> Edges:
    """Return the edges within a cutoff, found by vesin's cell list.

    A box smaller than twice the cutoff gives an atom several images of a neighbor, and
    of itself, as it should.

    Args:
        positions: Positions [n_atoms, 3], A.
        cutoff: Largest distance, A.
        cell: Lattice vectors as rows [3, 3], A; None without a box.

    Returns:
        Edges with shifts, also without a box.

    Raises:
        ValueError: Positions or box are beyond what a cell list can hold.
    """
    from vesin_torch import NeighborList

    _check_lengths(positions, cutoff, cell)
    box = torch.zeros(3, 3, dtype=torch.float64) if cell is None else cell
    center, neighbor, shifts = NeighborList(
        cutoff, full_list=True, sorted=True
    ).compute(
        points=positions.detach().to(torch.float64),
        box=box.to(torch.float64).to(positions.device),
        periodic=cell is not None,
        quantities="ijS",
    )
    lattice = shifts.to(torch.float64) @ box.to(torch.float64).to(positions.device)
    return Edges(center, neighbor, lattice.to(positions.dtype))


def neighbour_pairs(
    positions: Tensor, cutoff: float, cell: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return center, neighbor and shifts of :func:`neighbor_pairs`; an old name."""
    warn_renamed("neighbour_pairs", "neighbor_pairs")
    center, neighbor, shifts, _ = neighbor_pairs(positions, cutoff, cell)
    assert shifts is not None
    return center, neighbor, shifts


def _check_lengths(positions: Tensor, cutoff: float, cell: Tensor | None) -> None:
    """Refuse what a cell list would search for ever, or overflow its integers with.

    Raises:
        ValueError: Names the value.
    """
    for name, values in (("a position", positions), ("a box vector", cell)):
        if values is None or not values.numel():
            continue
        largest = float(values.detach().abs().max())
        if not largest <= MAX_LENGTH:
            raise ValueError(
                f"{name} of {largest:g} A: the neighbor list holds up to "
                f"{MAX_LENGTH:g} A; are the units right?"
            )
    if cell is not None:
        a, b, c = cell.to(torch.float64).unbind()
        volume = float(torch.linalg.cross(a, b).dot(c).abs())
        faces = [torch.linalg.cross(*pair) for pair in ((b, c), (c, a), (a, b))]
        widest = max(float(face.norm()) for face in faces)
        if not volume > MIN_WIDTH * cutoff * widest:
            raise ValueError(
                f"the box {cell.tolist()} (A) is thinner than {MIN_WIDTH} of the "
                f"cutoff, {cutoff:g} A: are the units right?"
            )


@dataclasses.dataclass(frozen=True)
class Capacity:
    """How many edges there is room for.

    Attributes:
        neighbors: Of each atom.
        images: Images of an atom that are looked at along each lattice vector; those
            within ``images / 2`` times the distance of lattice planes are all found.
    """

    neighbors: int
    images: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def of(
        cls, n_atoms: int, cutoff: float, cell: Tensor | None, neighbors: int
    ) -> "Capacity":
        """Return room for neighbors within a cutoff, in boxes a tenth shorter too.

        Args:
            n_atoms: Number of atoms.
            cutoff: Largest distance, A.
            cell: Lattice vectors as rows [3, 3], A; None without a box.
            neighbors: Of each atom, at most; fewer where there are not so many.
        """
        if cell is None:
            return cls(min(neighbors, n_atoms - 1))
        planes = SHRINKAGE * plane_distances(torch.linalg.inv(cell))
        x, y, z = (math.ceil(2.0 * cutoff / float(distance)) for distance in planes)
        return cls(min(neighbors, n_atoms * x * y * z - 1), (x, y, z))


def default_room(cutoff: float) -> int:
    """Return room for the neighbors of an atom within a cutoff, A."""
    return math.ceil(DENSITY_OF_ROOM * 4.0 / 3.0 * math.pi * cutoff**3)


def plane_distances(inverse: Tensor) -> Tensor:
    """Return the distances of lattice planes [3] for the inverse of a cell [3, 3]."""
    return 1.0 / inverse.square().sum(0).sqrt()


def inverse_of_triangle(cell: Tensor) -> Tensor:
    """Return the inverse of OpenMM's lattice vectors, a lower triangle [3, 3].

    Written out, because a GPU's library for it cannot be recorded.
    """
    (ax, _, _), (bx, by, _), (cx, cy, cz) = (row.unbind() for row in cell.unbind())
    zero = torch.zeros_like(ax)
    rows = (
        (1.0 / ax, zero, zero),
        (-bx / (ax * by), 1.0 / by, zero),
        ((bx * cy - by * cx) / (ax * by * cz), -cy / (by * cz), 1.0 / cz),
    )
    return torch.stack([torch.stack(row) for row in rows])


def fixed_pairs(
    positions: Tensor, cutoff: float, cell: Tensor | None, capacity: Capacity
) -> tuple[Edges, Tensor]:
    """Return as many edges as there is room for, all that are within a cutoff first.

    No shape depends on the positions, and nothing waits for a number.  Room that is
    left is filled with edges of an atom to itself, two cutoffs long, which change
    nothing.  All pairs are looked at, so that time grows with their number.

    Args:
        positions: Positions [n_atoms, 3], A.
        cutoff: Largest distance, A.
        cell: Lattice vectors as rows, a lower triangle [3, 3], A; None without a box.
        capacity: How many edges there is room for.

    Returns:
        Dense edges with shifts, n_atoms times ``capacity.neighbors`` of them; and in
        ``needed`` [2] what all would have taken: neighbors of the atom that has most,
        and the cutoff as a share of the distance that was searched.  Above the
        neighbors there is room for, or above 1, some are missing.
    """
    n_atoms, room = len(positions), capacity.neighbors
    atoms = torch.arange(n_atoms, device=positions.device)
    vectors = positions - positions.unsqueeze(1)  # x_j - x_i [n_atoms, n_atoms, 3]
    searched = positions.new_zeros(())
    if cell is None:
        steps = torch.zeros_like(vectors).unsqueeze(2)
        vectors = vectors.unsqueeze(2)
        lattice = positions.new_zeros((3, 3))
    else:
        lattice = cell
        inverse = inverse_of_triangle(cell)
        images = torch.tensor(capacity.images, device=cell.device).to(cell.dtype)
        ranges = [torch.arange(n, device=cell.device) for n in capacity.images]
        further = torch.cartesian_prod(*ranges).to(cell.dtype)  # [n_images, 3]
        # The first image is at -images / 2 or just above, in lattice vectors.
        shares = vectors @ inverse
        steps = (-torch.floor(shares + 0.5 * images)).unsqueeze(2) + further
        vectors = (shares.unsqueeze(2) + steps) @ cell
        searched = (cutoff / (0.5 * images * plane_distances(inverse))).max()
    itself = (atoms == atoms.unsqueeze(1)).unsqueeze(2) & (steps == 0.0).all(-1)
    within = ((vectors.square().sum(-1) < cutoff**2) & ~itself).flatten(1)
    n_images, n_candidates = steps.shape[2], within.shape[1]
    # Each candidate within the cutoff goes to the next free place of its center; the
    # others, and those that find none, to one more place that is cut off.
    found = within.cumsum(1)
    place = torch.where(within & (found <= room), found - 1, room)
    number = torch.arange(n_candidates, device=positions.device).expand_as(place)
    nobody = torch.full_like(place[:, :1], n_candidates).expand(-1, room + 1)
    chosen = nobody.scatter(1, place, number)[:, :room].flatten()
    center = atoms.repeat_interleave(room)
    empty = chosen == n_candidates
    candidate = torch.where(empty, 0, chosen)
    neighbor = torch.where(empty, center, candidate // n_images)
    step = steps.flatten(0, 2).index_select(0, center * n_candidates + candidate)
    beyond = positions.new_tensor([2.0 * cutoff, 0.0, 0.0])
    shifts = torch.where(empty.unsqueeze(1), beyond, step @ lattice)
    most = found[:, -1].max().to(positions.dtype)
    edges = Edges(center, neighbor, shifts, "dense")
    return edges, torch.stack([most, searched])


def in_pairs(edges: Edges) -> Edges:
    """Return edges so that the second half are those of the first half, reversed.

    What depends on the distance alone is then computed for one half.

    Args:
        edges: Edges with shifts; every edge has its reverse.

    Raises:
        ValueError: There are not as many edges of one direction as of the other.
    """
    center, neighbor, shifts = edges.center, edges.neighbor, edges.shifts
    assert shifts is not None
    # Of an atom's own images the one whose shift has its first nonzero component above
    # zero comes first.
    x, y, z = shifts.unbind(1)
    own = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    is_first = (center < neighbor) | ((center == neighbor) & own)
    first = is_first.nonzero().squeeze(1)
    i, j, shift = (part.index_select(0, first) for part in (center, neighbor, shifts))
    if 2 * len(i) != len(center):
        raise ValueError("some edges lack their reverse: take a full neighbor list")
    pairs = torch.cat([i, j]), torch.cat([j, i]), torch.cat([shift, -shift])
    return Edges(*pairs, layout="paired")

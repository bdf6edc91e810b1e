"""Edges of a set of atoms: all pairs, or neighbours within a cutoff.

An edge goes from a neighbour j to a centre i and carries the vector x_j - x_i + shift,
where the shift is a lattice vector.  Edges are sorted by centre, unless ``in_pairs``
has put them in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def all_pairs(
    n_atoms: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return centre and neighbour [n_atoms (n_atoms - 1)] of every ordered pair."""
    index = torch.arange(n_atoms, device=device)
    centre = index.repeat_interleave(max(n_atoms - 1, 0))
    neighbour = index.repeat(n_atoms, 1)[~torch.eye(n_atoms, dtype=torch.bool)]
    return centre, neighbour


def neighbour_pairs(
    positions: Tensor, cutoff: float, cell: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edges within a cutoff, found by vesin's cell list.

    A box smaller than twice the cutoff gives an atom several images of a neighbour, and
    of itself, as it should.

    Args:
        positions: Positions [n_atoms, 3], A.
        cutoff: Largest distance, A.
        cell: Lattice vectors as rows [3, 3], A; None without a box.

    Returns:
        centre [n_edges], neighbour [n_edges], shifts [n_edges, 3] in A.
    """
    from vesin_torch import NeighborList

    box = torch.zeros(3, 3, dtype=torch.float64) if cell is None else cell
    centre, neighbour, shifts = NeighborList(
        cutoff, full_list=True, sorted=True
    ).compute(
        points=positions.detach().to(torch.float64),
        box=box.to(torch.float64).to(positions.device),
        periodic=cell is not None,
        quantities="ijS",
    )
    lattice = shifts.to(torch.float64) @ box.to(torch.float64).to(positions.device)
    return centre, neighbour, lattice.to(positions.dtype)


def in_pairs(
    centre: Tensor, neighbour: Tensor, shifts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return edges so that the second half are those of the first half, reversed.

    What depends on the distance alone is then computed for one half.

    Args:
        centre: Atom i of each edge [n_edges].
        neighbour: Atom j of each edge [n_edges]; every edge has its reverse.
        shifts: Lattice vector of each edge [n_edges, 3].

    Raises:
        ValueError: There are not as many edges of one direction as of the other.
    """
    # Of an atom's own images the one whose shift has its first nonzero component above
    # zero comes first.
    x, y, z = shifts.unbind(1)
    own = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    is_first = (centre < neighbour) | ((centre == neighbour) & own)
    first = is_first.nonzero().squeeze(1)
    i, j, shift = (part.index_select(0, first) for part in (centre, neighbour, shifts))
    if 2 * len(i) != len(centre):
        raise ValueError("some edges lack their reverse: take a full neighbour list")
    return torch.cat([i, j]), torch.cat([j, i]), torch.cat([shift, -shift])

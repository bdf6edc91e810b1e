"""Neighbor lists against ASE's, over systems that neighbor lists get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list

from openmm_se3.neighbors import Edges, all_pairs, in_pairs, neighbor_pairs


def random_atoms(n_atoms: int, cell: object = None, seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    if cell is None:
        return Atoms(f"H{n_atoms}", positions=5.0 * rng.normal(size=(n_atoms, 3)))
    return Atoms(
        f"H{n_atoms}",
        scaled_positions=rng.uniform(size=(n_atoms, 3)),
        cell=cell,
        pbc=True,
    )


def outside_of_box() -> Atoms:
    atoms = random_atoms(12, [6.0, 7.0, 8.0])
    shifts = np.random.default_rng(1).integers(-5, 6, size=(12, 3))
    atoms.positions += shifts @ atoms.cell.array
    return atoms


TRICLINIC = [[9.0, 0.0, 0.0], [3.0, 8.0, 0.0], [-2.0, 3.5, 7.0]]
SYSTEMS: dict[str, Atoms] = {
    "free": random_atoms(40),
    "free, one atom": Atoms("H", positions=[[1.0, 2.0, 3.0]]),
    "free, no neighbors": Atoms("H3", positions=[[0, 0, 0], [50, 0, 0], [0, 50, 0]]),
    "free, far from the origin": Atoms("H2", positions=[[1e4, 0, 0], [1e4, 1.0, 0]]),
    "cubic": random_atoms(60, [13.0, 13.0, 13.0]),
    "triclinic": random_atoms(30, TRICLINIC),
    "long and thin": random_atoms(20, [3.0, 3.0, 40.0]),
    "tiny, several images": random_atoms(3, [2.5, 2.0, 2.2]),
    "tiny and triclinic": random_atoms(2, [[3.0, 0, 0], [1.4, 2.5, 0], [-1.4, 1.2, 2]]),
    "periodic, one atom, its own images": random_atoms(1, [3.0, 3.9, 5.0]),
    "periodic, one atom, no neighbors": random_atoms(1, [20.0, 20.0, 20.0]),
    "outside of the box": outside_of_box(),
}


def edges_of(
    center: np.ndarray, neighbor: np.ndarray, vectors: np.ndarray
) -> list[tuple[float, ...]]:
    rounded = np.round(vectors, 6) + 0.0
    return sorted(
        (int(i), int(j), *v)
        for i, j, v in zip(center, neighbor, rounded.tolist(), strict=True)
    )


@pytest.mark.parametrize("cutoff", [1.1, 4.0, 6.5])
@pytest.mark.parametrize("name", SYSTEMS)
def test_same_edges_as_ase(name: str, cutoff: float) -> None:
    atoms = SYSTEMS[name]
    positions = torch.tensor(atoms.positions)
    cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    center, neighbor, shifts, _ = neighbor_pairs(positions, cutoff, cell)
    vectors = positions[neighbor] - positions[center] + shifts
    i, j, d = neighbor_list("ijD", atoms, cutoff)
    assert edges_of(center.numpy(), neighbor.numpy(), vectors.numpy()) == edges_of(
        i, j, d
    )
    assert (center.diff() >= 0).all(), "not sorted by center"


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_second_half_is_the_first_reversed(name: str) -> None:
    atoms = SYSTEMS[name]
    positions = torch.tensor(atoms.positions)
    cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    edges = neighbor_pairs(positions, 4.0, cell)
    order = torch.randperm(len(edges.center))
    shuffled = Edges(*(part[order] for part in edges[:3]))
    center, neighbor, shifts, layout = in_pairs(shuffled)
    assert layout == "paired"
    half = len(center) // 2
    assert torch.equal(center[:half], neighbor[half:])
    assert torch.equal(neighbor[:half], center[half:])
    assert torch.equal(shifts[:half], -shifts[half:])

    def listed(i: torch.Tensor, j: torch.Tensor, s: torch.Tensor) -> list[Any]:
        vectors = positions[j] - positions[i] + s
        return edges_of(i.numpy(), j.numpy(), vectors.numpy())

    assert listed(center, neighbor, shifts) == listed(*edges[:3])


def test_an_edge_without_its_reverse_is_refused() -> None:
    edges = neighbor_pairs(torch.eye(3).double(), 4.0)
    with pytest.raises(ValueError, match="lack their reverse"):
        in_pairs(Edges(*(part[1:] for part in edges[:3])))


def test_the_zoo_has_the_cases_it_names() -> None:
    counts = {
        name: len(neighbor_list("i", atoms, 4.0)) / len(atoms)
        for name, atoms in SYSTEMS.items()
    }
    assert counts["tiny, several images"] > 3 * 5
    assert counts["periodic, one atom, its own images"] == 4
    assert counts["free, no neighbors"] == counts["free, one atom"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_keep_their_precision(dtype: torch.dtype) -> None:
    positions = torch.tensor(SYSTEMS["triclinic"].positions).to(dtype)
    cell = torch.tensor(SYSTEMS["triclinic"].cell.array)
    shifts = neighbor_pairs(positions.requires_grad_(), 4.0, cell).shifts
    assert shifts.dtype == dtype
    assert not shifts.requires_grad


@pytest.mark.parametrize("n_atoms", [0, 1, 2, 5])
def test_all_pairs(n_atoms: int) -> None:
    center, neighbor, shifts, layout = all_pairs(n_atoms)
    assert shifts is None and layout == ("dense" if n_atoms > 1 else "list")
    expected = [(i, j) for i in range(n_atoms) for j in range(n_atoms) if i != j]
    assert list(zip(center.tolist(), neighbor.tolist(), strict=True)) == expected

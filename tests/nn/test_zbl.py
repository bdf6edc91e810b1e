"""The repulsion of atoms that touch."""

from __future__ import annotations

import math

import pytest
import torch
from random_model import random_network
from torch import Tensor

from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.nn.zbl import ZBLRepulsion


def pair_energy(
    model: SE3Transformer | ZBLRepulsion, pair: str, distance: Tensor
) -> Tensor:
    """Return the energies of two atoms at some distances, eV."""
    species = torch.tensor(["HO".index(symbol) for symbol in pair])
    n = len(distance)
    vectors = torch.zeros(2 * n, 3).double()
    vectors[:, 0] = torch.cat([distance, -distance])
    first = 2 * torch.arange(n)
    edges = Edges(torch.cat([first, first + 1]), torch.cat([first + 1, first]))
    if isinstance(model, ZBLRepulsion):
        pairs = model(species.repeat(n), vectors.norm(dim=1), edges)
        return pairs.view(2, n).sum(0)
    atomic, _ = model(species.repeat(n), vectors, edges)
    return atomic.view(n, 2).sum(1)


@pytest.mark.parametrize(
    ("pair", "bond"), [("OH", 0.9), ("HO", 0.9), ("HH", 1.4), ("OO", 1.4)]
)
def test_the_wall_is_nothing_at_bonds_and_repels_below(pair: str, bond: float) -> None:
    wall = ZBLRepulsion(("H", "O")).double()
    outside = torch.linspace(bond, 6.0, 50).double()
    assert pair_energy(wall, pair, outside).eq(0.0).all()
    inside = torch.linspace(0.02, 0.45, 100).double()
    energies = pair_energy(wall, pair, inside)
    assert energies.diff().max() < 0.0
    assert energies[-1] > 1e-3
    assert energies[0] > 100.0


def test_the_wall_of_the_network() -> None:
    wall = ZBLRepulsion(("H", "O")).double()
    with_wall, without = random_network(), random_network(zbl=False)
    for pair in ("OH", "HH", "OO"):
        distances = torch.linspace(0.2, 3.0, 40).double()
        difference = pair_energy(with_wall, pair, distances) - pair_energy(
            without, pair, distances
        )
        expected = pair_energy(wall, pair, distances)
        torch.testing.assert_close(difference, expected, rtol=1e-10, atol=1e-10)


def test_the_wall_is_zbl() -> None:
    """One pair, from the formula as published."""
    r, length = 0.3, 0.46850 / (8**0.23 + 1.0)  # A; of O and H
    terms = (
        (0.18175, 3.19980),
        (0.50986, 0.94229),
        (0.28022, 0.40290),
        (0.02817, 0.20162),
    )
    screened = sum(a * math.exp(-b * r / length) for a, b in terms)
    switch = (1.0 - (r / (0.8 * (0.66 + 0.31))) ** 4) ** 3
    expected = 8.0 * 14.39964548 / r * screened * switch
    wall = ZBLRepulsion(("H", "O")).double()
    energy = pair_energy(wall, "OH", torch.tensor([r], dtype=torch.float64))
    assert energy.item() == pytest.approx(expected, rel=1e-9)

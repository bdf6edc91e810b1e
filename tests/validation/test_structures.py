"""Structures that the checks use."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from random_model import WATER
from wrong_potentials import ELEMENTS

from openmm_se3.elements import numbers_of
from openmm_se3.validation.check import Check
from openmm_se3.validation.structures import (
    Structure,
    pair_in_contact,
    random_cluster,
    reference_structure,
    smallest_molecule,
    structure_from_file,
)


@pytest.mark.parametrize(
    ("measured", "low", "high", "status"),
    [
        (1.0, None, 2.0, "pass"),
        (2.0, None, 2.0, "pass"),
        (2.1, None, 2.0, "fail"),
        (2.9, 3.0, 5.0, "fail"),
        (4.0, 3.0, 5.0, "pass"),
        (0.0, None, None, "pass"),
        (math.nan, None, 1.0, "fail"),
        (math.nan, None, None, "fail"),
        (math.inf, 1.0, None, "fail"),
        (None, None, 1.0, "not run"),
    ],
)
def test_limits_of_a_check(
    measured: float | None, low: float | None, high: float | None, status: str
) -> None:
    check = Check("group", "name", measured, "A", low, high)
    assert check.status == status
    # JSON has neither NaN nor infinity.
    json.dumps(check.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "elements", [("H", "O"), ("Cu",), ("H", "C", "N", "O", "F", "S", "Cl", "Si", "I")]
)
def test_random_clusters_hold_every_element_without_overlaps(
    elements: tuple[str, ...],
) -> None:
    structure = random_cluster(elements, np.random.default_rng(1))
    assert set(structure.numbers) == set(numbers_of(elements))
    assert len(structure.numbers) >= 8
    distances = np.linalg.norm(
        structure.positions[:, None] - structure.positions[None, :], axis=-1
    )
    assert distances[np.triu_indices(len(distances), 1)].min() > 0.7
    assert len(np.unique(distances.round(6))) > len(distances)  # no symmetry


def test_a_small_molecule_is_doubled() -> None:
    reference = {"symbols": ["O", "H", "H"], "positions": WATER.tolist()}
    molecule = reference_structure(reference)
    assert smallest_molecule(molecule).name == "H2O"
    pair = pair_in_contact(molecule, np.random.default_rng(0))
    assert pair.name == "two H2O"
    assert pair.numbers.tolist() == [8, 1, 1, 8, 1, 1]
    gaps = np.linalg.norm(pair.positions[:3, None] - pair.positions[3:], axis=-1)
    assert 1.9 <= gaps.min() < 2.0


def test_of_a_cluster_one_or_two_molecules_are_taken() -> None:
    offsets = ((0.0, 0.0), (2.7, 0.0), (2.7, 3.4))
    waters = [WATER + np.array([x, 0.0, z]) for x, z in offsets]
    order = [0, 3, 6, 1, 2, 4, 5, 7, 8]  # oxygens first
    positions = np.concatenate(waters)[order]
    cluster = Structure("cluster", np.repeat([8, 1], [3, 6]), positions)
    pair = pair_in_contact(cluster, np.random.default_rng(0))
    assert pair.name == "H4O2"
    assert sorted(pair.numbers.tolist()) == [1, 1, 1, 1, 8, 8]
    assert pair.positions[:, 2].max() == 0.0  # the first two
    molecule = smallest_molecule(cluster)
    assert molecule.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(molecule.positions, waters[0])


def test_a_large_molecule_is_taken_as_it_is() -> None:
    positions = np.arange(10)[:, None] * np.array([1.4, 0.0, 0.0])
    rng = np.random.default_rng(0)
    chain = Structure("chain", np.full(10, 6), positions)
    for found in (smallest_molecule(chain), pair_in_contact(chain, rng)):
        np.testing.assert_array_equal(found.positions, positions)


def test_atoms_without_bonds_stay_together() -> None:
    positions = np.arange(4)[:, None] * np.array([3.8, 0.0, 0.0])
    argon = Structure("Ar4", np.full(4, 18), positions)
    assert smallest_molecule(argon) is argon
    assert pair_in_contact(argon, np.random.default_rng(0)).name == "Ar2"


def test_structure_files(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    assert structure_from_file(path, ELEMENTS).numbers.tolist() == [8, 1, 1]
    with pytest.raises(ValueError, match="the model knows H, C"):
        structure_from_file(path, ("H", "C"))
    with pytest.raises(FileNotFoundError, match=r"none\.xyz"):
        structure_from_file(tmp_path / "none.xyz", ELEMENTS)
    path.write_text("three atoms\n")
    with pytest.raises(ValueError, match="cannot be read"):
        structure_from_file(path, ELEMENTS)

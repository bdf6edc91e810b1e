"""Geometry of structures whose lengths and angles are known."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import ETHANOL, WATER, ethanol, recording, shifted, turned

from openmm_se3.analysis import (
    cluster,
    conformations,
    geometry,
)


def test_geometry_of_known_structures() -> None:
    found = geometry(recording(shifted((0, 0, 0), (3, 0, 0))[None]).trajectory)
    assert found is not None
    assert set(found.lengths) == {"O-H"} and set(found.angles) == {"H-O-H"}
    assert found.lengths["O-H"].shape == (1, 4) and not found.torsions
    assert np.abs(found.lengths["O-H"] - 0.9572).max() < 1e-6
    assert np.abs(found.angles["H-O-H"] - 104.52).max() < 1e-3


def hydrogen_bonded(distance: float, tilt: float) -> np.ndarray:
    """Return a dimer: O-O distance (A), angle between O-H and O-O (degrees)."""
    bond = WATER[1] / np.linalg.norm(WATER[1])
    across = np.array([0.0, 1.0, 0.0])  # out of the donor's plane
    angle = np.radians(tilt)
    direction = np.cos(angle) * bond + np.sin(angle) * across
    return np.concatenate([WATER, WATER + distance * direction])


@pytest.mark.parametrize(
    ("distance", "tilt", "bonds"),
    [(2.9, 0.0, 1), (2.9, 25.0, 1), (2.9, 35.0, 0), (3.45, 0.0, 1), (3.6, 0.0, 0)],
)
def test_hydrogen_bond_criterion(distance: float, tilt: float, bonds: int) -> None:
    dimer = hydrogen_bonded(distance, tilt)
    # By either hydrogen, and whichever molecule is the first.
    orders = ([0, 1, 2, 3, 4, 5], [0, 2, 1, 3, 4, 5], [3, 4, 5, 0, 1, 2])
    found = cluster(recording(dimer[np.array(orders)]).trajectory)
    assert found is not None
    assert found.bonds.tolist() == [bonds] * 3
    assert found.oo[0, 0] == pytest.approx(distance, abs=1e-5)
    assert found.nearest[0].tolist() == pytest.approx([distance] * 2, abs=1e-5)


def test_one_molecule_has_no_hydrogen_bonds() -> None:
    assert cluster(recording(WATER[None]).trajectory) is None


def test_geometry_of_any_molecule_by_type() -> None:
    found = geometry(ethanol(np.stack([ETHANOL, turned(120.0)])).trajectory)
    assert found is not None
    lengths = {name: values.shape for name, values in found.lengths.items()}
    assert lengths == {"C-C": (2, 1), "C-H": (2, 5), "C-O": (2, 1), "O-H": (2, 1)}
    assert found.lengths["C-C"][0, 0] == pytest.approx(
        np.linalg.norm(ETHANOL[0] - ETHANOL[1]), abs=1e-5
    )
    angles = {name: values.shape[1] for name, values in found.angles.items()}
    assert angles == {"C-C-H": 5, "C-C-O": 1, "H-C-H": 4, "O-C-H": 2, "C-O-H": 1}
    assert set(found.torsions) == {"C-C-O-H", "O-C-C-H"}
    assert found.torsions["C-C-O-H"][:, 0] == pytest.approx([59.8, 179.8], abs=0.1)


def test_conformations_are_shares() -> None:
    values = np.array([[-179.0, 180.0, -65.0, 61.0], [29.0, -120.0, np.nan, 60.0]])
    found = conformations(values)
    assert found == {
        "syn": pytest.approx(1 / 7),
        "gauche": pytest.approx(3 / 7),
        "anticlinal": pytest.approx(1 / 7),
        "trans": pytest.approx(2 / 7),
    }

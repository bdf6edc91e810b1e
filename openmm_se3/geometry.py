"""Geometry of periodic boxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from openmm import app, unit
from scipy.spatial import cKDTree

from openmm_se3.elements import COVALENT_RADII, chemical_symbol
from openmm_se3.molecules import molecule_labels
from openmm_se3.neighbors import neighbor_pairs


def box_of(topology: app.Topology) -> np.ndarray | None:
    """Return the box vectors of a topology as rows [3, 3], A; None without a box."""
    vectors = topology.getPeriodicBoxVectors()
    return None if vectors is None else rows_of(vectors)


def rows_of(vectors: Iterable[unit.Quantity]) -> np.ndarray:
    """Return OpenMM's box vectors as rows [3, 3], A."""
    return np.array([vector.value_in_unit(unit.angstrom) for vector in vectors])


def minimum_image(vectors: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Return vectors to the nearest image; as they are without a box.

    Right for vectors shorter than a quarter of the box, such as bonds; of longer ones
    in a slanted box another image may be nearer.

    Args:
        vectors: Differences of positions [..., 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
    """
    if box is None:
        return vectors
    nearest: np.ndarray = vectors - np.round(vectors @ np.linalg.inv(box)) @ box
    return nearest


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a proper rotation [3, 3], uniform over SO(3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def in_angstrom(values: Any) -> np.ndarray:
    """Return lengths in A, as floats, from numbers in A or from a Quantity."""
    if unit.is_quantity(values):
        values = values.value_in_unit(unit.angstrom)
    return np.asarray(values, dtype=float)


LEAST_CONTACT = 0.5  # of the sum of covalent radii; a bond is at 1
LEAST_BETWEEN = 1.2  # the same of atoms of two molecules, which have no bond
# Elements that this holds for: metals come as near without a bond in the topology.
NONMETALS = frozenset(("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"))
PERIODIC_SEARCH = 2.5  # A; a list of many tiny cells would take longer


def closest_contact(
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None,
    least: float = LEAST_CONTACT,
    molecules: np.ndarray | None = None,
    between: float = LEAST_BETWEEN,
) -> tuple[int, int, float, float] | None:
    """Return the pair that is too near by most; None if no two atoms are too near.

    Args:
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
        least: Allowed distance, in units of the sum of covalent radii.
        molecules: Molecule of each atom [n_atoms], as :func:`molecules_of` gives it.
            None makes no difference between atoms of one and of two.
        between: Allowed distance of atoms of two molecules, in the same units.

    Returns:
        The two atoms, which are the same if it is an atom and its own image, their
        distance, A, and the least that is allowed, A.
    """
    radii = np.array([COVALENT_RADII.get(s, 0.0) for s in symbols])
    farthest = least if molecules is None else max(least, between)
    cutoff = 2.0 * farthest * float(radii.max())
    if box is None:
        pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
        (first, second), shifts = pairs.T, np.zeros(3)
    else:
        x, cell = (torch.from_numpy(np.array(a, dtype=float)) for a in (positions, box))
        edges = neighbor_pairs(x, max(cutoff, PERIODIC_SEARCH), cell)
        assert edges.shifts is not None
        first, second = edges.center.numpy(), edges.neighbor.numpy()
        shifts = edges.shifts.numpy()
    distances = np.linalg.norm(positions[second] - positions[first] + shifts, axis=1)
    limits = least * (radii[first] + radii[second])
    if molecules is not None:
        one, other = molecules[first], molecules[second]
        apart = (one != other) & (one >= 0) & (other >= 0)
        limits[apart] *= between / least
    if not (distances < limits).any():
        return None
    worst = int(np.argmin(distances / limits))
    return (
        int(first[worst]),
        int(second[worst]),
        float(distances[worst]),
        float(limits[worst]),
    )


def molecules_of(topology: app.Topology) -> np.ndarray:
    """Return a number for the molecule of each atom [n_atoms].

    It is -1 for atoms without a bond and for metals, whose neighbors are not known.
    """
    pairs = [(first.index, second.index) for first, second in topology.bonds()]
    labels = molecule_labels(topology.getNumAtoms(), np.array(pairs))
    known = np.zeros(len(labels), dtype=bool)
    known[[index for pair in pairs for index in pair]] = True
    for atom in topology.atoms():
        known[atom.index] &= atom.element is not None and (
            chemical_symbol(atom.element) in NONMETALS
        )
    return np.where(known, labels, -1)

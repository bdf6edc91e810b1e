"""Molecules: found by bonds, and kept in a System whose forces have none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openmm
from openmm import app
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NAME = "SE3Potential molecules"  # of the force that holds the bonds


def molecule_labels(n_atoms: int, bonds: np.ndarray) -> np.ndarray:
    """Return the number of each atom's molecule [n_atoms], in the order of first atoms.

    Args:
        n_atoms: Number of atoms.
        bonds: Pairs of bonded atoms [n_bonds, 2].
    """
    first, second = np.asarray(bonds, dtype=int).reshape(-1, 2).T
    shape = (n_atoms, n_atoms)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=shape)
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels


def molecules_by_bonds(n_atoms: int, bonds: np.ndarray) -> list[np.ndarray]:
    """Return the atoms of each molecule; arguments as for :func:`molecule_labels`."""
    labels = molecule_labels(n_atoms, bonds)
    return [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]


def keep_molecules(
    system: openmm.System,
    topology: app.Topology,
    atoms: Iterable[int] | None = None,
    group: int = 0,
) -> None:
    """Add the topology's bonds, without strength, by which OpenMM finds molecules.

    Args:
        system: The System; changed in place.
        topology: Its topology.
        atoms: Only bonds between these are added; None for all.
        group: Force group.
    """
    members = None if atoms is None else set(atoms)
    molecules = openmm.HarmonicBondForce()
    for bond in topology.bonds():
        first, second = (atom.index for atom in bond)
        if members is None or {first, second} <= members:
            molecules.addBond(first, second, 0.0, 0.0)
    if molecules.getNumBonds():
        molecules.setName(NAME)
        molecules.setForceGroup(group)
        system.addForce(molecules)

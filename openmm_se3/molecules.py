"""Molecules: found by bonds or distance, and kept in a System without bonds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import openmm
import torch
from openmm import app
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from openmm_se3.elements import COVALENT_RADII
from openmm_se3.neighbors import neighbor_pairs

BOND = 1.3  # longest bond, of the sum of covalent radii; hydrogen bonds are at 1.8
LEAST_SEARCH = 2.5  # A
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
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def bonds_by_distance(
    symbols: Sequence[str], positions: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
    """Return pairs of atoms as near as bonded ones [n_bonds, 2].

    Args:
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
    """
    radii = np.array([COVALENT_RADII[symbol] for symbol in symbols])
    cutoff = 2.0 * BOND * float(radii.max())
    if box is None:
        pairs = cKDTree(positions).query_pairs(cutoff, output_type="ndarray")
        first, second = pairs.T
        vectors = positions[second] - positions[first]
    else:
        # The list has images too; many tiny cells would take longer.
        x, cell = (torch.from_numpy(np.array(a, dtype=float)) for a in (positions, box))
        edges = neighbor_pairs(x, max(cutoff, LEAST_SEARCH), cell)
        assert edges.shifts is not None
        first, second = edges.center.numpy(), edges.neighbor.numpy()
        shifts = edges.shifts.numpy()
        vectors = positions[second] - positions[first] + shifts
    near = np.linalg.norm(vectors, axis=1) < BOND * (radii[first] + radii[second])
    bonds = np.stack([first[near], second[near]], axis=1).astype(int)
    return np.unique(bonds[bonds[:, 0] < bonds[:, 1]], axis=0)


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

"""Trajectories with positions that are known, and files of them."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np
from analytic_water import water_positions
from openmm import app

from openmm_se3.analysis import (
    Recording,
)
from openmm_se3.simulation import (
    water_topology,
)

WATER = water_positions(1)  # O-H 0.9572 A, 104.52 degrees


def shifted(*offsets: tuple[float, float, float]) -> np.ndarray:
    """Return copies of one molecule at some places [n_atoms, 3], A."""
    return np.concatenate([WATER + np.array(offset) for offset in offsets])


def recording(frames: np.ndarray, reference: np.ndarray | None = None) -> Recording:
    """Return frames [n_frames, n_atoms, 3], A, 2 fs apart, as a recording."""
    topology = mdtraj.Topology.from_openmm(water_topology(frames.shape[1] // 3))
    return Recording(
        trajectory=mdtraj.Trajectory(frames / 10.0, topology),
        reference=frames[0] if reference is None else reference,
        times=0.002 * np.arange(1, len(frames) + 1),
        velocities=None,
        log={},
        run={},
        missing=(),
    )


# C-C-O and their hydrogens, A.
ETHANOL = np.array(
    [
        [0.901, -0.075, 0.014],
        [-0.584, -0.368, 0.056],
        [-1.306, 0.822, 0.34],
        [1.237, 0.351, 0.966],
        [1.128, 0.663, -0.762],
        [1.472, -0.985, -0.187],
        [-0.809, -1.098, 0.839],
        [-0.932, -0.77, -0.9],
        [-1.107, 1.461, -0.366],
    ]
)

ETHANOL_BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]


def ethanol_topology(n_molecules: int) -> app.Topology:
    """Return a topology of ethanol with its bonds."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n_molecules):
        residue = topology.addResidue("EOH", chain)
        atoms = [
            topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
            for i, symbol in enumerate("CCOHHHHHH")
        ]
        for i, j in ETHANOL_BONDS:
            topology.addBond(atoms[i], atoms[j])
    return topology


def ethanol(frames: np.ndarray, reference: np.ndarray = ETHANOL) -> Recording:
    """Return frames [n_frames, 9 n_molecules, 3], A, of ethanol as a recording."""
    topology = mdtraj.Topology.from_openmm(ethanol_topology(frames.shape[1] // 9))
    trajectory = mdtraj.Trajectory(frames / 10.0, topology)
    empty = recording(WATER[None])
    return dataclasses.replace(
        empty, trajectory=trajectory, reference=reference, times=None
    )


def turned(angle: float) -> np.ndarray:
    """Return ethanol with its hydroxyl hydrogen turned about C-O by degrees."""
    axis = ETHANOL[2] - ETHANOL[1]
    axis = axis / np.linalg.norm(axis)
    x, phi = ETHANOL[8] - ETHANOL[2], np.radians(angle)
    x = (
        x * np.cos(phi)
        + np.cross(axis, x) * np.sin(phi)
        + axis * (axis @ x) * (1.0 - np.cos(phi))
    )
    return np.concatenate([ETHANOL[:8], [ETHANOL[2] + x]])


def still(n_frames: int, *offsets: tuple[float, float, float]) -> np.ndarray:
    return np.repeat(shifted(*offsets)[None], n_frames, axis=0)

"""Bond lengths and angles of water molecules."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np

from openmm_se3.elements import chemical_symbol
from openmm_se3.units import NM_TO_ANGSTROM


@dataclasses.dataclass(frozen=True)
class WaterGeometry:
    """Internal coordinates of every water molecule in every frame.

    Attributes:
        lengths: O-H lengths [n_frames, n_molecules, 2], A.
        angles: H-O-H angles [n_frames, n_molecules], degrees.
    """

    lengths: np.ndarray
    angles: np.ndarray


def water_molecules(topology: mdtraj.Topology) -> np.ndarray:
    """Return the atoms O, H, H of every water molecule [n_molecules, 3]."""
    molecules = []
    for residue in topology.residues:
        atoms = sorted(
            residue.atoms,
            key=lambda atom: (chemical_symbol(atom.element) != "O", atom.index),
        )
        if [chemical_symbol(atom.element) for atom in atoms] == ["O", "H", "H"]:
            molecules.append([atom.index for atom in atoms])
    return np.array(molecules, dtype=int).reshape(-1, 3)


def bonds(topology: mdtraj.Topology) -> np.ndarray:
    """Return the bonds [n_bonds, 2]: those of the topology, and O-H in water."""
    pairs = {tuple(sorted((a.index, b.index))) for a, b in topology.bonds}
    for oxygen, *hydrogens in water_molecules(topology):
        pairs |= {tuple(sorted((int(oxygen), int(h)))) for h in hydrogens}
    return np.array(sorted(pairs), dtype=int).reshape(-1, 2)


def distances(trajectory: mdtraj.Trajectory, pairs: np.ndarray) -> np.ndarray:
    """Return distances [n_frames, n_pairs], A; nearest images if there is a box."""
    nm = mdtraj.compute_distances(trajectory, pairs, periodic=has_box(trajectory))
    return np.asarray(nm, float) * NM_TO_ANGSTROM


def angles(trajectory: mdtraj.Trajectory, triplets: np.ndarray) -> np.ndarray:
    """Return angles [n_frames, n_triplets], degrees, at the middle atoms."""
    radians = mdtraj.compute_angles(trajectory, triplets, periodic=has_box(trajectory))
    return np.degrees(np.asarray(radians, float))


def has_box(trajectory: mdtraj.Trajectory) -> bool:
    """Tell whether a trajectory is periodic."""
    return trajectory.unitcell_lengths is not None


def water_geometry(trajectory: mdtraj.Trajectory) -> WaterGeometry | None:
    """Return the geometry of all water molecules, or None if there is none."""
    waters = water_molecules(trajectory.topology)
    if len(waters) == 0 or trajectory.n_frames == 0:
        return None
    pairs = waters[:, [0, 1, 0, 2]].reshape(-1, 2)
    return WaterGeometry(
        lengths=distances(trajectory, pairs).reshape(-1, len(waters), 2),
        angles=angles(trajectory, waters[:, [1, 0, 2]]),
    )

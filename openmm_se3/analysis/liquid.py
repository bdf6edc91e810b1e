"""Density and pair distributions of a periodic trajectory."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np

from openmm_se3.analysis.geometry import has_box, water_molecules
from openmm_se3.units import (
    ANGSTROM_TO_NM,
    DALTON_PER_NM3_TO_G_PER_CM3,
    NM_TO_ANGSTROM,
)

PAIRS = (("O", "O"), ("O", "H"), ("H", "H"))
BIN = 0.05  # A, of distances
UNCHANGED = 1e-5  # of a density, by the rounding of trajectories
MAX_DISTANCES = 20_000_000  # looked at for one pair of elements; bounds the memory


@dataclasses.dataclass(frozen=True)
class Liquid:
    """What a box is filled with.

    Attributes:
        density: Density of each frame [n_frames], g/cm^3.
        r: Distances [n_bins], A; none beyond half the box.
        g: Pair distribution at these distances [n_bins], by pair of elements, such as
            "O-O"; with the atoms of one molecule, and of water only.
    """

    density: np.ndarray
    r: np.ndarray
    g: dict[str, np.ndarray]

    @property
    def changes(self) -> bool:
        """Whether the volume of the box changes."""
        return bool(np.ptp(self.density) > UNCHANGED * self.density.mean())


def liquid(trajectory: mdtraj.Trajectory) -> Liquid | None:
    """Return density and pair distributions, or None without a box or frames."""
    if not has_box(trajectory) or trajectory.n_frames == 0:
        return None
    bins = int(0.5 * narrowest(trajectory) / BIN)
    r, g = np.array([]), {}
    waters = water_molecules(trajectory.topology)
    if len(waters) > 1 and bins > 0:
        for pair in PAIRS:
            r, g["-".join(pair)] = _of_elements(trajectory, waters, pair, bins)
    return Liquid(density=density(trajectory), r=r, g=g)


def density(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Return the density of each frame of a periodic trajectory [n_frames], g/cm^3."""
    mass = sum(atom.element.mass for atom in trajectory.topology.atoms)
    volume = np.abs(np.linalg.det(trajectory.unitcell_vectors))  # nm^3
    return np.asarray(DALTON_PER_NM3_TO_G_PER_CM3 * mass / volume)


def narrowest(trajectory: mdtraj.Trajectory) -> float:
    """Return the least width of the box, between opposite faces, of all frames, A."""
    vectors = np.asarray(trajectory.unitcell_vectors, float)
    # The rows of the inverse's transpose are normal to the faces.
    normals = np.linalg.norm(np.linalg.inv(vectors), axis=1)
    return NM_TO_ANGSTROM / float(normals.max())


def pair_distribution(
    trajectory: mdtraj.Trajectory,
    first: np.ndarray,
    second: np.ndarray,
    r_range: tuple[float, float],
    bins: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return r [bins], A, and g(r) [bins] of the pairs of two sets of atoms.

    Args:
        trajectory: Frames with a box.
        first: Atoms.
        second: Atoms; may be the same.
        r_range: First and last distance, A.
        bins: Number of bins between them.
    """
    low, high = (ANGSTROM_TO_NM * end for end in r_range)
    r, g = mdtraj.compute_rdf(
        trajectory,
        trajectory.topology.select_pairs(first, second),
        r_range=(low, high),
        n_bins=bins,
    )
    return NM_TO_ANGSTROM * np.asarray(r), np.asarray(g)


def _of_elements(
    trajectory: mdtraj.Trajectory,
    waters: np.ndarray,
    pair: tuple[str, str],
    bins: int,
) -> tuple[np.ndarray, np.ndarray]:
    atoms = {"O": waters[:, 0], "H": waters[:, 1:].ravel()}
    first, second = (atoms[name] for name in pair)
    stride = -(-trajectory.n_frames * len(first) * len(second) // MAX_DISTANCES)
    return pair_distribution(
        trajectory[::stride], first, second, (0.0, BIN * bins), bins
    )

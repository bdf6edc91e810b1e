"""O-O distances and hydrogen bonds between water molecules."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np

from openmm_se3.analysis.geometry import angles, distances, water_molecules

# Luzar and Chandler 1996, https://doi.org/10.1038/379055a0.
MAX_OO = 3.5  # A
MAX_ANGLE = 30.0  # degrees, between O-H and O-O at the donor
CRITERION = (
    f"Hydrogen bonds: O-O below {MAX_OO} Å and the angle H-O...O below {MAX_ANGLE:.0f} "
    "degrees (Luzar and Chandler 1996, https://doi.org/10.1038/379055a0)."
)
MAX_FRAMES = 2000  # frames 2 fs apart differ little; more would only cost memory
MAX_MOLECULES = 64  # pairs of all molecules are looked at


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How water molecules are held together.

    Attributes:
        frames: Which frames of the trajectory were looked at.
        oo: O-O distances [n_frames, n_pairs], A.
        nearest: Distance of each oxygen to the nearest other [n_frames, n_molecules],
            A.
        bonds: Number of hydrogen bonds [n_frames].
    """

    frames: np.ndarray
    oo: np.ndarray
    nearest: np.ndarray
    bonds: np.ndarray


def cluster(trajectory: mdtraj.Trajectory) -> Cluster | None:
    """Return O-O distances and hydrogen bonds, or None if there are none to count."""
    waters = water_molecules(trajectory.topology)
    count = len(waters)
    if not 2 <= count <= MAX_MOLECULES or trajectory.n_frames == 0:
        return None
    stride = max(1, trajectory.n_frames // MAX_FRAMES)
    frames = np.arange(0, trajectory.n_frames, stride)
    sampled = trajectory[::stride]
    first, second = np.triu_indices(count, k=1)
    oo = distances(sampled, np.stack([waters[first, 0], waters[second, 0]], axis=1))
    matrix = np.full((len(frames), count, count), np.inf)
    matrix[:, first, second] = matrix[:, second, first] = oo
    donor, acceptor = np.nonzero(~np.eye(count, dtype=bool))
    bonds = np.zeros(len(frames), dtype=int)
    for hydrogen in (1, 2):
        triplets = np.stack(
            [waters[donor, hydrogen], waters[donor, 0], waters[acceptor, 0]], axis=1
        )
        points = angles(sampled, triplets) < MAX_ANGLE
        bonds += (points & (matrix[:, donor, acceptor] < MAX_OO)).sum(axis=1)
    return Cluster(frames=frames, oo=oo, nearest=matrix.min(axis=2), bonds=bonds)

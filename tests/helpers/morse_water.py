"""A water molecule of Morse bonds and a harmonic angle, and its forces."""

from __future__ import annotations

import numpy as np

# A Morse bond and a harmonic angle close to water's.
DEPTH, STIFFNESS, LENGTH = 5.0, 2.3, 0.96  # eV, 1/A, A
ANGLE_STIFFNESS, ANGLE = 4.0, np.radians(104.0)  # eV/rad^2, rad


def water_force(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (eV/A) of O, H, H [3, 3]."""
    bonds = positions[1:] - positions[0]
    lengths = np.linalg.norm(bonds, axis=1)
    units = bonds / lengths[:, None]
    decay = np.exp(-STIFFNESS * (lengths - LENGTH))
    cosine = units[0] @ units[1]
    angle = np.arccos(cosine)
    energy = DEPTH * np.sum((1.0 - decay) ** 2)
    energy += 0.5 * ANGLE_STIFFNESS * (angle - ANGLE) ** 2

    slopes = 2.0 * DEPTH * STIFFNESS * (1.0 - decay) * decay
    bend = ANGLE_STIFFNESS * (angle - ANGLE) / np.sin(angle)
    forces = np.zeros((3, 3))
    for i, j in ((0, 1), (1, 0)):
        towards = (units[j] - cosine * units[i]) / lengths[i]
        forces[1 + i] = -slopes[i] * units[i] + bend * towards
    forces[0] = -forces[1] - forces[2]
    return float(energy), forces

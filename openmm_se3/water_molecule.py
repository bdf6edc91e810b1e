"""The water molecule: its geometries, and positions made from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class WaterShape(NamedTuple):
    """O-H length, A, and H-O-H angle, degrees."""

    oh_length: float
    hoh_angle: float


GAS_PHASE = WaterShape(0.9572, 104.52)  # experiment
DFT_MINIMUM = WaterShape(0.962, 103.6)  # near that of wB97X/6-31G(d)


def water_molecule(r1: float, r2: float, angle: float) -> np.ndarray:
    """Return positions O, H, H [3, 3], A, from O-H lengths (A) and the angle (deg)."""
    half = np.radians(angle) / 2.0
    return np.array(
        [
            [0.0, 0.0, 0.0],
            [r1 * np.sin(half), 0.0, r1 * np.cos(half)],
            [-r2 * np.sin(half), 0.0, r2 * np.cos(half)],
        ]
    )

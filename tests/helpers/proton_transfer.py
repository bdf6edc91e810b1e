"""A proton between two oxygens, as a potential whose barrier is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmm_se3.active_learning.committee import Atoms, Predicted
from openmm_se3.active_learning.structures import System
from openmm_se3.units import KCAL_PER_MOL_TO_EV

NUMBERS = np.array([8, 8, 1])
HALF = 0.5  # A, difference of the two distances at a minimum
SUM, STIFF = 2.6, 30.0  # A and eV/A^2, of the sum of the two distances
APART, BENT = 2.35, 0.4  # A and 1/A: oxygens come nearer in the middle


def minimum(side: float) -> np.ndarray:
    """Return a minimum [3, 3], A; ``side`` is 1 or -1."""
    apart = APART + BENT * HALF**2
    first, second = (SUM + side * HALF) / 2.0, (SUM - side * HALF) / 2.0
    x = (first**2 - second**2 + apart**2) / (2.0 * apart)
    return np.array([[0.0, 0, 0], [apart, 0, 0], [x, np.sqrt(first**2 - x**2), 0.0]])


def transfer(**changes: Any) -> System:
    """Return the system, its second minimum the product."""
    values: dict[str, Any] = {
        "name": "HO2",
        "numbers": NUMBERS,
        "bonds": np.array([[0, 2]]),
        "charge": 0,
        "minima": (minimum(-1.0), minimum(1.0)),
        "mol": None,
        "trajectory": "HO2",
        "names": ("O1", "O2", "H3"),
        "places": (1, 2, 3),
        "reaction": True,
        "changing": ((0, 2), (1, 2)),
    }
    return System(**{**values, **changes})


class ProtonTransfer:
    """A committee whose second member pulls the proton aside.

    Args:
        barrier: Barrier of the transfer, kcal/mol.
        pull: Force of the second member, eV/A.
    """

    def __init__(self, barrier: float, pull: float = 0.0) -> None:
        self.barrier, self.pull = barrier * KCAL_PER_MOL_TO_EV, pull

    def energy_and_forces(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the energy, eV, and the forces [3, 3], eV/A."""
        units, lengths = [], []
        for i, j in ((0, 2), (1, 2), (0, 1)):
            vector = x[j] - x[i]
            lengths.append(float(np.linalg.norm(vector)))
            units.append(vector / lengths[-1])
        first, second, apart = lengths
        s = first - second
        well = (s / HALF) ** 2 - 1.0
        stretch, gap = first + second - SUM, apart - APART - BENT * s**2
        energy = self.barrier * well**2 + 0.5 * STIFF * (stretch**2 + gap**2)
        by_s = 4.0 * self.barrier * well * s / HALF**2 - 2.0 * STIFF * gap * BENT * s
        slopes = by_s + STIFF * stretch, -by_s + STIFF * stretch, STIFF * gap
        forces = np.zeros((3, 3))
        for (i, j), unit, slope in zip(
            ((0, 2), (1, 2), (0, 1)), units, slopes, strict=True
        ):
            forces[i] += slope * unit
            forces[j] -= slope * unit
        return energy, forces

    def predict(self, atoms: Atoms, positions: np.ndarray) -> Predicted:
        """Return energies and forces of two members."""
        energies, forces = [], []
        for frame in positions.reshape(-1, 3, 3):
            energy, force = self.energy_and_forces(frame)
            energies.append(energy)
            forces.append(force)
        mean, aside = np.array(forces), np.zeros((len(forces), 3, 3))
        aside[:, 2, 2] = self.pull
        both = np.stack([mean + aside, mean - aside])
        return Predicted(np.stack([energies, energies]), both.reshape(2, -1, 3))

"""Water of springs, and a committee whose members are these springs."""

from __future__ import annotations

import numpy as np

from openmm_se3.active_learning.committee import Atoms, Predicted
from openmm_se3.active_learning.structures import System

WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
NUMBERS = np.array([8, 1, 1])
SPRING = 30.0  # eV/A^2


def water(**changes: object) -> System:
    """Return water as a system."""
    bonds = np.array([[0, 1], [0, 2]])
    values = {
        "name": "O",
        "numbers": NUMBERS,
        "bonds": bonds,
        "charge": 0,
        "minima": (WATER,),
        "mol": None,
        "trajectory": "water",
    }
    return System(**{**values, **changes})  # type: ignore[arg-type]


class Springs:
    """A committee of harmonic bonds, whose second member pulls one hydrogen aside.

    Args:
        pull: Force of the second member on it, eV/A.
    """

    self_energies = {1: -13.0, 8: -2000.0}

    def __init__(self, pull: float = 0.0) -> None:
        self.pull = pull

    def predict(self, atoms: Atoms, positions: np.ndarray) -> Predicted:
        """Return energies and forces of two members."""
        shape = (atoms.count, 3, 3)
        x = positions.reshape(shape)
        forces = np.zeros(shape)
        energy = np.zeros(atoms.count)
        for i, j, length in ((0, 1, 0.96), (0, 2, 0.96), (1, 2, 1.52)):
            vector = x[:, j] - x[:, i]
            distance = np.linalg.norm(vector, axis=1)
            energy += 0.5 * SPRING * (distance - length) ** 2
            pull = (SPRING * (distance - length) / distance)[:, None] * vector
            forces[:, i] += pull
            forces[:, j] -= pull
        aside = np.zeros(shape)
        aside[:, 2, 2] = self.pull
        both = np.stack([forces + aside, forces - aside])
        return Predicted(np.stack([energy, energy]), both.reshape(2, -1, 3))

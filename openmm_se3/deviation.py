"""How far the members of a committee deviate from their mean.

The deviation of the force on an atom is

    sigma_i = sqrt(< |F_i - <F_i>|^2 >)

where <> is the mean over the members, as the model deviation of DP-GEN (Y. Zhang et
al., Comput. Phys. Commun. 253, 107206 (2020), https://doi.org/10.1016/j.cpc.2020.107206).
It divides by the number of members, not by one less: with few members neither estimates
the error of the mean without a calibration, and numbers of both programs can be
compared.  The largest deviation of any atom is the uncertainty of a frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


def forces_deviation(forces: np.ndarray) -> np.ndarray:
    """Return the root of the mean over members of |F - mean F|^2 [n_atoms], eV/A.

    Args:
        forces: Forces of each member [n_members, n_atoms, 3], eV/A.
    """
    spread = forces - forces.mean(axis=0)
    return np.asarray(np.sqrt(np.square(spread).sum(axis=2).mean(axis=0)))


@dataclasses.dataclass(frozen=True)
class Deviation:
    """Results of a committee for one frame.

    Attributes:
        energy: Mean of the members' energies, eV.
        forces: Mean of their forces [n_atoms, 3], eV/A.
        energy_std: Deviation of the energies, eV.
        forces_std: Deviation of the force on each atom [n_atoms], eV/A.
    """

    energy: float
    forces: np.ndarray
    energy_std: float
    forces_std: np.ndarray

    @classmethod
    def of(
        cls, energies: Sequence[float], forces: Sequence[np.ndarray] | np.ndarray
    ) -> Deviation:
        """Return the deviation of members.

        Args:
            energies: Energy of each member [n_members], eV.
            forces: Forces of each member [n_members, n_atoms, 3], eV/A.
        """
        stacked = np.array(forces, dtype=float)
        return cls(
            float(np.mean(energies)),
            stacked.mean(axis=0),
            float(np.std(energies)),
            forces_deviation(stacked),
        )

    @property
    def largest(self) -> float:
        """Deviation of the force on the atom where it is largest, eV/A."""
        return float(self.forces_std.max())

    @property
    def atom(self) -> int:
        """Index of that atom."""
        return int(self.forces_std.argmax())

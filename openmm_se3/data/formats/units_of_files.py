"""Units of a file of labels: what its format has, or what the user says."""

from __future__ import annotations

import dataclasses

from openmm_se3.units import ENERGY_UNITS, FORCE_UNITS, LENGTH_UNITS


@dataclasses.dataclass(frozen=True)
class Units:
    """Factors from a file's units to ours: to eV, A and eV/A."""

    energy: float
    length: float
    force: float

    @classmethod
    def named(
        cls,
        energy: str = "eV",
        length: str = "angstrom",
        force: str | None = None,
    ) -> Units:
        """Return the factors of units by name; forces by default energy per length."""
        per_length = ENERGY_UNITS[energy] / LENGTH_UNITS[length]
        return cls(
            ENERGY_UNITS[energy],
            LENGTH_UNITS[length],
            per_length if force is None else FORCE_UNITS[force],
        )


EV_ANGSTROM = Units.named()

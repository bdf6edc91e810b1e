"""Units of a file of labels: what its format has, or what the user says."""

from __future__ import annotations

import dataclasses
import math
import re

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

# Other spellings in files, in lower case.
SPELLINGS = {
    "ha": "hartree",
    "hartrees": "hartree",
    "eh": "hartree",
    "electronvolt": "ev",
    "a": "angstrom",
    "å": "angstrom",
    "ångström": "angstrom",
    "angstroms": "angstrom",
    "bohrs": "bohr",
    "a0": "bohr",
    "nanometer": "nm",
}
SAME = 1e-4  # relative difference of one unit by two sets of constants


def unit_in_words(text: str) -> float | None:
    """Return the factor of a unit as a file spells it, to eV, A or eV/A.

    It is None for an unknown one.  A quotient may be written in powers, as in
    "kcal mol^-1 angstrom^-1".
    """
    known = {**ENERGY_UNITS, **LENGTH_UNITS, **FORCE_UNITS}
    factors = {name.lower(): factor for name, factor in known.items()}
    words = re.split(r"[\s/()·*^]+|-1\b|\bper\b", text.lower())
    return factors.get("/".join(SPELLINGS.get(word, word) for word in words if word))


def refuse_other_unit(where: str, stated: str, factor: float, option: str) -> None:
    """Refuse to read an array in another unit than the one that its file states.

    Args:
        where: The array, for the message.
        stated: Unit as the file spells it.
        factor: Factor to our units with which the array is read.
        option: Name of the option that gives the unit.

    Raises:
        ValueError: The unit is another one, or none that is known.
    """
    own = unit_in_words(stated)
    if own is None:
        raise ValueError(
            f"{where} states the unit {stated!r}, which is none of "
            f"{[*ENERGY_UNITS, *LENGTH_UNITS]} or a quotient of them: convert it, or "
            "take the attribute out if the unit is the one of the format"
        )
    if not math.isclose(own, abs(factor), rel_tol=SAME):
        raise ValueError(
            f"{where} states the unit {stated!r}, a factor of {own:.6g} to eV and A, "
            f"but is read with {abs(factor):.6g}: give {option}"
        )

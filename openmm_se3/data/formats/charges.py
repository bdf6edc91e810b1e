"""Charge and unpaired electrons of a frame, from the keys that files have for them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

# However they are capitalized.
CHARGE_KEYS = ("charge", "total_charge", "molecular_charge", "net_charge")
SPIN_KEYS = ("spin", "total_spin", "unpaired_electrons")
MULTIPLICITY_KEYS = ("multiplicity", "spin_multiplicity", "mult")

_FORMAL_CHARGE = re.compile(r"\[[^\]]*?([+-]+)([0-9]*)(?::[0-9]+)?\]")


def charge_and_spin(
    info: Mapping[str, str], numbers: np.ndarray
) -> tuple[int | None, int | None]:
    """Return the charge and the number of unpaired electrons; None where not given.

    ``spin`` is the number of unpaired electrons in some files and the multiplicity, one
    more, in others.  Only one of them goes with the number of electrons.

    Args:
        info: Text by key.
        numbers: Atomic numbers [n_atoms].

    Raises:
        ValueError: A value is not an integer, keys contradict each other, or the spin
            does not go with the number of electrons.
    """
    charge = _only(info, CHARGE_KEYS, 0)
    electrons = int(numbers.sum()) - (charge or 0)
    unpaired = _only(info, SPIN_KEYS, 0)
    if unpaired is not None and (electrons - unpaired) % 2:
        unpaired -= 1  # a multiplicity
    multiplicity = _only(info, MULTIPLICITY_KEYS, 1)
    if multiplicity is not None:
        if unpaired is not None and unpaired != multiplicity - 1:
            raise ValueError(
                f"a multiplicity of {multiplicity} is {multiplicity - 1} unpaired "
                f"electrons, but spin says {unpaired}"
            )
        unpaired = multiplicity - 1
    if unpaired is not None and (
        unpaired < 0 or unpaired > electrons or (electrons - unpaired) % 2
    ):
        raise ValueError(
            f"{unpaired} unpaired electrons (multiplicity {unpaired + 1}) do not go "
            f"with {electrons} electrons"
        )
    return charge, unpaired


def _only(info: Mapping[str, str], keys: tuple[str, ...], least: int) -> int | None:
    """Return the integer that the keys give; None if none of them is there."""
    found = None
    for key in info:
        if key.lower() not in keys:
            continue
        try:
            value = float(info[key])
        except ValueError:
            value = 0.5
        if value != round(value, 0) or abs(value) > 1000 or (least and value < least):
            raise ValueError(f"{key}={info[key]!r} must be an integer")
        if found is not None and found != int(value):
            raise ValueError(f"{keys} contradict each other: {found} and {int(value)}")
        found = int(value)
    return found


def says_charge(info: Mapping[str, str]) -> bool:
    """Tell whether a charge is given."""
    return any(key.lower() in CHARGE_KEYS for key in info)


def charge_of_smiles(smiles: str) -> int:
    """Return the sum of the formal charges in a SMILES string."""
    total = 0
    for signs, digits in _FORMAL_CHARGE.findall(smiles):
        size = int(digits) if digits else len(signs)
        total += size if signs[0] == "+" else -size
    return total

"""Numbers with or without OpenMM's units at the boundary of the package."""

from __future__ import annotations

from typing import Any

import numpy as np
from openmm import unit


def in_angstrom(values: Any) -> np.ndarray:
    """Return lengths in A, as floats, from numbers in A or from a Quantity."""
    if unit.is_quantity(values):
        values = values.value_in_unit(unit.angstrom)
    return np.asarray(values, dtype=float)

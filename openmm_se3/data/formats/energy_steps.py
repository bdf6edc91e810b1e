"""Total energies in few digits: steps of single precision that training would fit."""

from __future__ import annotations

import numpy as np

COARSE = 5e-4  # eV, about 0.01 kcal/mol


def energy_step(stored: np.ndarray) -> float:
    """Return the largest distance between neighboring numbers of a file's energies."""
    sizes = np.abs(stored[np.isfinite(stored)])
    return float(np.spacing(sizes.max())) if sizes.size else 0.0


def note_of_step(step: float) -> str:
    """Return a note on energies that are stored in steps (eV), if they are coarse."""
    if step <= COARSE:
        return ""
    return (
        f"energies are stored with so few digits that they have steps of {step:.1g} "
        "eV: errors of energies cannot be smaller; store them in double precision"
    )

"""Frames of one atom, which are isolated atoms: self-energies, not training data."""

from __future__ import annotations

import numpy as np

from openmm_se3.data.dataset import SELF_ENERGY_TOLERANCE
from openmm_se3.data.frames import Frames
from openmm_se3.data.limits import plane_distances
from openmm_se3.elements import symbols_of

# An atom in a box feels its images if it is smaller than this (A); unless the file says
# that it is isolated.
WIDE_BOX = 8.0
ISOLATED = "isolated"


def take_isolated_atoms(frames: Frames) -> tuple[Frames, dict[int, float], str]:
    """Return the frames without isolated atoms, the energies of these, and a note.

    Frames of one atom without an energy go too: they teach nothing.

    Raises:
        ValueError: Two frames give an element different energies.
    """
    energies: dict[int, float] = {}
    keep = np.ones(len(frames), dtype=bool)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        if len(block.numbers) != 1:
            continue
        isolated = np.ones(len(rows), dtype=bool)
        if block.box is not None:
            wide = plane_distances(np.asarray(block.box[rows])).min(axis=1) >= WIDE_BOX
            named = [ISOLATED in block.kind[row].lower() for row in rows]
            isolated = wide | np.array(named)
        if block.charge is not None:
            isolated &= block.charge[rows] == 0
        keep[index[isolated]] = False
        known = block.energy[rows[isolated]]
        known = known[np.isfinite(known)]
        if not len(known):
            continue
        number = int(block.numbers[0])
        low = min(float(known.min()), energies.get(number, np.inf))
        high = max(float(known.max()), energies.get(number, -np.inf))
        if high - low > SELF_ENERGY_TOLERANCE:
            raise ValueError(
                f"isolated atoms of {symbols_of([number])[0]} have energies from "
                f"{low:.6f} to {high:.6f} eV; keep the ground state only"
            )
        energies[number] = low
    if keep.all():
        return frames, {}, ""
    count = int((~keep).sum())
    symbols = ", ".join(symbols_of(sorted(energies))) or "none of them has an energy"
    note = f"{count} frames of one atom are the self-energies ({symbols}), not data"
    return frames[keep], energies, note

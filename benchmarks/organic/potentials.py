"""Energies of many structures with anything that `openmm-se3 label --method` takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from openmm_se3.data.labeling.labelers import LabelerError, labeler

PAIRS_PER_BATCH = 40_000


def energies(structures: Sequence[Atoms], method: str) -> np.ndarray:
    """Return total energies [n_structures], eV; NaN where the method cannot do one."""
    potential = labeler(method)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, atoms in enumerate(structures):
        charge = int(atoms.info.get("charge", 0))
        try:
            potential.require(atoms.numbers, charge)
        except LabelerError:
            continue
        groups.setdefault((len(atoms), charge), []).append(index)
    result = np.full(len(structures), np.nan)
    for (n_atoms, charge), members in sorted(groups.items()):
        size = max(1, PAIRS_PER_BATCH // n_atoms**2)
        for start in range(0, len(members), size):
            part = members[start : start + size]
            labels = potential.label(
                np.stack([structures[i].numbers for i in part]),
                np.stack([structures[i].positions for i in part]),
                charge,
            )
            result[part] = labels.energy
    return result

"""Energies of many structures with anything that `openmm-se3 label --method` takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from openmm_se3.data.frames import Structure
from openmm_se3.data.labeling.batches import batches_of
from openmm_se3.data.labeling.labelers import LabelerError, labeler


def energies(structures: Sequence[Atoms], method: str) -> np.ndarray:
    """Return total energies [n_structures], eV; NaN where the method cannot do one."""
    potential = labeler(method)
    result = np.full(len(structures), np.nan)
    places, known = [], []
    for place, atoms in enumerate(structures):
        charge = int(atoms.info.get("charge", 0))
        with contextlib.suppress(LabelerError):
            potential.require(atoms.numbers, charge)
            known.append(Structure(atoms.numbers, atoms.positions, charge=charge))
            places.append(place)
    for batch in batches_of(known):
        labels = potential.label(
            np.stack([known[i].numbers for i in batch]),
            np.stack([known[i].positions for i in batch]),
            known[batch[0]].charge or 0,
        )
        result[[places[i] for i in batch]] = labels.energy
    return result

"""The domain of training data: molecules and bonds of their most relaxed frames."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from openmm_se3.data.frames import Block, Frames
from openmm_se3.domain import (
    MOST_MOLECULES,
    Domain,
    Valences,
    bond_name,
    domain_of,
    formula,
)
from openmm_se3.elements import symbols_of
from openmm_se3.molecules import bonds_by_distance, molecules_by_bonds

MOST_TRAJECTORIES = 20  # of a set of atoms that are looked at
MINIMUM = "minimum"  # kind of a frame at a minimum, as the sampler names it
# A bond or valence that is rarer is none that a network has learned, or no bond at all:
# the bridgeheads of bicyclopentane are 1.9 A apart.
LEAST_MOLECULES, LEAST_SHARE = 5, 3e-3


def data_domain(frames: Frames) -> Domain:
    """Return the domain of labeled frames.

    Bonds are found by distance, in the lowest frame of each trajectory: distorted
    ones, which data have for good reasons, hold broken bonds.  Where molecules are too
    many to be listed, their bonds and numbers of neighbors are those that several
    molecules have, and a fair share of those with the element, of frames at a minimum
    where frames are named so.

    Args:
        frames: The frames that a model is trained on.
    """
    molecules: set[str] = set()
    holders: Counter[str] = Counter()  # molecules with an element
    pairs: Counter[str] = Counter()
    neighbors: Counter[tuple[str, int]] = Counter()
    seen, odd = 0, False
    minima = any(MINIMUM in block.kind.names for block in frames.blocks)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        symbols = symbols_of(block.numbers)
        for number, row in enumerate(_relaxed(block, rows)):
            box = None if block.box is None else np.asarray(block.box[row])
            bonds = bonds_by_distance(symbols, np.asarray(block.positions[row]), box)
            if number == 0:
                for atoms in molecules_by_bonds(len(symbols), bonds):
                    molecules.add(formula([symbols[atom] for atom in atoms]))
            if minima and block.kind[row] != MINIMUM:
                continue
            bonded = np.bincount(bonds.ravel(), minlength=len(symbols)).tolist()
            pairs.update({bond_name(symbols[i], symbols[j]) for i, j in bonds})
            neighbors.update(set(zip(symbols, bonded, strict=True)))
            holders.update(set(symbols))
            seen += 1
            odd |= bool(block.numbers.sum() % 2)
    least = min(LEAST_MOLECULES, math.ceil(seen / MOST_MOLECULES))

    def usual(count: int, *elements: str) -> bool:
        share = LEAST_SHARE * min(holders[element] for element in elements)
        return count >= max(least, share)

    known = tuple(sorted(p for p, n in pairs.items() if usual(n, *p.split("-"))))
    valences = {
        element: tuple(
            sorted(k for (e, k), n in neighbors.items() if e == element and usual(n, e))
        )
        for element in holders
    }
    return domain_of(molecules, Valences(known, valences, odd))


def _relaxed(block: Block, rows: np.ndarray) -> list[int]:
    """Return the row of lowest energy of each trajectory, the lowest of all first.

    Isomers may share a block.  Without energies the largest force decides.
    """
    strain = block.energy[rows]
    if not np.isfinite(strain).any() and block.forces is not None:
        forces = block.forces
        strain = np.array([np.abs(np.asarray(forces[row])).max() for row in rows])
    found: dict[str, int] = {}
    for row in rows[np.argsort(strain, kind="stable")]:  # NaN comes last
        found.setdefault(block.trajectory[int(row)], int(row))
        if len(found) == MOST_TRAJECTORIES:
            break
    return list(found.values())

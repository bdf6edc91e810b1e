"""The domain of training data: molecules and bonds of their most relaxed frames."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from openmm_se3.data.frames import Block, Frames
from openmm_se3.domain import Domain, Valences, bond_name, domain_of, formula
from openmm_se3.elements import symbols_of
from openmm_se3.molecules import bonds_by_distance, molecules_by_bonds

MOST_TRAJECTORIES = 20  # of a set of atoms that are looked at


def data_domain(frames: Frames) -> Domain:
    """Return the domain of labeled frames.

    Bonds are found by distance.  Only relaxed frames count, for molecules the lowest of
    each set of atoms: distorted ones, which data have for good reasons, hold broken
    bonds.

    Args:
        frames: The frames that a model is trained on.
    """
    molecules: set[str] = set()
    pairs: set[str] = set()
    neighbors: dict[str, set[int]] = defaultdict(set)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        symbols = symbols_of(block.numbers)
        for number, row in enumerate(_relaxed(block, rows)):
            box = None if block.box is None else np.asarray(block.box[row])
            bonds = bonds_by_distance(symbols, np.asarray(block.positions[row]), box)
            if number == 0:
                for atoms in molecules_by_bonds(len(symbols), bonds):
                    molecules.add(formula([symbols[atom] for atom in atoms]))
            pairs.update(bond_name(symbols[i], symbols[j]) for i, j in bonds)
            bonded = np.bincount(bonds.ravel(), minlength=len(symbols))
            for symbol, count in zip(symbols, bonded, strict=True):
                neighbors[symbol].add(int(count))
    ordered = {symbol: tuple(sorted(found)) for symbol, found in neighbors.items()}
    return domain_of(molecules, Valences(tuple(sorted(pairs)), ordered))


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

"""The water that every contender steps: clusters without a box, and the liquid."""

from __future__ import annotations

import numpy as np
from openmm import app, unit
from water_geometry import rattle, water_box, water_grid

from openmm_se3.simulation import water_topology

VACUUM = (3, 6, 12, 24, 48)  # atoms
PERIODIC = (192, 648, 1536, 5184)
SIZES = (*VACUUM, *PERIODIC)


def water(atoms: int) -> tuple[app.Topology, np.ndarray]:
    """Return topology and positions [n_atoms, 3], A, the same in every process.

    Args:
        atoms: One of ``SIZES``.
    """
    molecules = atoms // 3
    if atoms in PERIODIC:
        box = water_box(molecules)
        return box.topology, np.array(box.positions.value_in_unit(unit.angstrom))
    _, grid = water_grid(molecules)
    return water_topology(molecules), rattle(grid, np.random.default_rng(atoms))

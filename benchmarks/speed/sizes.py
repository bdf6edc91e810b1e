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
    return liquid(atoms) if atoms in PERIODIC else cluster(atoms)


def cluster(atoms: int) -> tuple[app.Topology, np.ndarray]:
    """Return what :func:`water` does, of any size without a box."""
    _, grid = water_grid(atoms // 3)
    return water_topology(atoms // 3), rattle(grid, np.random.default_rng(atoms))


def liquid(atoms: int) -> tuple[app.Topology, np.ndarray]:
    """Return what :func:`water` does, of any size in a box."""
    box = water_box(atoms // 3)
    return box.topology, np.array(box.positions.value_in_unit(unit.angstrom))

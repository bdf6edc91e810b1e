"""Potentials on water molecules, and the network's own results."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from evaluator import PLATFORMS
from openmm import unit
from random_model import (
    BOX,
    WATER,
    random_network,
    topology_of,
    water_cluster,
)

from openmm_se3 import SE3Potential
from openmm_se3.force.backends import BACKENDS
from openmm_se3.neighbors import Edges, all_pairs
from openmm_se3.nn.force_field import ForceField

TOLERANCE = {"single": 5e-5, "double": 1e-9}  # eV and eV/A

KJ_PER_MOL = 96.48533212331  # in 1 eV

Result = tuple[float, np.ndarray]

all_platforms = pytest.mark.parametrize("platform", PLATFORMS)

all_backends = pytest.mark.parametrize("backend", BACKENDS)


def symbols_of(n_molecules: int) -> list[str]:
    return ["O", "H", "H"] * n_molecules


def positions_of(n_molecules: int, seed: int = 0) -> np.ndarray:
    """Return positions [3 n_molecules, 3], A."""
    array: np.ndarray = water_cluster(n_molecules, seed)[1].numpy()
    return array


@functools.cache
def potential_of(model: Path, backend: str, precision: str) -> SE3Potential:
    return SE3Potential(model, backend=backend, precision=precision)


@functools.cache
def system_of(
    model: Path, backend: str, precision: str, n_molecules: int, periodic: bool
) -> openmm.System:
    topology = topology_of(symbols_of(n_molecules), BOX if periodic else None)
    return potential_of(model, backend, precision).createSystem(topology)


def context_of(system: openmm.System, platform: str = "Reference") -> openmm.Context:
    integrator = openmm.VerletIntegrator(0.0005)
    properties = {"Precision": "double"} if platform in ("CUDA", "OpenCL") else {}
    return openmm.Context(
        system, integrator, openmm.Platform.getPlatformByName(platform), properties
    )


def run(context: openmm.Context, positions: np.ndarray, **selection: Any) -> Result:
    """Return energy (eV) and forces (eV/A) in OpenMM at positions in A."""
    context.setPositions(positions * unit.angstrom)
    state = context.getState(getEnergy=True, getForces=True, **selection)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True)
    forces = forces.value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return energy / KJ_PER_MOL, forces / KJ_PER_MOL


def eager(
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None = None,
    precision: str = "double",
    **changes: Any,
) -> Result:
    """Return what the network gives, with the edges that ASE finds."""
    network = random_network(torch.float32, **changes)
    if precision == "double":
        double = type(network)(network.config)
        double.load_state_dict(network.state_dict())
        network = double.eval()
    species = torch.tensor(["HO".index(symbol) for symbol in symbols])
    x = torch.tensor(positions)
    if box is None:
        energy, forces = ForceField(network)(x, species, all_pairs(len(x)))
    else:
        atoms = Atoms(symbols, positions, cell=box, pbc=True)
        i, j, s = neighbor_list("ijS", atoms, 4.0)
        edges = Edges(torch.tensor(i), torch.tensor(j), torch.tensor(s @ box))
        energy, forces = ForceField(network)(x, species, edges)
    return energy.item(), forces.double().numpy()


def assert_same(one: Result, other: Result, tolerance: float) -> None:
    assert np.isfinite(one[0]) and np.isfinite(one[1]).all()
    assert abs(one[0] - other[0]) < tolerance * max(1.0, len(other[1]) / 10.0)
    assert np.abs(one[1] - other[1]).max() < tolerance


def carbon_and_water() -> tuple[list[str], np.ndarray, list[int]]:
    """Return symbols and positions of a mixture, and the water's atoms out of order."""
    symbols = ["C", "H", "C", "O", "C", "H"]
    positions = np.zeros((6, 3))
    positions[[3, 1, 5]] = WATER
    positions[[0, 2, 4]] = [[1.5, 1.0, 1.0], [-1.5, 2.0, 0.4], [0.3, -1.2, 1.1]]
    return symbols, positions, [5, 3, 1]

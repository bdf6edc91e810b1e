"""Networks whose kernels run on NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from random_model import (
    random_network,
)
from torch import Tensor

from openmm_se3.compiled.weights import RadialTables
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.triton.force import TABLE_INTERVALS
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights, constants

DTYPES = {"single": torch.float32, "double": torch.float64}

NARROW = np.array([[3.3, 0.0, 0.0], [1.0, 3.5, 0.0], [-1.2, 0.4, 3.1]])


@functools.cache
def network_of(**changes: Any) -> SE3Transformer:
    return random_network(**{"self_interaction": "linear", **changes})


def evaluate(
    network: SE3Transformer,
    species: Tensor,
    positions: Tensor,
    box: Tensor | None = None,
    precision: str = "double",
    room: int = 64,
    atoms: Tensor | None = None,
    offset: float = 0.0,
) -> tuple[float, Tensor]:
    """Return energy, eV, and forces, eV/A, as the kernels give them."""
    dtype = DTYPES[precision]
    tables = RadialTables(network, TABLE_INTERVALS[precision])
    with torch.no_grad():
        energy, forces = Network(network.config).energy_and_forces(
            positions,
            box,
            species,
            torch.arange(len(species)) if atoms is None else atoms,
            torch.tensor([offset], dtype=torch.float64),
            Weights.of(network).flat().to(dtype),
            tables(network).to(dtype),
            constants(network),
            room,
            1.0,
            1.0,
        )
    return float(energy), forces


def difference(
    network: SE3Transformer,
    species: Tensor,
    positions: Tensor,
    box: Tensor | None = None,
    **options: Any,
) -> float:
    """Return the largest difference to the network: eV an atom, or eV/A."""
    edges = neighbor_pairs(positions, network.config.cutoff, box)
    expected = ForceField(network)(positions, species, edges)
    energy, forces = evaluate(network, species, positions, box, **options)
    off = abs(energy - float(expected[0])) / len(species)
    return max(off, float((forces - expected[1]).abs().max()))

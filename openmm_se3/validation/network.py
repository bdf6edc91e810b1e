"""The eager network on a structure: what every other way of running it must equal."""

from __future__ import annotations

import numpy as np
import torch

from openmm_se3.elements import symbols_of
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.modelfile import PRECISIONS, ModelFile
from openmm_se3.single_point import all_pairs_of
from openmm_se3.single_point import evaluate as evaluate_symbols
from openmm_se3.validation.structures import Structure


def in_both_precisions(model: ModelFile) -> dict[str, SE3Transformer]:
    """Return the network in float64 and float32, by OpenMM's names of precisions."""
    return {precision: model.network(dtype) for precision, dtype in PRECISIONS.items()}


def evaluate(network: SE3Transformer, structure: Structure) -> tuple[float, np.ndarray]:
    """Return interaction energy (eV) and forces [n_atoms, 3] (eV/A)."""
    return evaluate_symbols(network, symbols_of(structure.numbers), structure.positions)


def edges_of(
    network: SE3Transformer, structure: Structure
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return species, vectors, centre and neighbour of all pairs."""
    positions, species, centre, neighbour = all_pairs_of(
        network, symbols_of(structure.numbers), structure.positions
    )
    vectors = positions[neighbour] - positions[centre]
    return species, vectors.to(network.embedding.weight.dtype), centre, neighbour

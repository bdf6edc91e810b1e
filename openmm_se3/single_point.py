"""Energy and forces of a free molecule by the network itself, without OpenMM."""

from __future__ import annotations

import numpy as np
import torch

from openmm_se3.graph import all_pairs
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.torch_state import usual_torch


@usual_torch()
def evaluate(
    network: SE3Transformer, symbols: list[str], positions: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the interaction energy (eV) and forces [n_atoms, 3] (eV/A) of a molecule.

    Args:
        network: The network, in evaluation mode.
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
    """
    energy, forces = network.energy_and_forces(
        *all_pairs_of(network, symbols, positions), dense=len(symbols) > 1
    )
    return energy.item(), forces.double().numpy()


@usual_torch()
def force_disagreement(
    network: SE3Transformer, symbols: list[str], positions: np.ndarray
) -> np.ndarray:
    """Return |direct force - conservative force| of each atom [n_atoms], eV/A.

    Args:
        network: A network whose forces are both, in evaluation mode.
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
    """
    _, forces, direct = network.energy_and_both_forces(
        *all_pairs_of(network, symbols, positions), dense=len(symbols) > 1
    )
    return (direct - forces).double().norm(dim=1).numpy()


def all_pairs_of(
    network: SE3Transformer, symbols: list[str], positions: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return positions [n_atoms, 3], A, species, centre and neighbour of all pairs."""
    species = torch.tensor([network.config.elements.index(s) for s in symbols])
    x = torch.tensor(np.asarray(positions), dtype=torch.float64)
    return x, species, *all_pairs(len(symbols))

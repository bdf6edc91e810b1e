"""Energy, forces and virial by the network itself, without OpenMM."""

from __future__ import annotations

import numpy as np
import torch

from openmm_se3.neighbors import Edges, all_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import usual_torch

# Up to this many atoms without a box all pairs cost less than a neighbor list.
DENSE_ATOMS = 64


@usual_torch()
def evaluate(
    network: SE3Transformer,
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Return the interaction energy (eV) and forces [n_atoms, 3] (eV/A) of atoms.

    Args:
        network: The network, in evaluation mode.
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
    """
    n_atoms = len(symbols)
    if box is None and n_atoms <= DENSE_ATOMS:
        atoms = all_pairs_of(network, symbols, positions)
    else:
        atoms = neighbors_of(network, symbols, positions, box)
    energy, forces = ForceField(network)(*atoms)
    return energy.item(), forces.double().numpy()


@usual_torch()
def strain_derivative(
    network: SE3Transformer,
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None,
) -> np.ndarray:
    """Return the derivative of the energy by a strain of space [3, 3], eV.

    The strain e moves every edge vector v to v (1 + e), the box with it, so that the
    derivative is the sum of v_a dE/dv_b over all edges.  It is symmetric, because the
    energy does not change when space turns.

    Args:
        network: A network with conservative forces, in evaluation mode.
        symbols: Chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
    """
    x, species, edges = neighbors_of(network, symbols, positions, box)
    field = ForceField(network)
    vectors = field.edge_vectors(x, edges).detach()
    _, slope, _ = field.energies_and_slope(
        species, vectors, edges, create_graph=False, head=False
    )
    derivative = vectors.detach().double().T @ slope.double()
    return (0.5 * (derivative + derivative.T)).numpy()


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
    _, forces, direct = ForceField(network).with_direct_forces(
        *neighbors_of(network, symbols, positions, None)
    )
    return (direct - forces).double().norm(dim=1).numpy()


def all_pairs_of(
    network: SE3Transformer, symbols: list[str], positions: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, Edges]:
    """Return positions [n_atoms, 3], A, species and all pairs of atoms."""
    x, species = tensors_of(network, symbols, positions)
    return x, species, all_pairs(len(symbols))


def neighbors_of(
    network: SE3Transformer,
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None,
) -> tuple[torch.Tensor, torch.Tensor, Edges]:
    """Return positions [n_atoms, 3], A, species and edges within the cutoff."""
    x, species = tensors_of(network, symbols, positions)
    cell = None if box is None else torch.tensor(box, dtype=torch.float64)
    return x, species, neighbor_pairs(x, network.config.cutoff, cell)


def tensors_of(
    network: SE3Transformer, symbols: list[str], positions: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions [n_atoms, 3], A, float64, and species [n_atoms]."""
    species = torch.tensor([network.config.elements.index(s) for s in symbols])
    return torch.tensor(np.asarray(positions), dtype=torch.float64), species

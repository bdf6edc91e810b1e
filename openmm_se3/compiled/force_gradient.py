"""Gradients of losses of energies and forces, with first derivatives only.

The gradient of a loss L(E, F) by the weights w needs, beside dE/dw, that of the forces.
With v = dL/dF it is a directional derivative of dE/dw,

    sum_i v_i . dF_i/dw = -d/ds [dE/dw](x + s v)   at s = 0,

which is taken as a central difference: two passes of a plain backward instead of
differentiating the backward pass.  C++ and Triton both compute it so.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer

# Largest displacement of an atom in the difference, A: its errors of truncation and
# rounding are then about equal.
DISPLACEMENT = {torch.float32: 3e-3, torch.float64: 1e-4}


class Batches(Protocol):
    """What computes energies and forces of batches in place of the network."""

    def energy_and_forces(
        self,
        network: SE3Transformer,
        positions: Tensor,
        species: Tensor,
        edges: Edges,
        molecule: Tensor,
        n_molecules: int,
    ) -> tuple[Tensor, Tensor]:
        """Return energies [n_molecules], eV, and forces [n_atoms, 3], eV/A, float64.

        Args:
            network: A network of the shape and precision that this was made for.
            positions: Positions [n_atoms, 3], A.
            species: Index of each atom's element in the model's elements [n_atoms].
            edges: The edges; each has its reverse.
            molecule: Molecule of each atom [n_atoms].
            n_molecules: Number of molecules.
        """
        ...


class Batch(Protocol):
    """Atoms of a batch, and what is known of their edges.

    Attributes:
        positions: Positions [n_atoms, 3], A, float64.
        molecule: Molecule of each atom [n_atoms].
    """

    positions: Tensor
    molecule: Tensor

    def edges(self) -> tuple[Any, ...]:
        """Return the arguments of the operators that come after the positions."""
        ...


class EnergiesAndForces(torch.autograd.Function):
    """Energies of atoms [n_atoms] and forces [n_atoms, 3] from weights and tables.

    ``operators`` has ``atomic_energies_and_forces(positions, *edges, weights, tables,
    constants)`` and ``energy_gradient(positions, *edges, by_energies, weights,
    tables)``, which gives the derivatives by what is learned and by the tables.
    """

    @staticmethod
    def forward(
        ctx: Any,
        operators: Any,
        batch: Batch,
        constants: Tensor,
        weights: Tensor,
        learned: Tensor,
        tables: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return energies and forces; ``learned`` is only differentiated by."""
        energies, forces = operators.atomic_energies_and_forces(
            batch.positions, *batch.edges(), weights, tables, constants
        )
        ctx.operators, ctx.batch, ctx.n_learned = operators, batch, len(learned)
        ctx.save_for_backward(weights, tables)
        return energies, forces

    @staticmethod
    def backward(
        ctx: Any, by_energies: Tensor, by_forces: Tensor
    ) -> tuple[None, None, None, None, Tensor, Tensor]:
        """Return the derivatives by what is learned and by the tables."""
        weights, tables = ctx.saved_tensors
        batch = ctx.batch
        if not torch.isfinite(by_forces).all():
            nan = weights.new_tensor(torch.nan)
            sizes = ctx.n_learned, len(tables)
            return None, None, None, None, *(nan.expand(n) for n in sizes)
        if not by_forces.any():  # trained on energies alone
            gradient = ctx.operators.energy_gradient(
                batch.positions, *batch.edges(), by_energies, weights, tables
            )
            return None, None, None, None, gradient[0], gradient[1]
        # Every molecule is displaced by as much as suits it.
        size = DISPLACEMENT[weights.dtype]
        longest = torch.zeros_like(by_energies).scatter_reduce(
            0, batch.molecule, by_forces.norm(dim=1), "amax"
        )
        longest = longest.index_select(0, batch.molecule)
        step = torch.where(longest > 0.0, size / longest, 0.0).unsqueeze(1)
        slope = 0.5 * longest / size
        plus, minus = (
            ctx.operators.energy_gradient(
                batch.positions + sign * step * by_forces,
                *batch.edges(),
                0.5 * by_energies - sign * slope,
                weights,
                tables,
            )
            for sign in (1.0, -1.0)
        )
        return None, None, None, None, plus[0] + minus[0], plus[1] + minus[1]


def with_lone_atoms(
    positions: Tensor, species: Tensor, molecule: Tensor, n_molecules: int, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions (float64), species and molecules with n lone atoms behind them.

    These are one atom of each element, each a molecule of its own.
    """
    kinds = torch.arange(n, device=species.device)
    return (
        torch.cat([positions.double(), positions.new_zeros(n, 3, dtype=torch.float64)]),
        torch.cat([species, kinds]),
        torch.cat([molecule, n_molecules + kinds]),
    )


def relative_energies(
    energies: Tensor, species: Tensor, molecule: Tensor, n_molecules: int
) -> Tensor:
    """Return energies of molecules [n_molecules] relative to lone atoms.

    Args:
        energies: Those of the atoms, and of the lone atoms behind them.
        species: Of the atoms alone [n_atoms].
        molecule: Of the atoms alone [n_atoms].
        n_molecules: Number of molecules.
    """
    n_atoms = len(species)
    atoms, lone = energies.split([n_atoms, len(energies) - n_atoms])
    relative = atoms - lone.index_select(0, species)
    return relative.new_zeros(n_molecules).index_add(0, molecule, relative)

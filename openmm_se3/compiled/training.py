"""Energies and forces of a batch, compiled, with their derivatives by the weights.

The gradient of a loss L(E, F) by the weights w needs, beside dE/dw, that of the forces.
With v = dL/dF it is a directional derivative of dE/dw,

    sum_i v_i . dF_i/dw = -d/ds [dE/dw](x + s v)   at s = 0,

which is taken as a central difference: two passes of a plain backward instead of
differentiating the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.library import load_library
from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer

# Intervals of the tables of radial functions, which are made anew for every batch: the
# model that is kept is the network, which has none.
TABLE_INTERVALS = 128
# Largest displacement of an atom in the difference, A: its errors of truncation and
# rounding are then about equal.
DISPLACEMENT = {torch.float32: 3e-3, torch.float64: 1e-4}


class CompiledBatches:
    """A network's energies and forces, as :class:`ForceField` gives them.

    Args:
        network: The network, in the precision of training.

    Raises:
        CompileError: The network cannot be compiled here.
    """

    def __init__(self, network: SE3Transformer) -> None:
        dtype = network.embedding.weight.dtype
        precision = {torch.float32: "single", torch.float64: "double"}[dtype]
        self.operators = getattr(
            torch.ops, load_library(network.config, precision, training=True)
        )
        self.tables = pack.RadialTables(network, TABLE_INTERVALS)
        # Of the repulsion only, without weights; isolated atoms are in every batch.
        self.constants = pack.constants(network)
        self.constants[: network.n_species] = 0.0

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
        # One lone atom of each element behind the others: energies are relative to it.
        n_atoms, n_species = len(species), network.n_species
        batch = _Batch(
            torch.cat([positions.double(), positions.new_zeros(n_species, 3)]),
            edges.center,
            edges.neighbor,
            positions.new_zeros(0) if edges.shifts is None else edges.shifts.double(),
            torch.cat([species, torch.arange(n_species)]),
            torch.cat([molecule, n_molecules + torch.arange(n_species)]),
        )
        parts = pack.parts_of(network)
        energies, forces = _EnergiesAndForces.apply(
            self.operators,
            batch,
            self.constants,
            pack.weights(parts),
            pack.learned(parts),
            self.tables(network),
        )
        atoms, lone = energies.split([n_atoms, n_species])
        relative = atoms - lone.index_select(0, species)
        total = relative.new_zeros(n_molecules).index_add(0, molecule, relative)
        return total, forces[:n_atoms]


class FixedWeights:
    """The same for a network that does not change, in batches of free molecules.

    Weights are packed and tables made once, which takes half of the time of a call for
    a few small molecules.

    Args:
        network: The network, in the precision of training.

    Raises:
        CompileError: The network cannot be compiled here.
    """

    def __init__(self, network: SE3Transformer) -> None:
        compiled = CompiledBatches(network)
        self.operators = compiled.operators
        self.constants = compiled.constants
        with torch.no_grad():
            self.weights = pack.weights(pack.parts_of(network))
            self.tables = compiled.tables(network)
            self.isolated = self._atoms(
                torch.zeros(network.n_species, 3, dtype=torch.float64),
                torch.arange(network.n_species),
                torch.zeros(0, dtype=torch.int64),
                torch.zeros(0, dtype=torch.int64),
            )[0]

    def energy_and_forces(
        self,
        positions: Tensor,
        species: Tensor,
        edges: Edges,
        molecule: Tensor,
        n_molecules: int,
    ) -> tuple[Tensor, Tensor]:
        """Return energies [n_molecules], eV, and forces [n_atoms, 3], eV/A, float64.

        Args:
            positions: Positions [n_atoms, 3], A.
            species: Index of each atom's element in the model's elements [n_atoms].
            edges: The edges; each has its reverse.
            molecule: Molecule of each atom [n_atoms].
            n_molecules: Number of molecules.
        """
        with torch.no_grad():
            energies, forces = self._atoms(
                positions.double(), species, edges.center, edges.neighbor
            )
            relative = energies - self.isolated.index_select(0, species)
            total = relative.new_zeros(n_molecules).index_add(0, molecule, relative)
        return total, forces

    def _atoms(
        self, positions: Tensor, species: Tensor, center: Tensor, neighbor: Tensor
    ) -> tuple[Tensor, Tensor]:
        energies, forces = self.operators.atomic_energies_and_forces(
            positions.contiguous(),
            center.contiguous(),
            neighbor.contiguous(),
            positions.new_zeros(0),
            species.contiguous(),
            self.weights,
            self.tables,
            self.constants,
        )
        return energies, forces


class _Batch:
    """Atoms and edges of a batch, and the molecule that each atom belongs to."""

    def __init__(self, positions: Tensor, *rest: Tensor) -> None:
        self.positions = positions.contiguous()
        self.center, self.neighbor, self.shifts, self.species, self.molecule = (
            part.contiguous() for part in rest
        )

    def edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.center, self.neighbor, self.shifts, self.species


class _EnergiesAndForces(torch.autograd.Function):
    """Energies of atoms [n_atoms] and forces [n_atoms, 3] from weights and tables."""

    @staticmethod
    def forward(
        ctx: Any,
        operators: Any,
        batch: _Batch,
        constants: Tensor,
        weights: Tensor,
        learned: Tensor,
        tables: Tensor,
    ) -> tuple[Tensor, Tensor]:
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

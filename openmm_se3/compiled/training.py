"""Energies and forces of a batch, compiled, with their derivatives by the weights.

See :mod:`openmm_se3.compiled.force_gradient`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.force_gradient import (
    EnergiesAndForces,
    relative_energies,
    with_lone_atoms,
)
from openmm_se3.compiled.library import load_library
from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer

# Intervals of the tables of radial functions, which are made anew for every batch: the
# model that is kept is the network, which has none.
TABLE_INTERVALS = 128


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
        x, kinds, molecules = with_lone_atoms(
            positions, species, molecule, n_molecules, network.n_species
        )
        shifts = positions.new_zeros(0) if edges.shifts is None else edges.shifts
        batch = _Batch(
            x, edges.center, edges.neighbor, shifts.double(), kinds, molecules
        )
        parts = pack.parts_of(network)
        energies, forces = EnergiesAndForces.apply(
            self.operators,
            batch,
            self.constants,
            pack.weights(parts),
            pack.learned(parts),
            self.tables(network),
        )
        total = relative_energies(energies, species, molecule, n_molecules)
        return total, forces[: len(species)]


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

"""Energies and forces of a batch by Triton's kernels, with derivatives by the weights.

See :mod:`openmm_se3.compiled.force_gradient`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_se3.compiled.force_gradient import (
    EnergiesAndForces,
    relative_energies,
    with_lone_atoms,
)
from openmm_se3.compiled.training import TABLE_INTERVALS
from openmm_se3.compiled.weights import RadialTables, radial_tables, radial_weights
from openmm_se3.neighbors import Edges, in_pairs
from openmm_se3.nn.transformer import DISTANCE_EPSILON, SE3Transformer
from openmm_se3.triton import kernels
from openmm_se3.triton.layer import Neighbors
from openmm_se3.triton.pack import Weights, constants
from openmm_se3.triton.weight_gradient import TrainedNetwork


class TritonBatches:
    """A network's energies and forces, as :class:`ForceField` gives them.

    Args:
        network: The network, in the precision of training.
    """

    def __init__(self, network: SE3Transformer) -> None:
        tables = RadialTables(network, TABLE_INTERVALS)
        self.basis, self.polynomial = tables.basis, tables.polynomial
        # Of the repulsion only, without weights; isolated atoms are in every batch.
        self.constants = constants(network)
        self.constants[: network.n_species] = 0.0
        self.operators = _Operators(TrainedNetwork(network.config))

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
        device = positions.device
        self.basis, self.polynomial, self.constants = (
            part.to(device) for part in (self.basis, self.polynomial, self.constants)
        )
        # One lone atom of each element behind the others: energies are relative to it.
        batch = _Batch(
            edges,
            *with_lone_atoms(
                positions, species, molecule, n_molecules, network.n_species
            ),
        )
        weights = Weights.of(network).joined()
        energies, forces = EnergiesAndForces.apply(
            self.operators,
            batch,
            self.constants,
            weights.detach(),
            weights,
            radial_tables(self.basis, self.polynomial, radial_weights(network)),
        )
        total = relative_energies(energies, species, molecule, n_molecules)
        return total, forces[: len(species)]


class _Batch:
    """Atoms of a batch, and lists of their neighbors."""

    def __init__(
        self, edges: Edges, positions: Tensor, species: Tensor, molecule: Tensor
    ) -> None:
        self.positions, self.molecule = positions, molecule
        self.species = species
        self.lists = NeighborLists(edges, positions)

    def edges(self) -> tuple[NeighborLists, Tensor]:
        """Return the arguments of the operators after the positions."""
        return self.lists, self.species


class NeighborLists:
    """Edges as lists of the neighbors of each atom, nearest first.

    Args:
        edges: The edges; each has its reverse.
        positions: Positions [n_atoms, 3], A, which the order is that of.
    """

    def __init__(self, edges: Edges, positions: Tensor) -> None:
        if edges.layout != "paired":
            shifts = edges.shifts
            if shifts is None:
                shifts = positions.new_zeros(len(edges.center), 3)
            edges = in_pairs(edges._replace(shifts=shifts))
        self.center, self.neighbor = edges.center, edges.neighbor
        self.shifts = edges.shifts
        n_atoms, n_edges = len(positions), len(self.center)
        count = torch.bincount(self.center, minlength=n_atoms)
        self.room = max(int(count.max()), 1)
        nearest = self.vectors(positions).square().sum(1).argsort()
        order = nearest[self.center[nearest].argsort(stable=True)]
        by_center = self.center[order]
        begin = count.cumsum(0) - count
        number = torch.arange(n_edges, device=order.device) - begin[by_center]
        # Place of each edge in the lists, and of its reverse.
        self.slot = torch.empty_like(order)
        self.slot[order] = by_center * self.room + number
        reverse = self.slot.roll(n_edges // 2)
        self.count = count.int()
        self.list, self.reverse = (
            torch.zeros(n_atoms * self.room, dtype=torch.int32, device=order.device)
            for _ in range(2)
        )
        self.list[self.slot] = self.neighbor.int()
        self.reverse[self.slot] = reverse.int()

    def vectors(self, positions: Tensor) -> Tensor:
        """Return x_j - x_i of each edge [n_edges, 3], A."""
        vectors = positions[self.neighbor] - positions[self.center]
        return vectors if self.shifts is None else vectors + self.shifts

    def at(self, positions: Tensor, dtype: torch.dtype) -> Neighbors:
        """Return the neighbors with distances at some positions, in a precision."""
        vectors = self.vectors(positions)
        r = (vectors.square().sum(1) + DISTANCE_EPSILON).sqrt()
        places = len(self.list)
        distance = torch.zeros(places, dtype=dtype, device=r.device)
        distance[self.slot] = r.to(dtype)
        direction = torch.zeros(3, places, dtype=dtype, device=r.device)
        direction[:, self.slot] = (vectors / r.unsqueeze(1)).T.to(dtype)
        return Neighbors(
            self.room,
            self.count,
            self.list,
            self.reverse,
            direction.flatten(),
            distance,
        )


class _Operators:
    """What :class:`EnergiesAndForces` calls."""

    def __init__(self, network: TrainedNetwork) -> None:
        self.network = network

    def atomic_energies_and_forces(
        self,
        positions: Tensor,
        lists: NeighborLists,
        species: Tensor,
        weights: Tensor,
        tables: Tensor,
        constants: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return energies of atoms [n_atoms], eV, and forces [n_atoms, 3], eV/A."""
        config = self.network.config
        isolated, walls = constants.split(
            [len(config.elements), len(constants) - len(config.elements)]
        )
        with kernels.current(positions.device):
            neighbors = lists.at(positions, weights.dtype)
            energies, pull = self.network.energies_and_pull(
                neighbors,
                species,
                Weights.from_flat(config, weights),
                tables.detach(),
                isolated,
            )
            forces = torch.empty_like(positions)
            atoms = torch.arange(len(species), device=species.device)
            self.network.add_forces(
                neighbors, pull, species, walls, atoms, energies, forces, 1.0
            )
        return energies, forces

    def energy_gradient(
        self,
        positions: Tensor,
        lists: NeighborLists,
        species: Tensor,
        by_energies: Tensor,
        weights: Tensor,
        tables: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the derivatives of a sum of energies by weights and by tables."""
        with kernels.current(positions.device):
            neighbors = lists.at(positions, weights.dtype)
            return self.network.energy_gradient(
                neighbors, species, by_energies, weights, tables
            )

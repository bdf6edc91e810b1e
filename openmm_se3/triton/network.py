"""The whole network as a sequence of launches.

Nothing in it depends on numbers that are on the device: no shape, no branch, no launch.
The same sequence serves all positions and boxes, and can be recorded as a CUDA graph.

An atom's memory is that of its features, an edge has two numbers a head, and four for
distance and direction: messages are computed again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.triton.blocks import (
    ATOMS,
    CANDIDATES,
    SUMMED,
    WARPS,
    Blocks,
    power_of_two,
)
from openmm_se3.triton.generate import radial_functions
from openmm_se3.triton.kernels import layer_kernels, shared_kernels
from openmm_se3.triton.layer import Layer, Neighbors
from openmm_se3.triton.pack import Weights


class Network:
    """Energy and forces of a network.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.blocks = Blocks.of(config)
        self.shared = shared_kernels(config)
        # Of all layers, so that the first step does not make them.
        self.last = [layer_kernels(config, i) for i in range(config.layers)][-1]

    def energy_and_forces(
        self,
        positions: Tensor,
        box: Tensor | None,
        species: Tensor,
        atoms: Tensor,
        offset: Tensor,
        flat: Tensor,
        tables: Tensor,
        constants: Tensor,
        room: int,
        length: float,
        unit: float,
    ) -> tuple[Tensor, Tensor]:
        """Return energy [1] and forces of the particles [n_particles, 3].

        Args:
            positions: Positions [n_particles, 3], in lengths of ``length`` A.
            box: Box vectors as rows [3, 3]; None without a box.
            species: Species of each atom [n_atoms].
            atoms: Particle that each atom is [n_atoms].
            offset: Added to the energy, eV [1], float64.
            flat: Weights [n], see :class:`~openmm_se3.triton.pack.Weights`, or those of
                the members of a committee [n_members, n], as the next two arguments;
                the results are then the mean of theirs.
            tables: Radial functions, see
                :func:`openmm_se3.compiled.weights.radial_tables`.
            constants: See :func:`openmm_se3.triton.pack.constants`.
            room: Neighbors that an atom has room for.
            length: Unit of length, A.
            unit: Units of energy in 1 eV.
        """
        n_species, n_atoms = len(self.config.elements), len(atoms)
        members = [
            (Weights.from_flat(self.config, own), table, constant[:n_species])
            for own, table, constant in zip(
                *(torch.atleast_2d(t).unbind() for t in (flat, tables, constants)),
                strict=True,
            )
        ]
        walls = torch.atleast_2d(constants)[0, n_species:]
        neighbors = self.find_neighbors(positions, box, atoms, room, length, flat.dtype)
        energies, pull = self.energies_and_pull(neighbors, species, *members[0])
        for member in members[1:]:
            own = self.energies_and_pull(neighbors, species, *member)
            energies, pull = energies + own[0], pull + own[1]
        if len(members) > 1:
            # What there is room for and no neighbor is added up too, and never read.
            energies, pull = energies / len(members), pull / len(members)
        if n_atoms == len(positions):
            forces = torch.empty_like(positions)
        else:
            forces = torch.zeros_like(positions)
        self.add_forces(
            neighbors, pull, species, walls, atoms, energies, forces, unit * length
        )
        energy = positions.new_empty(1)
        self.shared.sum_energies[(1,)](
            energies,
            neighbors.count,
            offset,
            energy,
            n_atoms,
            room,
            UNIT=unit,
            ATOMS=SUMMED,
            num_warps=WARPS,
        )
        return energy, forces

    def add_forces(
        self,
        neighbors: Neighbors,
        pull: Tensor,
        species: Tensor,
        walls: Tensor,
        atoms: Tensor,
        energies: Tensor,
        forces: Tensor,
        unit: float,
    ) -> None:
        """Write forces, and add the repulsion to the energies.

        Args:
            neighbors: Neighbors of each atom.
            pull: dE/d(x_j - x_i) of each edge in the lists.
            species: Species of each atom [n_atoms].
            walls: The repulsion, see :func:`openmm_se3.triton.pack.constants`.
            atoms: Particle that each atom is [n_atoms].
            energies: Of atoms [n_atoms], eV.
            forces: Of particles [n_particles, 3].
            unit: Units of force in 1 eV/A.
        """
        n_atoms = len(atoms)
        self.shared.add_forces[(n_atoms,)](
            pull,
            neighbors.count,
            neighbors.neighbor,
            neighbors.reverse,
            neighbors.direction,
            neighbors.distance,
            species,
            walls,
            atoms,
            energies,
            forces,
            n_atoms,
            neighbors.room,
            UNIT=unit,
            EDGES=32,
            num_warps=1,
        )

    def find_neighbors(
        self,
        positions: Tensor,
        box: Tensor | None,
        atoms: Tensor,
        room: int,
        length: float,
        dtype: torch.dtype,
    ) -> Neighbors:
        """Return the neighbors of each atom, with distances in a precision.

        Other arguments are those of :meth:`energy_and_forces`.
        """
        n_atoms = len(atoms)
        # Apart from each other, so that each begins at a place that suits the device.
        found, found_image, neighbor, image, reverse = (
            positions.new_empty(n_atoms * room, dtype=torch.int32) for _ in range(5)
        )
        count = positions.new_empty(n_atoms, dtype=torch.int32)
        direction, distance = (
            positions.new_empty(planes * n_atoms * room, dtype=dtype)
            for planes in (3, 1)
        )
        wide = power_of_two(room)
        self.shared.find_neighbors[(n_atoms,)](
            positions,
            positions if box is None else box,
            atoms,
            found,
            found_image,
            count,
            neighbor,
            image,
            direction,
            distance,
            n_atoms,
            room,
            LENGTH=length,
            ROOM_2=wide,
            CANDIDATES=min(CANDIDATES, max(power_of_two(n_atoms), 16)),
            PERIODIC=box is not None,
            num_warps=WARPS,
        )
        self.shared.match_reverse[(n_atoms,)](
            count,
            neighbor,
            image,
            reverse,
            room,
            ROOM_2=wide,
            EDGES=16,
            num_warps=WARPS,
        )
        return Neighbors(room, count, neighbor, reverse, direction, distance)

    def energies_and_pull(
        self,
        neighbors: Neighbors,
        species: Tensor,
        weights: Weights,
        tables: Tensor,
        isolated: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return energies of atoms [n_atoms], eV, and dE/d(x_j - x_i)."""
        n_atoms = len(species)
        layers = [
            Layer(self.config, number, weights.layers[number], table)
            for number, table in enumerate(self.tables_of_layers(tables))
        ]
        features = weights.embedding.index_select(0, species).unsqueeze(0)
        for layer in layers:
            features = layer.forward(neighbors, features)
        energies = features.new_empty(n_atoms, dtype=torch.float64)
        slope = torch.empty_like(features)
        self.last.energy_head[(-(-n_atoms // ATOMS),)](
            features,
            species,
            isolated,
            weights.hidden,
            weights.hidden_bias,
            weights.output,
            energies,
            slope,
            n_atoms,
            ATOMS=ATOMS,
            CHANNELS_2=self.blocks.channels,
            num_warps=WARPS,
        )
        del features
        edge_numbers = n_atoms * neighbors.room
        heads = self.config.heads
        pull = slope.new_empty(3 * edge_numbers)
        alphas, logits = (slope.new_empty(heads * edge_numbers) for _ in range(2))
        while layers:
            layer = layers.pop()  # with the memory that it holds
            found = layer.backward(neighbors, slope, pull, alphas, logits)
            slope = found.features
            del found  # with the rest of it
        return energies, pull

    def tables_of_layers(self, tables: Tensor) -> list[Tensor]:
        """Return the table of each layer [intervals, 6, n_functions]."""
        functions = radial_functions(self.config)
        intervals = tables.numel() // (6 * sum(functions))
        parts = tables.split([intervals * 6 * n for n in functions])
        return [part.view(intervals, 6, -1) for part in parts]

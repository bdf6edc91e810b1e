"""The whole network as a sequence of launches.

Nothing in it depends on numbers that are on the device: no shape, no branch, no launch.
The same sequence serves all positions and boxes, and can be recorded as a CUDA graph.

An atom's memory is that of its features, an edge has two numbers a head, and four for
distance and direction: messages are computed again in the backward pass.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.triton.generate import kernel_shapes, radial_functions
from openmm_se3.triton.kernels import Kernels, layer_kernels, shared_kernels
from openmm_se3.triton.pack import LayerWeights, Linear, Weights

# Numbers that a thread has of each component of a block of values: fewer leave threads
# without work, more do not fit into registers.
NUMBERS_OF_A_THREAD = 4
WARPS = 4
THREADS = 32 * WARPS
CANDIDATES = 1024  # atoms that are looked at together as neighbors
# Atoms of a block of the gate and the energy head: the least that Triton multiplies.
ATOMS = 16
# Bytes of an atom's products of channels that are multiplied together, by so many
# warps: the loop over all of them is what a few atoms wait for.
PAIRS_BYTES, WARPS_OF_PAIRS = 512, 8
SUMMED = 1024  # energies that are added up together


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of blocks for a network, as kernels take them.

    Attributes:
        edges: Edges of a block of attention.
        edges_back: Edges of a block of its backward pass, which has more of each.
        heads: Heads, as a power of two.
        keys: Channels of keys a head, as a power of two.
        values: Channels of values a head, as a power of two.
        channels: Channels of single atoms, as a power of two.
    """

    edges: int
    edges_back: int
    heads: int
    keys: int
    values: int
    channels: int

    @classmethod
    def of(cls, config: ModelConfig) -> Blocks:
        """Return sizes for a network."""
        heads = power_of_two(config.heads)
        values = power_of_two(config.channels // config.heads)
        edges = NUMBERS_OF_A_THREAD * THREADS // (heads * values)
        edges = min(max(edges, 4), 32)
        return cls(
            edges,
            max(edges // 2, 4),
            heads,
            power_of_two(config.key_channels // config.heads),
            values,
            max(ATOMS, power_of_two(config.channels)),
        )

    def of_attention(self, edges: int) -> dict[str, int]:
        """Return the arguments of attention's kernels."""
        return {
            "EDGES": edges,
            "HEADS_2": self.heads,
            "KEYS_2": self.keys,
            "VALUES_2": self.values,
        }

    def of_self_interaction(
        self, config: ModelConfig, dtype: torch.dtype
    ) -> dict[str, int]:
        """Return the arguments of the kernels of attentive self-interaction."""
        pairs = PAIRS_BYTES // dtype.itemsize
        return {
            "ATOMS": ATOMS,
            "CHANNELS_2": self.channels,
            "WIDTH_2": max(ATOMS, power_of_two(config.self_interaction_width)),
            "TOGETHER": max(pairs // self.channels, 1),
        }


@dataclasses.dataclass
class Neighbors:
    """Neighbors of each atom, see ``source/pairs.py``.

    Attributes:
        room: Neighbors that an atom has room for.
        count: [n_atoms], more than ``room`` where some are missing.
        neighbor: [n_atoms, room].
        reverse: [n_atoms, room].
        direction: [3, n_atoms, room].
        distance: [n_atoms, room], A.
    """

    room: int
    count: Tensor
    neighbor: Tensor
    reverse: Tensor
    direction: Tensor
    distance: Tensor


class Network:
    """Energy and forces of a network.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.blocks = Blocks.of(config)
        self.shapes = kernel_shapes(config)
        self.shared = shared_kernels(config)
        self.kernels = [layer_kernels(config, i) for i in range(len(self.shapes))]

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
            flat: Weights, see :class:`~openmm_se3.triton.pack.Weights`.
            tables: Radial functions, see
                :func:`openmm_se3.compiled.weights.radial_tables`.
            constants: See :func:`openmm_se3.triton.pack.constants`.
            room: Neighbors that an atom has room for.
            length: Unit of length, A.
            unit: Units of energy in 1 eV.
        """
        weights = Weights.from_flat(self.config, flat)
        isolated, walls = constants.split(
            [len(self.config.elements), constants.numel() - len(self.config.elements)]
        )
        n_atoms = len(atoms)
        neighbors = self.find_neighbors(positions, box, atoms, room, length, flat.dtype)
        energies, pull = self._network(neighbors, species, weights, tables, isolated)
        if n_atoms == len(positions):
            forces = torch.empty_like(positions)
        else:
            forces = torch.zeros_like(positions)
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
            room,
            UNIT=unit * length,
            EDGES=32,
            num_warps=1,
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

    def _network(
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
            _Layer(self, number, weights.layers[number], table)
            for number, table in enumerate(self._tables(tables))
        ]
        features = weights.embedding.index_select(0, species).unsqueeze(0)
        for layer in layers:
            features = layer.forward(neighbors, features)
        energies = features.new_empty(n_atoms, dtype=torch.float64)
        slope = torch.empty_like(features)
        self.kernels[-1].energy_head[(-(-n_atoms // ATOMS),)](
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
            slope = layer.backward(neighbors, slope, pull, alphas, logits)
        return energies, pull

    def _tables(self, tables: Tensor) -> list[Tensor]:
        """Return the table of each layer [intervals, 6, n_functions]."""
        functions = radial_functions(self.config)
        intervals = tables.numel() // (6 * sum(functions))
        parts = tables.split([intervals * 6 * n for n in functions])
        return [part.view(intervals, 6, -1) for part in parts]


class _Layer:
    """One layer, with what its backward pass needs of the forward pass.

    Args:
        network: The network.
        number: Which of its layers.
        weights: Weights of the layer.
        table: Radial functions of the layer.
    """

    def __init__(
        self, network: Network, number: int, weights: LayerWeights, table: Tensor
    ) -> None:
        self.kernels: Kernels = network.kernels[number]
        self.blocks = network.blocks
        self.config = network.config
        self.first = number == 0
        self.last = number == len(network.kernels) - 1
        k_max, l_max = network.shapes[number]
        self.dim_out = (l_max + 1) ** 2
        self.dim_query = (min(k_max, l_max) + 1) ** 2
        self.weights = weights
        self.table = table
        self.options: dict[str, Any] = {"INTERVALS": len(table), "num_warps": WARPS}

    def forward(self, neighbors: Neighbors, features: Tensor) -> Tensor:
        """Return features [L dim, n_atoms, channels] from those before [K dim, ...]."""
        n_atoms, channels = features.shape[1:]
        self.features = features
        self.heads = features.new_empty(self.dim_out, n_atoms, channels)
        self.inverse = features.new_empty(n_atoms, self.config.heads)
        self.kernels.attend[(n_atoms,)](
            torch.bmm(features, self.weights.project),
            self.table,
            neighbors.count,
            neighbors.neighbor,
            neighbors.direction,
            neighbors.distance,
            self.heads,
            self.inverse,
            n_atoms,
            neighbors.room,
            **self.options,
            **self.blocks.of_attention(self.blocks.edges),
        )
        self.update = torch.bmm(self.heads, self.weights.output)
        self._keep(features)
        result = torch.empty_like(self.update)
        self.kernels.gate[(-(-n_atoms // ATOMS),)](
            self.update,
            self.weights.gate,
            self.weights.gate_bias,
            result,
            n_atoms,
            ATOMS=ATOMS,
            CHANNELS_2=self.blocks.channels,
            num_warps=WARPS,
        )
        return result

    def _shared(self, features: Tensor) -> Tensor:
        """Return the components that input and output have."""
        return features.narrow(0, 0, self.dim_query)

    def backward(
        self,
        neighbors: Neighbors,
        slope: Tensor,
        pull: Tensor,
        alphas: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """Return dE/d(features before) from that after the layer.

        Adds to ``pull``; ``alphas`` and ``logits`` are memory.
        """
        n_atoms = slope.shape[1]
        back = torch.empty_like(slope)
        self.kernels.gate_back[(-(-n_atoms // ATOMS),)](
            self.update,
            self.weights.gate,
            self.weights.gate_bias,
            slope,
            back,
            n_atoms,
            ATOMS=ATOMS,
            CHANNELS_2=self.blocks.channels,
            num_warps=WARPS,
        )
        heads_slope = torch.bmm(back, self.weights.output.transpose(1, 2))
        projected = torch.bmm(self.features, self.weights.project)
        projected_back = projected if self.first else torch.empty_like(projected)
        self.kernels.attend_back_to_center[(n_atoms,)](
            projected,
            self.table,
            neighbors.count,
            neighbors.neighbor,
            neighbors.direction,
            neighbors.distance,
            self.heads,
            self.inverse,
            heads_slope,
            alphas,
            logits,
            pull,
            projected_back,
            n_atoms,
            neighbors.room,
            ADD=not self.last,
            FIRST=self.first,
            **self.options,
            **self.blocks.of_attention(self.blocks.edges_back),
        )
        if self.first:  # nothing before it depends on positions
            return slope
        self.kernels.attend_back_to_neighbor[(n_atoms,)](
            projected,
            self.table,
            neighbors.count,
            neighbors.neighbor,
            neighbors.reverse,
            neighbors.direction,
            neighbors.distance,
            heads_slope,
            alphas,
            logits,
            pull,
            projected_back,
            n_atoms,
            neighbors.room,
            **self.options,
            **self.blocks.of_attention(self.blocks.edges_back),
        )
        result = torch.bmm(projected_back, self.weights.project.transpose(1, 2))
        self._keep_backward(back, result)
        return result

    def _keep(self, features: Tensor) -> None:
        """Add the self-interaction to the update."""
        weights, n_atoms = self.weights.kept, features.shape[1]
        if isinstance(weights, Linear):
            shared = self._shared(self.update)
            shared.baddbmm_(self._shared(features), weights.matrix)
            return
        self.inner = features.new_empty(n_atoms, self.config.self_interaction_width)
        self.kernels.self_interaction[(-(-n_atoms // ATOMS),)](
            features,
            weights.hidden,
            weights.hidden_bias,
            weights.mixing,
            weights.mixing_bias,
            self.update,
            self.inner,
            n_atoms,
            num_warps=WARPS_OF_PAIRS,
            num_stages=1,  # weights wait in no shared memory, of which there is little
            **self.blocks.of_self_interaction(self.config, features.dtype),
        )

    def _keep_backward(self, slope: Tensor, back: Tensor) -> None:
        """Add the self-interaction's part to dE/d(features)."""
        weights, n_atoms = self.weights.kept, slope.shape[1]
        if isinstance(weights, Linear):
            shared = self._shared(back)
            shared.baddbmm_(self._shared(slope), weights.matrix.transpose(1, 2))
            return
        self.kernels.self_interaction_back[(-(-n_atoms // ATOMS),)](
            self.features,
            weights.hidden,
            weights.mixing,
            weights.mixing_bias,
            self.inner,
            slope,
            back,
            n_atoms,
            num_warps=WARPS_OF_PAIRS,
            num_stages=1,  # weights wait in no shared memory, of which there is little
            **self.blocks.of_self_interaction(self.config, slope.dtype),
        )

"""Derivatives of energies by all weights and radial tables of a network.

The backward pass of the force gives the derivatives by what every matrix product
returns.  Those by the matrices are products of features with them, which cuBLAS makes;
those by the radial tables are a kernel's (``source/table_back.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_se3.compiled.codegen import TABLE_START
from openmm_se3.config import ModelConfig
from openmm_se3.triton.generate import n_paths
from openmm_se3.triton.kernels import table_kernels
from openmm_se3.triton.layer import Backward, Layer, Neighbors
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Attentive, LayerWeights, Linear, Weights


class TrainedLayer(Layer):
    """A layer with the derivatives by its weights and its radial functions.

    Args:
        config: Shape of the network.
        number: Which of its layers.
        weights: Weights of the layer.
        table: Radial functions of the layer.
    """

    def __init__(
        self, config: ModelConfig, number: int, weights: LayerWeights, table: Tensor
    ) -> None:
        super().__init__(config, number, weights, table)
        self.first = False  # weights come before it
        self.n_paths = n_paths(config)[number]
        self.table_kernels = table_kernels(config, number)

    def by_weights(self, slope: Tensor, found: Backward) -> LayerWeights:
        """Return the derivatives by the weights.

        Args:
            slope: dE/d(features after the layer).
            found: What the backward pass has found.
        """
        gate, gate_bias = self._by_gate(slope)
        return LayerWeights(
            torch.bmm(self.features.transpose(1, 2), found.projected_back),
            torch.bmm(self.heads.transpose(1, 2), found.update),
            self._by_kept(found.update),
            gate,
            gate_bias,
        )

    def by_table(
        self,
        neighbors: Neighbors,
        found: Backward,
        alphas: Tensor,
        logits: Tensor,
        order: Tensor,
        first: Tensor,
    ) -> Tensor:
        """Return the derivative by the table [intervals, 6, n_functions].

        Args:
            neighbors: Neighbors of each atom.
            found: What the backward pass has found.
            alphas: As the backward pass left them, as the next argument.
            logits: dE/d(logit) of each edge and head.
            order: See :func:`edges_by_interval`, as the next argument.
            first: Where each interval begins.
        """
        result = torch.empty_like(self.table)
        self.table_kernels.attend_back_to_table[(len(self.table), self.n_paths)](
            found.projected,
            order,
            first,
            neighbors.neighbor,
            neighbors.direction,
            neighbors.distance,
            found.heads,
            alphas,
            logits,
            result,
            len(neighbors.count),
            neighbors.room,
            **self.options,
            **self.blocks.of_attention(self.blocks.edges),
        )
        return result

    def _by_gate(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives by the weights and the bias of the gate."""
        n_degrees = int(self.dim_out**0.5 + 0.5)
        gates, changes = [], []
        for degree in range(n_degrees):
            rows = slice(degree**2, (degree + 1) ** 2)
            f = self.update[rows]
            gates.append(f[0] if degree == 0 else f.square().mean(0))
            changes.append((f * slope[rows]).sum(0))
        invariants = torch.cat(gates, dim=1)
        opened = torch.sigmoid(
            torch.addmm(self.weights.gate_bias, invariants, self.weights.gate)
        )
        change = torch.cat(changes, dim=1) * opened * (1.0 - opened)
        return invariants.T @ change, change.sum(0)

    def _by_kept(self, slope: Tensor) -> Linear | Attentive:
        """Return the derivatives by the self-interaction, from dE/d(update)."""
        f, v = self._shared(self.features), self._shared(slope)
        weights = self.weights.kept
        if isinstance(weights, Linear):
            return Linear(torch.bmm(f.transpose(1, 2), v))
        products, mixes = [], []
        for degree in range(len(weights.mixing)):
            rows = slice(degree**2, (degree + 1) ** 2)
            by_atom = f[rows].permute(1, 2, 0)  # [n_atoms, channels, 2l + 1]
            products.append(torch.bmm(by_atom, by_atom.transpose(1, 2)))
            mixes.append(torch.bmm(by_atom, v[rows].transpose(0, 1)))
        product = torch.stack(products, dim=1).flatten(1)  # of all degrees
        by_mix = torch.stack(mixes, dim=1)  # [n_atoms, degrees, channels, channels]
        s = torch.sigmoid(self.inner)
        hidden = self.inner * s
        width = hidden.shape[1]
        mixing = weights.mixing.movedim(1, -1).reshape(-1, width)
        by_hidden = by_mix.flatten(1) @ mixing
        by_inner = by_hidden * s * (1.0 + self.inner * (1.0 - s))
        by_mixing = (hidden.T @ by_mix.flatten(1)).unflatten(1, by_mix.shape[1:])
        return Attentive(
            (product.T @ by_inner).view_as(weights.hidden),
            by_inner.sum(0),
            by_mixing.movedim(0, 1),
            by_mix.sum(0),
        )


class TrainedNetwork(Network):
    """A network with the derivatives by its weights and its radial functions.

    Args:
        config: Shape of the network.
    """

    def energy_gradient(
        self,
        neighbors: Neighbors,
        species: Tensor,
        by_energies: Tensor,
        flat: Tensor,
        tables: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the derivatives of a sum of energies by weights and by tables.

        Args:
            neighbors: Neighbors of each atom.
            species: Species of each atom [n_atoms].
            by_energies: Factor of each atom's energy in the sum [n_atoms].
            flat: Weights [n], see :class:`~openmm_se3.triton.pack.Weights`.
            tables: Radial functions [n].
        """
        weights = Weights.from_flat(self.config, flat)
        layers = [
            TrainedLayer(self.config, number, weights.layers[number], table)
            for number, table in enumerate(self.tables_of_layers(tables))
        ]
        features = weights.embedding.index_select(0, species).unsqueeze(0)
        for layer in layers:
            features = layer.forward(neighbors, features)
        slope, *head = self._head(features[0], by_energies.to(flat.dtype), weights)
        intervals = len(layers[0].table)
        order, first = edges_by_interval(neighbors, intervals, self.config.cutoff)
        edge_numbers = len(species) * neighbors.room
        pull = slope.new_empty(3 * edge_numbers)
        alphas, logits = (
            slope.new_empty(self.config.heads * edge_numbers) for _ in range(2)
        )
        of_layers: list[LayerWeights] = []
        of_tables: list[Tensor] = []
        while layers:
            layer = layers.pop()
            found = layer.backward(neighbors, slope, pull, alphas, logits)
            of_layers.insert(0, layer.by_weights(slope, found))
            table = layer.by_table(neighbors, found, alphas, logits, order, first)
            of_tables.insert(0, table.flatten())
            slope = found.features
        kinds = torch.arange(len(weights.embedding), device=species.device)
        of_kind = (kinds[:, None] == species).to(flat.dtype)  # adds up in one order
        gradient = Weights(of_kind @ slope[0], tuple(of_layers), *head)
        return gradient.joined(), torch.cat(of_tables)

    def _head(
        self, features: Tensor, by_energies: Tensor, weights: Weights
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return dE/d(features), and the derivatives by the energy head."""
        inner = torch.addmm(weights.hidden_bias, features, weights.hidden)
        s = torch.sigmoid(inner)
        scaled = self.config.energy_scale * by_energies.unsqueeze(1)
        by_inner = scaled * weights.output * s * (1.0 + inner * (1.0 - s))
        return (
            (by_inner @ weights.hidden.T).unsqueeze(0),
            features.T @ by_inner,
            by_inner.sum(0),
            (scaled * inner * s).sum(0),
        )


def edges_by_interval(
    neighbors: Neighbors, intervals: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Return the places of edges in the lists, by interval of the radial tables.

    Args:
        neighbors: Neighbors of each atom.
        intervals: Number of intervals.
        cutoff: Cutoff of the network, A.

    Returns:
        Places [n_edges], those of one interval behind those of another, and where each
        interval begins there [intervals + 1]; int32.
    """
    n_atoms, room = len(neighbors.count), neighbors.room
    place = torch.arange(room, device=neighbors.count.device)
    used = (place < neighbors.count.unsqueeze(1)).flatten().nonzero().squeeze(1)
    per_length = intervals / (cutoff - TABLE_START)
    distance = neighbors.distance[: n_atoms * room].index_select(0, used)
    interval = ((distance - TABLE_START) * per_length).clamp(0, intervals - 1).long()
    interval, order = interval.sort(stable=True)
    bounds = torch.arange(intervals + 1, device=order.device)
    first = torch.searchsorted(interval, bounds)
    return used.index_select(0, order).int(), first.int()

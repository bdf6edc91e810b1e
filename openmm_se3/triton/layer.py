"""One layer as launches, forward and backward."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.triton.blocks import ATOMS, WARPS, WARPS_OF_PAIRS, Blocks
from openmm_se3.triton.generate import kernel_shapes
from openmm_se3.triton.kernels import Kernels, layer_kernels
from openmm_se3.triton.pack import LayerWeights, Linear


@dataclasses.dataclass
class Neighbors:
    """Neighbors of each atom, see ``source/neighbors.py``.

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


@dataclasses.dataclass
class Backward:
    """What the backward pass of a layer has found.

    Attributes:
        update: dE/d(update), which goes into the gate [L dim, n_atoms, channels].
        heads: dE/d(heads) [L dim, n_atoms, channels].
        projected: Queries and what atoms send [K dim, n_atoms, 2 keys + channels].
        projected_back: dE/d(projected), but in the first layer.
        features: dE/d(features before the layer).
    """

    update: Tensor
    heads: Tensor
    projected: Tensor
    projected_back: Tensor
    features: Tensor


class Layer:
    """One layer, with what its backward pass needs of the forward pass.

    Args:
        config: Shape of the network.
        number: Which of its layers.
        weights: Weights of the layer.
        table: Radial functions of the layer.
    """

    def __init__(
        self, config: ModelConfig, number: int, weights: LayerWeights, table: Tensor
    ) -> None:
        self.kernels: Kernels = layer_kernels(config, number)
        self.blocks = Blocks.of(config)
        self.config = config
        self.first = number == 0
        self.last = number == config.layers - 1
        k_max, l_max = kernel_shapes(config)[number]
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
    ) -> Backward:
        """Return dE/d(features before) from that after the layer, and more.

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
            return Backward(back, heads_slope, projected, projected_back, slope)
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
        return Backward(back, heads_slope, projected, projected_back, result)

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

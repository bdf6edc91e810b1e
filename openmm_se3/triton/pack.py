"""Weights of a network as the GPU's kernels and matrix products read them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from openmm_se3.config import ModelConfig
from openmm_se3.nn.attention import AttentionLayer, feature_degrees
from openmm_se3.nn.layers import (
    AttentiveSelfInteraction,
    EquivariantLinear,
    Gate,
    degree_of_component,
)
from openmm_se3.nn.transformer import SE3Transformer


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fixed mixing of channels.

    Attributes:
        matrix: [shared dim, channels, channels].
    """

    matrix: Tensor


@dataclasses.dataclass(frozen=True)
class Attentive:
    """Equations (2.6) and (2.7).

    Attributes:
        hidden: [degrees, channels, channels, width], symmetric in the channels.
        hidden_bias: [width].
        mixing: [degrees, width, channels, channels].
        mixing_bias: [degrees, channels, channels].
    """

    hidden: Tensor
    hidden_bias: Tensor
    mixing: Tensor
    mixing_bias: Tensor


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer.

    Matrices are [inputs, outputs] and stand once for each component of a degree, so
    that one batched product mixes the channels of all components.

    Attributes:
        project: To query, and to what an atom sends for keys and for values
            [K dim, channels, 2 keys + channels].
        output: After the heads [L dim, channels, channels].
        kept: Self-interaction, see :class:`Linear` and :class:`Attentive`.
        gate: [degrees * channels, degrees * channels].
        gate_bias: [degrees * channels].
    """

    project: Tensor
    output: Tensor
    kept: Linear | Attentive
    gate: Tensor
    gate_bias: Tensor


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of a network.

    Attributes:
        embedding: [n_species, channels].
        layers: Those of each layer.
        hidden: Energy head [channels, channels].
        hidden_bias: [channels].
        output: [channels].
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor

    @classmethod
    def of(cls, network: SE3Transformer) -> Weights:
        """Return the weights of a network."""
        attention = cast("list[AttentionLayer]", list(network.attention))
        gates = cast("list[Gate]", list(network.nonlinearities))
        head = cast(nn.Sequential, network.energy_head)
        hidden, _, output = cast("list[nn.Linear]", list(head))
        return cls(
            network.embedding.weight,
            tuple(_layer(a, g) for a, g in zip(attention, gates, strict=True)),
            hidden.weight.T,
            hidden.bias,
            output.weight[0],
        )

    @classmethod
    def from_flat(cls, config: ModelConfig, flat: Tensor) -> Weights:
        """Return views of what :meth:`flat` returned for a network of this shape."""
        place = 0

        def take(*shape: int) -> Tensor:
            nonlocal place
            size = math.prod(shape)
            part = flat.narrow(0, place, size).view(shape)
            place += size
            return part

        def kept(n_degrees: int) -> Linear | Attentive:
            if config.self_interaction == "linear":
                return Linear(take(n_degrees**2, channels, channels))
            width, pairs = config.self_interaction_width, (channels, channels)
            return Attentive(
                take(n_degrees, *pairs, width),
                take(width),
                take(n_degrees, width, *pairs),
                take(n_degrees, *pairs),
            )

        channels = config.channels
        embedding = take(len(config.elements), channels)
        degrees = feature_degrees(config)
        layers = []
        for k_max, l_max in zip(degrees[:-1], degrees[1:], strict=True):
            gates = (l_max + 1) * channels
            layers.append(
                LayerWeights(
                    take(
                        (k_max + 1) ** 2, channels, 2 * config.key_channels + channels
                    ),
                    take((l_max + 1) ** 2, channels, channels),
                    kept(min(k_max, l_max) + 1),
                    take(gates, gates),
                    take(gates),
                )
            )
        return cls(
            embedding,
            tuple(layers),
            take(channels, channels),
            take(channels),
            take(channels),
        )

    def joined(self) -> Tensor:
        """Return all weights as one tensor."""
        return torch.cat([part.reshape(-1) for part in _tensors(self)])

    def flat(self) -> Tensor:
        """Return the same without a gradient."""
        return self.joined().detach()


def _tensors(weights: Any) -> list[Tensor]:
    """Return the tensors in a dataclass, in their order."""
    if isinstance(weights, Tensor):
        return [weights]
    if isinstance(weights, tuple):
        parts = list(weights)
    else:
        parts = [getattr(weights, field.name) for field in dataclasses.fields(weights)]
    return [tensor for part in parts for tensor in _tensors(part)]


def _layer(attention: AttentionLayer, gate: Gate) -> LayerWeights:
    query, mix = _matrices(attention.query), _matrices(attention.mix)
    # Degrees above those of the output have no query.
    query = nn.functional.pad(query, (0, 0, 0, 0, 0, len(mix) - len(query)))
    return LayerWeights(
        torch.cat([query, mix], dim=2),
        _matrices(attention.output),
        _self_interaction(attention.self_interaction),
        gate.gate.weight.T,
        gate.gate.bias,
    )


def _self_interaction(layer: nn.Module) -> Linear | Attentive:
    if not isinstance(layer, AttentiveSelfInteraction):
        return Linear(_matrices(layer))
    hidden = (layer.product_scale * layer.hidden.weight).T.unflatten(0, layer.shape)
    mixing = (layer.scale * layer.output.weight).unflatten(0, layer.shape)
    return Attentive(
        0.5 * (hidden + hidden.transpose(1, 2)),
        layer.hidden.bias,
        mixing.movedim(-1, 1),
        layer.scale * layer.output.bias.unflatten(0, layer.shape),
    )


def _matrices(linear: nn.Module) -> Tensor:
    """Return the matrix of each component [dim, channels_in, channels_out]."""
    assert isinstance(linear, EquivariantLinear)
    degrees = degree_of_component(len(linear.weight) - 1).to(linear.weight.device)
    return linear.scale * linear.weight.index_select(0, degrees)


def constants(network: SE3Transformer) -> Tensor:
    """Return isolated energies and what walls need, float64, one behind the other.

    These are [n_species] and, of each pair of species, charge (eV A), 1 / screening
    length and 1 / reach (1/A) [n_species^2, 3].
    """
    repulsion = network.zbl.pairs.double() * torch.tensor([2.0, 1.0, 1.0])
    return torch.cat([network.isolated, repulsion.flatten()])

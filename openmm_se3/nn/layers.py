"""Layers on the features of single atoms: mixing, self-interaction, nonlinearity.

Features are stored as [dim, n_atoms, channels]: the components m = -l..l of degree l
are rows l^2 to (l+1)^2 - 1, all degrees have the same number of channels.

| symbol            | variable  | shape                                      |
|-------------------|-----------|--------------------------------------------|
| f_in,i,c^l        | features  | [(l_max+1)^2, n_atoms, channels]           |
| f_c'^l . f_c^l    | products  | [n_atoms, channels, channels] a degree     |
| w_i,c'c^{ll}      | weights   | [n_atoms, l_max+1, channels, channels_out] |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from openmm_se3.nn.activation import ACTIVATIONS, Activation

NORM_EPSILON = 1e-12  # keeps the slope of a norm finite at zero


def degree_of_component(l_max: int) -> Tensor:
    """Return the degree l of each component [(l_max+1)^2]."""
    degrees = torch.arange(l_max + 1)
    return torch.repeat_interleave(degrees, 2 * degrees + 1)


def sum_over_components(l_max: int) -> Tensor:
    """Return the matrix [l_max+1, (l_max+1)^2] that adds up components of a degree."""
    return nn.functional.one_hot(degree_of_component(l_max)).T.to(torch.float64)


class EquivariantLinear(nn.Module):
    """f_out,c'^l = sum_c W_c'c^l f_c^l: mixes channels within each degree.

    By Schur's lemma nothing else is linear and equivariant without a direction; this is
    W_Q of (2.3), W_V^{ll} of (2.8) and the layer after the concatenated heads.

    Args:
        l_max: Highest degree.
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        gain: Factor of the output.
    """

    def __init__(
        self, l_max: int, channels_in: int, channels_out: int, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.degree: Tensor
        self.weight = nn.Parameter(torch.randn(l_max + 1, channels_in, channels_out))
        # Outside the parameter, so that parameters are of order one and an optimizer's
        # step changes all of them by about as much.
        self.scale = gain / math.sqrt(channels_in)
        degree = degree_of_component(l_max)
        self.register_buffer("degree", degree, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return [dim, n_atoms, channels_out] for [dim, n_atoms, channels_in]."""
        weight = self.scale * self.weight.index_select(0, self.degree)
        return torch.bmm(features, weight)


class AttentiveSelfInteraction(nn.Module):
    """Equations (2.6) and (2.7): channels mixed by weights made from their products.

        w_i,c'c^{ll} = MLP( all products f_c'^l . f_c^l )                    (2.6)
        f_out,i,c'^l = sum_c w_i,c'c^{ll} f_in,i,c^l                         (2.7)

    Where we differ and why: the activation is SiLU by default, not ReLU, whose kinks
    are jumps of the force; products are divided by 2l+1 so that all degrees have the
    same scale.
    """

    def __init__(
        self,
        l_max: int,
        channels_in: int,
        channels_out: int,
        width: int,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.dims = [2 * l + 1 for l in range(l_max + 1)]
        self.shape = (l_max + 1, channels_in, channels_out)
        self.hidden = nn.Linear((l_max + 1) * channels_in**2, width)
        self.output = nn.Linear(width, (l_max + 1) * channels_in * channels_out)
        self.scale = 1.0 / math.sqrt(channels_in)  # outside, as in EquivariantLinear
        self.product_scale: Tensor
        scale = 1.0 / torch.tensor(self.dims, dtype=torch.float64)
        scale = scale.repeat_interleave(channels_in**2)
        self.register_buffer("product_scale", scale, persistent=False)
        # Start near a fixed random mixing of channels, which the bias holds.
        with torch.no_grad():
            self.output.weight.mul_(0.3)
            self.output.bias.normal_()

    def forward(self, features: Tensor) -> Tensor:
        """Return [dim, n_atoms, channels_out] for [dim, n_atoms, channels_in]."""
        by_degree = features.transpose(0, 1).split(self.dims, dim=1)
        products: list[Tensor] = []
        for f in by_degree:  # [n_atoms, 2l+1, channels]
            products.append(torch.bmm(f.transpose(1, 2), f).flatten(1))
        hidden = self.activation(
            nn.functional.linear(
                torch.cat(products, dim=1),
                self.product_scale * self.hidden.weight,
                self.hidden.bias,
            )
        )
        weights = nn.functional.linear(
            hidden, self.scale * self.output.weight, self.scale * self.output.bias
        )
        weights = weights.unflatten(1, self.shape).unbind(1)
        mixed: list[Tensor] = []
        for f, w in zip(by_degree, weights):
            mixed.append(torch.bmm(f, w))
        return torch.cat(mixed, dim=1).transpose(0, 1)


class Gate(nn.Module):
    """Nonlinearity f_out,c^l = f_c^l sigma(g_c^l), g linear in f^0 and all |f^l|^2.

    Where we differ from (2.9) and why: (2.9) divides by |f| and normalizes over
    channels, so that a feature which fades as a neighbor leaves is blown up to order
    one until it is exactly zero.  A gate that is polynomial in |f|^2 fades with the
    feature.
    """

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        self.degree: Tensor
        self.mean_of_degree: Tensor
        self.channels = channels
        self.n_degrees = l_max + 1
        self.gate = nn.Linear(self.n_degrees * channels, self.n_degrees * channels)
        degree = degree_of_component(l_max)
        self.register_buffer("degree", degree, persistent=False)
        add = sum_over_components(l_max)[1:, 1:]
        add = add / add.sum(1, keepdim=True)  # mean, not sum, over m
        self.register_buffer("mean_of_degree", add, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return [dim, n_atoms, channels] for [dim, n_atoms, channels]."""
        scalars, others = features.split([1, features.shape[0] - 1])
        invariants = scalars
        if self.n_degrees > 1:
            squares = others.square().flatten(1)
            squares = (self.mean_of_degree @ squares).unflatten(1, (-1, self.channels))
            invariants = torch.cat([scalars, squares])  # [n_degrees, n_atoms, C]
        gates = torch.sigmoid(self.gate(invariants.transpose(0, 1).flatten(1)))
        gates = gates.unflatten(1, (self.n_degrees, self.channels)).transpose(0, 1)
        return features * gates.index_select(0, self.degree)


class NormNonlinearity(nn.Module):
    """Equation (2.9): f_out = ReLU(LayerNorm(|f|)) f / |f|, for each degree.

    Thomas et al., https://arxiv.org/abs/1802.08219.  Kept to reproduce the original
    networks; its slope at a vanishing feature is not bounded, see :class:`Gate`.
    """

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        self.epsilon = NORM_EPSILON
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(l_max + 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return [dim, n_atoms, channels] for [dim, n_atoms, channels]."""
        outputs: list[Tensor] = []
        for l, layer_norm in enumerate(self.norms):
            f = features[l * l : (l + 1) * (l + 1)]
            norm = torch.sqrt(f.square().sum(0, keepdim=True) + self.epsilon)
            outputs.append(torch.relu(layer_norm(norm)) * f / norm)
        return torch.cat(outputs)

"""Weights, constants and tables of a network, as ``network.cpp`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from openmm_se3.compiled.generate import TABLE_START
from openmm_se3.model.attention import AttentionLayer
from openmm_se3.model.layers import (
    AttentiveSelfInteraction,
    EquivariantLinear,
    Gate,
)
from openmm_se3.model.transformer import SE3Transformer


def weights(network: SE3Transformer) -> Tensor:
    """Return all weights of a float64 network as one tensor [n_weights].

    Factors that the network keeps beside its parameters are multiplied in, and matrices
    that the backward pass needs stand there twice, the second time transposed.
    """
    parts = [network.embedding.weight]
    gates = cast("list[Gate]", list(network.nonlinearities))
    for attention, gate in zip(_attention(network), gates, strict=True):
        parts += _layer(attention, gate)
    hidden, _, output = cast("list[nn.Linear]", list(network.energy_head))
    parts += [hidden.weight.T, hidden.weight, hidden.bias, output.weight]
    return torch.cat([part.detach().reshape(-1) for part in parts])


def _attention(network: SE3Transformer) -> list[AttentionLayer]:
    return cast("list[AttentionLayer]", list(network.attention))


def _layer(attention: AttentionLayer, gate: Gate) -> Iterator[Tensor]:
    for linear in (attention.query, attention.mix, attention.output):
        yield from _equivariant(linear)
    if isinstance(attention.self_interaction, AttentiveSelfInteraction):
        yield from _attentive(attention.self_interaction)
    else:
        yield from _equivariant(attention.self_interaction)
    yield from (gate.gate.weight.T, gate.gate.weight, gate.gate.bias)


def _equivariant(linear: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(linear, EquivariantLinear)
    weight = linear.scale * linear.weight
    return weight, weight.transpose(1, 2)


def _attentive(layer: AttentiveSelfInteraction) -> Iterator[Tensor]:
    degrees, channels, _ = layer.shape
    hidden = (layer.product_scale * layer.hidden.weight).unflatten(
        1, (degrees, channels, channels)
    )
    # Products are symmetric: of f_c' . f_c and f_c . f_c' only one is computed.
    both = hidden + hidden.transpose(2, 3)
    both = both - torch.diag_embed(hidden.diagonal(dim1=2, dim2=3))
    upper = torch.triu_indices(channels, channels)
    packed = both[:, :, upper[0], upper[1]].flatten(1)  # [width, n_products]
    yield from (packed.T, packed, layer.hidden.bias)
    mixing = layer.scale * layer.output.weight
    yield from (mixing.T, mixing, layer.scale * layer.output.bias)


def constants(network: SE3Transformer) -> Tensor:
    """Return isolated energies [n_species] and the wall [n_species^2 * 3], float64."""
    wall = network.wall.pairs.double() * torch.tensor([2.0, 1.0, 1.0])
    return torch.cat([network.isolated.double(), wall.flatten()])


def tables(network: SE3Transformer, intervals: int) -> Tensor:
    """Return the radial functions of all layers as polynomials of degree 5.

    The range from :data:`TABLE_START` to the cutoff is divided into equal intervals.  A
    polynomial has the value, slope and curvature of its function at both ends.

    Args:
        network: The network, in float64.
        intervals: Number of intervals.

    Returns:
        Coefficients [intervals, 6, n_functions] of powers of the place in an interval,
        0 to 1, of one layer behind the other.
    """
    step = (network.config.cutoff - TABLE_START) / intervals
    r = TABLE_START + step * torch.arange(intervals + 1, dtype=torch.float64)
    parts = []
    for attention in _attention(network):

        def psi(distance: Tensor, layer: AttentionLayer = attention) -> Tensor:
            basis = network.radial_basis(distance)
            return layer.radial(basis, network.envelope(distance))

        slope = _derivative(psi)
        curvature = _derivative(slope)
        parts.append(_quintics(psi(r), step * slope(r), step**2 * curvature(r)))
    return torch.cat(parts).detach()


def _quintics(y: Tensor, d: Tensor, c: Tensor) -> Tensor:
    """Return coefficients from values, slopes, curvatures [n + 1, n_functions]."""
    d0, d1, c0, c1 = d[:-1], d[1:], c[:-1], c[1:]
    rise = y[1:] - y[:-1]
    powers = [
        y[:-1],
        d0,
        0.5 * c0,
        10.0 * rise - 6.0 * d0 - 4.0 * d1 - 1.5 * c0 + 0.5 * c1,
        -15.0 * rise + 8.0 * d0 + 7.0 * d1 + 1.5 * c0 - c1,
        6.0 * rise - 3.0 * d0 - 3.0 * d1 - 0.5 * c0 + 0.5 * c1,
    ]
    return torch.stack(powers, dim=1).flatten()


def _derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return df/dr of a function of distances [n] with values [n, n_functions]."""

    def derivative(r: Tensor) -> Tensor:
        r = r if r.requires_grad else r.clone().requires_grad_()
        values = function(r)
        # The gradient of v . f(r) is v . f'(r), whose gradient by v is f'(r).
        v = torch.ones_like(values).requires_grad_()
        (along,) = torch.autograd.grad(values, r, v, create_graph=True)
        return torch.autograd.grad(along.sum(), v, create_graph=True)[0]

    return derivative

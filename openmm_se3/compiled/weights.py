"""Weights, constants and tables of a network, as ``source`` reads them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from openmm_se3.compiled.codegen import TABLE_START
from openmm_se3.nn.attention import AttentionLayer
from openmm_se3.nn.layers import (
    AttentiveSelfInteraction,
    EquivariantLinear,
    Gate,
)
from openmm_se3.nn.transformer import SE3Transformer

# Weights, and whether the backward pass needs their transpose.
Part = tuple[Tensor, bool]


def parts_of(network: SE3Transformer) -> list[Part]:
    """Return all weights of a network, in their order.

    Factors that the network keeps beside its parameters are multiplied in.
    """
    parts = [(network.embedding.weight, False)]
    gates = cast("list[Gate]", list(network.nonlinearities))
    for attention, gate in zip(_attention(network), gates, strict=True):
        parts += _layer(attention, gate)
    head = cast("nn.Sequential", network.energy_head)
    hidden, _, output = cast("list[nn.Linear]", list(head))
    parts += [(hidden.weight.T, True), (hidden.bias, False), (output.weight, False)]
    return parts


def learned(parts: list[Part]) -> Tensor:
    """Return weights as one tensor, in the order of the derivatives by them."""
    return torch.cat([part.reshape(-1) for part, _ in parts])


def weights(parts: list[Part]) -> Tensor:
    """Return weights as one tensor, without a gradient.

    Matrices that the backward pass needs stand there twice, the second time transposed.
    """
    flat: list[Tensor] = []
    for part, needed_twice in parts:
        part = part.detach()
        flat.append(part.reshape(-1))
        if needed_twice:
            flat.append(part.transpose(-2, -1).reshape(-1))
    return torch.cat(flat)


def _attention(network: SE3Transformer) -> list[AttentionLayer]:
    return cast("list[AttentionLayer]", list(network.attention))


def _layer(attention: AttentionLayer, gate: Gate) -> Iterator[Part]:
    for linear in (attention.query, attention.mix, attention.output):
        yield _equivariant(linear)
    if isinstance(attention.self_interaction, AttentiveSelfInteraction):
        yield from _attentive(attention.self_interaction)
    else:
        yield _equivariant(attention.self_interaction)
    yield (gate.gate.weight.T, True)
    yield (gate.gate.bias, False)


def _equivariant(linear: nn.Module) -> Part:
    assert isinstance(linear, EquivariantLinear)
    return linear.scale * linear.weight, True


def _attentive(layer: AttentiveSelfInteraction) -> Iterator[Part]:
    degrees, channels, _ = layer.shape
    # (2.6) block by block: [degrees * channels, width, channels].
    mixing = layer.output.weight.unflatten(0, (-1, channels)).transpose(1, 2)
    hidden = (layer.product_scale * layer.hidden.weight).T
    yield (_SymmetricRows.apply(hidden, degrees, channels), True)
    yield (layer.hidden.bias, False)
    yield (layer.scale * mixing, True)
    yield (layer.scale * layer.output.bias, False)


class _SymmetricRows(torch.autograd.Function):
    """Weights of the products f_c . f_c' for c <= c', from those for all c and c'.

    Products are symmetric: only one of f_c . f_c' and f_c' . f_c is computed, with the
    sum of their weights.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, degrees: int, channels: int) -> Tensor:
        """Return [n_products, width] from [degrees * channels * channels, width]."""
        upper, lower, ctx.product = _symmetric_pairs(degrees, channels)
        twice = rows.index_select(0, upper) + rows.index_select(0, lower)
        return torch.where((upper == lower)[:, None], 0.5 * twice, twice)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """Both weights of a product have the slope of their sum."""
        return slope.index_select(0, ctx.product), None, None


@functools.cache
def _symmetric_pairs(degrees: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two rows of each product [n_products], and the product of each row."""
    of_all = torch.arange(degrees * channels**2).view(degrees, channels, channels)
    c, e = torch.triu_indices(channels, channels)
    upper, lower = of_all[:, c, e].flatten(), of_all[:, e, c].flatten()
    product = torch.empty(of_all.numel(), dtype=torch.int64)
    product[upper] = product[lower] = torch.arange(len(upper))
    return upper, lower, product


def constants(network: SE3Transformer) -> Tensor:
    """Return what depends on species alone, float64, one behind the other.

    These are isolated energies [n_species], the ZBL repulsion [n_species^2 * 3], and
    what the first layer makes of an atom itself [n_species, query + sender + kept].
    """
    repulsion = network.zbl.pairs.double() * torch.tensor([2.0, 1.0, 1.0])
    first = _attention(network)[0]
    features = network.embedding.weight.unsqueeze(0)
    with torch.no_grad():
        of_species = [
            part(features) for part in (first.query, first.mix, first.self_interaction)
        ]
    parts = network.isolated, repulsion, torch.cat(of_species, dim=2)
    return torch.cat([part.double().flatten() for part in parts])


class RadialTables:
    """Makes tables of a network's radial functions: polynomials of degree 5.

    The range from :data:`TABLE_START` to the cutoff is divided into equal intervals.  A
    polynomial has the value, slope and curvature of its function at both ends.

    Args:
        network: A network of the shape and in the precision that tables are made for.
        intervals: Number of intervals.
    """

    def __init__(self, network: SE3Transformer, intervals: int) -> None:
        dtype = network.embedding.weight.dtype
        self.step = (network.config.cutoff - TABLE_START) / intervals
        r = TABLE_START + self.step * torch.arange(intervals + 1, dtype=torch.float64)
        with torch.no_grad():
            self.basis = torch.stack(_derivatives(network.radial_basis, r.to(dtype)))
            u, du, ddu = _derivatives(network.envelope, r)
        # From f, f' and f'' at nodes to value, slope and curvature of u f there, and on
        # to the polynomials of the intervals [intervals, 6, 6].
        zero = torch.zeros_like(u)
        product = torch.stack([u, zero, zero, du, u, zero, ddu, 2.0 * du, u], dim=1)
        powers = self.step ** torch.arange(3, dtype=torch.float64)
        product = product.unflatten(1, (3, 3)) * powers[:, None]
        left, right = HERMITE.split(3, dim=1)
        both = torch.cat([left @ product[:-1], right @ product[1:]], dim=2)
        self.polynomial = both.to(dtype)

    def __call__(self, network: SE3Transformer) -> Tensor:
        """Return the tables of a network, see :func:`radial_tables`."""
        return radial_tables(self.basis, self.polynomial, radial_weights(network))


def radial_weights(network: SE3Transformer) -> list[Tensor]:
    """Return weight and bias of the two linear maps of each layer's radial network."""
    weights: list[Tensor] = []
    for layer in _attention(network):
        for linear in (layer.radial.hidden, layer.radial.output):
            weights += [linear.weight, linear.bias]
    return weights


def radial_tables(basis: Tensor, polynomial: Tensor, weights: list[Tensor]) -> Tensor:
    """Return coefficients [n_numbers] of one layer behind the other.

    Those of a layer are [intervals, 6, n_functions], of powers of the place in an
    interval, 0 to 1.  TorchScript compiles this too.

    Args:
        basis: Radial basis, its slope and curvature at the nodes
            [3, intervals + 1, n_basis].
        polynomial: From f, f' and f'' at both ends to coefficients [intervals, 6, 6].
        weights: As :func:`radial_weights` returns them.
    """
    parts: list[Tensor] = []
    for layer in range(len(weights) // 4):
        hidden, hidden_bias = weights[4 * layer], weights[4 * layer + 1]
        output, output_bias = weights[4 * layer + 2], weights[4 * layer + 3]
        x, dx, ddx = (basis @ hidden.T).unbind(0)
        x = x + hidden_bias
        s = torch.sigmoid(x)
        slope = s * (1.0 + x * (1.0 - s))  # of SiLU
        curvature = s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))
        inner = torch.stack([x * s, slope * dx, curvature * dx.square() + slope * ddx])
        f, df, ddf = (inner @ output.T).unbind(0)
        nodes = torch.stack([f + output_bias, df, ddf], dim=1)
        ends = torch.cat([nodes[:-1], nodes[1:]], dim=1)  # [intervals, 6, n]
        parts.append((polynomial @ ends).flatten())
    return torch.cat(parts)


# Coefficients from values, slopes and curvatures at 0 and at 1.
HERMITE = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0, 0.0],
        [-10.0, -6.0, -1.5, 10.0, -4.0, 0.5],
        [15.0, 8.0, 1.5, -15.0, 7.0, -1.0],
        [-6.0, -3.0, -0.5, 6.0, -3.0, 0.5],
    ],
    dtype=torch.float64,
)


def _derivatives(
    function: Callable[[Tensor], Tensor], r: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a function of distances [n], its slope and its curvature.

    By reverse differentiation, column by column: forward differentiation has levels
    that all threads of a process share.
    """
    with torch.enable_grad():
        r = r.detach().requires_grad_()
        values = function(r)
        columns = values.reshape(len(r), -1).unbind(1)
        slopes = [_slope(column, r) for column in columns]
        curvatures = [_slope(slope, r) for slope in slopes]
    slope, curvature = (
        torch.stack(parts, dim=1).reshape(values.shape).detach()
        for parts in (slopes, curvatures)
    )
    return values.detach(), slope, curvature


def _slope(values: Tensor, r: Tensor) -> Tensor:
    """Return the derivative of each value [n] by its distance [n]."""
    (slope,) = torch.autograd.grad(values.sum(), r, create_graph=True)
    return slope

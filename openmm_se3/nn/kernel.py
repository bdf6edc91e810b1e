"""Equivariant kernels W(x), equations (2.1) and (2.2).

    W_J^{lk}(x) = sum_m Y_{Jm}(x/|x|) Q_{Jm}^{lk}                        (2.1)
    W^{lk}(x)   = sum_{J=|k-l|}^{k+l} psi_J^{lk}(|x|) W_J^{lk}(x)        (2.2)

| symbol          | variable  | shape                                        |
|-----------------|-----------|----------------------------------------------|
| Y_{Jm}          | harmonics | [n_edges, (jmax+1)^2]                        |
| Q_{Jm}^{lk}     | coupling  | [(jmax+1)^2, n_rows * dim_in]                |
| W_J^{lk}(x)     | basis     | [n_edges, n_rows, dim_in]                    |
| psi_J^{lk}      | radial    | [n_distances, n_paths, channels] (depthwise) |
| f_in,j^k        | features  | [n_edges, dim_in, channels]                  |

A path is one triple (l, k, J); its 2l+1 rows are the components of the output, and
``dim_in`` runs over the components of all input degrees k.  Clebsch-Gordan coefficients
and spherical harmonics both come from e3nn, so that their conventions agree.

Where we differ and why: with ``parity`` only paths of even k + l + J are kept.  The
others change sign under reflection; an energy must not, and would have to be taught so
by data.

Radial functions are those of edges or of pairs of edges, see ``by_direction``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics Y_J of directions as polynomials, J = 0 to jmax.

    Normalized as e3nn's "component": sum over m of Y_{Jm}^2 = 2J + 1.  Each degree is
    coupled from the one below, Y_{J+1} ~ Q^{J+1} (Y_J x Y_1), so that neither an angle
    nor a distance from an axis appears and every derivative exists.
    """

    def __init__(self, jmax: int) -> None:
        super().__init__()
        self.jmax = jmax
        self.steps = nn.ModuleList(_NextDegree(degree) for degree in range(1, jmax))

    def forward(self, directions: Tensor) -> Tensor:
        """Return Y [n_edges, (jmax+1)^2] for unit vectors [n_edges, 3]."""
        harmonics = [torch.ones_like(directions[:, :1])]
        if self.jmax > 0:
            first = math.sqrt(3.0) * directions
            harmonics.append(first)
            last = first
            for step in self.steps:
                last = step(last, first)
                harmonics.append(last)
        return torch.cat(harmonics, dim=1)


class _NextDegree(nn.Module):
    """Y_{J+1} from Y_J and Y_1."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.matrix: Tensor
        coupling = o3.wigner_3j(degree, 1, degree + 1, dtype=torch.float64)
        # The factor follows from one direction, the x axis of e3nn's convention.
        axis = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
        low, one, high = (
            o3.spherical_harmonics(j, axis, False, normalization="component")[0]
            for j in (degree, 1, degree + 1)
        )
        product = torch.einsum("abc,a,b->c", coupling, low, one)
        factor = high.norm() / product.norm()
        matrix = (factor * coupling).reshape(-1, 2 * degree + 3)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, last: Tensor, first: Tensor) -> Tensor:
        """Return Y_{J+1} [n_edges, 2J+3] from Y_J [n_edges, 2J+1] and Y_1."""
        product = last.unsqueeze(2) * first.unsqueeze(1)  # [n_edges, 2J+1, 3]
        return product.flatten(1) @ self.matrix


class Path(NamedTuple):
    """One kernel: degree l out, degree k in, degree J of the harmonics."""

    l: int
    k: int
    J: int


def kernel_paths(l_max: int, k_max: int, jmax: int, parity: bool) -> list[Path]:
    """Return the paths of all kernels from degrees k <= k_max to l <= l_max, by l."""
    return [
        Path(l, k, J)
        for l in range(l_max + 1)
        for k in range(k_max + 1)
        for J in range(abs(k - l), k + l + 1)
        if J <= jmax and not (parity and (k + l + J) % 2)
    ]


class KernelBasis(nn.Module):
    """Basis kernels W_J^{lk}(x) of equation (2.1) for all paths of a layer."""

    def __init__(self, l_max: int, k_max: int, jmax: int, parity: bool) -> None:
        super().__init__()
        self.coupling: Tensor
        self.paths = kernel_paths(l_max, k_max, jmax, parity)
        self.dim_in = (k_max + 1) ** 2
        self.n_rows = sum(2 * p.l + 1 for p in self.paths)
        n_harmonics = (jmax + 1) ** 2
        coupling = torch.zeros(
            n_harmonics, self.n_rows, self.dim_in, dtype=torch.float64
        )
        fan_in = [sum(p.l == l for p in self.paths) for l in range(l_max + 1)]
        row = 0
        for l, k, J in self.paths:
            q = o3.wigner_3j(J, l, k, dtype=torch.float64)  # [2J+1, 2l+1, 2k+1]
            # Outputs have about the variance of the inputs.
            q = q * math.sqrt((2 * l + 1) / fan_in[l])
            coupling[
                J**2 : (J + 1) ** 2, row : row + 2 * l + 1, k**2 : (k + 1) ** 2
            ] = q
            row += 2 * l + 1
        self.register_buffer("coupling", coupling.flatten(1), persistent=False)

    def forward(self, harmonics: Tensor) -> Tensor:
        """Return W_J^{lk} [n_edges, n_rows, dim_in] for Y [n_edges, (jmax+1)^2]."""
        basis = harmonics @ self.coupling
        return basis.unflatten(1, (self.n_rows, self.dim_in))


def by_direction(values: Tensor, radial: Tensor) -> Tensor:
    """Return values of edges [n_edges, ...] as [directions, n_distances, ...].

    Args:
        values: Values of edges.
        radial: Radial functions [n_distances, ...]: of each edge, where there is one
            direction, or of pairs whose second edges stand behind all first ones.
    """
    n_distances = radial.shape[0]
    directions = 1 if values.shape[0] == n_distances else 2
    return values.unflatten(0, (directions, n_distances))


class DepthwiseKernel(nn.Module):
    """W^{lk}(x) f of equation (2.2) with one radial function a path and channel.

    Where we differ and why: channels are mixed by linear layers on the atoms before and
    after, not by every edge, which needs 2 C^2 multiplications an atom instead of
    n_paths C^2 an edge and has as many independent functions as are useful.
    """

    def __init__(self, paths: list[Path], channels: int) -> None:
        super().__init__()
        self.path_of_row: Tensor
        self.component_of_row: Tensor
        self.n_radial = [len(paths) * channels]
        self.n_paths = len(paths)
        rows_of_path = [2 * p.l + 1 for p in paths]
        path_of_row = torch.repeat_interleave(torch.tensor(rows_of_path))
        self.dim_out = (max(p.l for p in paths) + 1) ** 2
        # The rows of all paths that end in the same output component add up.
        component_of_row = torch.cat(
            [torch.arange(p.l**2, (p.l + 1) ** 2) for p in paths]
        )
        self.register_buffer("path_of_row", path_of_row, persistent=False)
        self.register_buffer("component_of_row", component_of_row, persistent=False)

    def forward(self, basis: Tensor, radial: list[Tensor], features: Tensor) -> Tensor:
        """Return messages [n_edges, dim_out, channels].

        Args:
            basis: W_J^{lk} [n_edges, n_rows, dim_in].
            radial: psi_J^{lk} [n_distances, n_paths * channels], one part.
            features: f_in,j^k of the neighbors [n_edges, dim_in, channels].
        """
        psi = radial[0].unflatten(1, (self.n_paths, -1))
        psi = psi.index_select(1, self.path_of_row)
        rows = by_direction(torch.bmm(basis, features), psi) * psi
        rows = rows.flatten(0, 1)  # [n_edges, n_rows, channels]
        messages = rows.new_zeros(rows.shape[0], self.dim_out, rows.shape[2])
        return messages.index_add(1, self.component_of_row, rows)


class FullKernel(nn.Module):
    """W^{lk}(x) f of equation (2.2), one radial function a path and channel pair."""

    def __init__(self, paths: list[Path], channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.channels_in = channels_in
        self.channels_out = channels_out
        l_max = max(p.l for p in paths)
        self.paths_of_degree = [sum(p.l == l for p in paths) for l in range(l_max + 1)]
        self.rows_of_degree = [
            (2 * l + 1) * n for l, n in enumerate(self.paths_of_degree)
        ]
        self.n_radial = [n * channels_in * channels_out for n in self.paths_of_degree]
        self.scale = 1.0 / math.sqrt(channels_in)

    def forward(self, basis: Tensor, radial: list[Tensor], features: Tensor) -> Tensor:
        """Return messages [n_edges, dim_out, channels_out].

        Args:
            basis: W_J^{lk} [n_edges, n_rows, dim_in].
            radial: psi_J^{lk} [n_distances, n_paths * channels_in * channels_out] of
                the paths to each degree l, which are parts of their own because
                gradients of slices of so large an array would be copied.
            features: f_in,j^k of the neighbors [n_edges, dim_in, channels_in].
        """
        rows = by_direction(torch.bmm(basis, features), radial[0])
        messages: list[Tensor] = []
        rows_of_degree = rows.split(self.rows_of_degree, dim=2)
        for l, n_paths in enumerate(self.paths_of_degree):
            psi = radial[l].unflatten(
                1, (n_paths * self.channels_in, self.channels_out)
            )
            block = rows_of_degree[l].unflatten(2, (n_paths, 2 * l + 1))
            # [n_distances, directions, 2l+1, n_paths, channels_in]
            block = block.permute(1, 0, 3, 2, 4)
            product = edge_products(block.flatten(3).flatten(1, 2), psi)
            product = product.unflatten(1, (-1, 2 * l + 1)).transpose(0, 1)
            messages.append(product.flatten(0, 1) * self.scale)
        return torch.cat(messages, dim=1)


# Every product gets both of its derivatives, wanted or not: in training most are.


class _AB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _CB.apply(slope, b), _AC.apply(a, slope)


class _CB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(c, b)
        return torch.bmm(c, b.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        c, b = ctx.saved_tensors
        return _AB.apply(slope, b), _AC.apply(slope, c)


class _AC(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(a, c)
        return torch.bmm(a.transpose(1, 2), c)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        a, c = ctx.saved_tensors
        return _CB.apply(c, slope), _AB.apply(a, slope)


def edge_products(a: Tensor, b: Tensor) -> Tensor:
    """Return A B [n, m, o] of each edge for A [n, m, k] and B [n, k, o]."""
    if torch.jit.is_scripting():
        return torch.bmm(a, b)
    product: Tensor = _AB.apply(a, b)
    return product

"""Functions of the distance: envelope, Bessel basis and radial networks psi(|x|).

| symbol   | variable   | shape                          |
|----------|------------|--------------------------------|
| |x_ij|   | distance   | [n_edges]                      |
| u(r)     | envelope   | [n_edges]                      |
| b_n(r)   | basis      | [n_distances, n_functions]     |
| psi(r)   | radial     | [n_distances, n_outputs]       |

Both edges of a pair have one distance: where the edges come in pairs (``paired``, see
``transformer``), n_distances is the number of pairs, elsewhere that of edges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from openmm_se3.nn.activation import ACTIVATIONS, Activation


class Envelope(nn.Module):
    """Smooth cutoff u(r) = (1 - (r / r_c)^4)^3, and 0 beyond the cutoff r_c.

    Value, slope and curvature vanish at the cutoff, and u stays above a half up to 0.67
    r_c, so that the far half of the neighborhood counts.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """Return u(r) [n_edges] for distances r [n_edges], A."""
        return (1.0 - (distance / self.cutoff).pow(4)).clamp(min=0.0).pow(3)


class SharpCutoff(nn.Module):
    """u(r) = 1 within the cutoff r_c and 0 beyond.

    As in the thesis, where the energy jumps when a neighbor crosses the cutoff.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """Return u(r) [n_edges] for distances r [n_edges], A."""
        return (distance < self.cutoff).to(distance.dtype)


class DistanceBasis(nn.Module):
    """The distance itself, as a share of the cutoff: one function, b_1(r) = r / r_c.

    As in the thesis and the original SE(3)-Transformer.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """Return b_1(r) [n_distances, 1] for distances r [n_distances], A."""
        return distance.unsqueeze(-1) / self.cutoff


class BesselBasis(nn.Module):
    """Bessel functions b_n(r) = sqrt(2 / r_c) sin(n pi r / r_c) / r, n = 1, 2, ...

    Gasteiger et al., https://arxiv.org/abs/2003.03123, equation 7.
    """

    def __init__(self, cutoff: float, n_functions: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.scale = math.sqrt(2.0 / cutoff)
        frequencies = math.pi / cutoff * torch.arange(1, n_functions + 1).double()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Return b_n(r) [n_distances, n_functions] for distances r [n_distances]."""
        r = distance.unsqueeze(-1)
        return self.scale * torch.sin(r * self.frequencies) / r


class RadialNetwork(nn.Module):
    """psi(r) = u(r) MLP(b(r)) of equation (2.2): zero at the cutoff with zero slope.

    Args:
        n_functions: Functions of the radial basis.
        width: Hidden values.
        n_outputs: Outputs, in parts that are used apart from each other.
        activation: Activation of the hidden values.
    """

    def __init__(
        self,
        n_functions: int,
        width: int,
        n_outputs: list[int],
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.activation = ACTIVATIONS[activation]()
        self.hidden = nn.Linear(n_functions, width)
        self.output = nn.Linear(width, sum(n_outputs))

    def forward(self, basis: Tensor, envelope: Tensor) -> list[Tensor]:
        """Return the parts of psi [n_distances, n_outputs].

        Args:
            basis: b_n(r) [n_distances, n_functions].
            envelope: u(r) [n_distances].
        """
        # u times the few hidden values, not times the many outputs, which would move
        # far more memory; the bias gets its u as one more of them.
        u = envelope.unsqueeze(-1)
        hidden = torch.cat([self.activation(self.hidden(basis)) * u, u], dim=1)
        weights = torch.cat([self.output.weight, self.output.bias.unsqueeze(1)], dim=1)
        return [
            nn.functional.linear(hidden, part) for part in weights.split(self.n_outputs)
        ]

"""Attention over neighbors, equations (2.3) to (2.5) and (2.8).

    q_i      = sum_l W_Q^l f_i^l                                            (2.3)
    k_ij     = sum_k W_K^{lk}(x_j - x_i) f_j^k                              (2.4)
    alpha_ij = exp(q_i . k_ij) / sum_j' exp(q_i . k_ij')                    (2.5)
    f_out,i^l = self-interaction(f_i)^l
                + sum_k sum_j alpha_ij W_V^{lk}(x_j - x_i) f_j^k            (2.8)

| symbol     | variable      | shape                                     |
|------------|---------------|-------------------------------------------|
| f_i        | features      | [dim_in, n_atoms, channels]               |
| q_i        | queries       | [n_atoms, dim_query, key_channels]        |
| k_ij       | keys          | [n_edges, dim_out, key_channels]          |
| v_ij       | values        | [n_edges, dim_out, channels]              |
| alpha_ij   | alpha         | [edges, heads]                            |

Atom i is the ``center`` of an edge, atom j its ``neighbor``.  Heads share out the
channels: head h owns channels h C/H to (h+1) C/H - 1, so that concatenating heads is no
operation.

Where we differ and why:

* (2.5) becomes alpha_ij = u_ij exp(a_ij) / (1 + sum_j' u_ij' exp(a_ij')) with the
  envelope u(r), which the radial functions carry too.  Energy and forces are then
  smooth when a neighbor crosses the cutoff, the last one included, and an atom without
  neighbors receives nothing instead of 0/0.
* Logits are a = A tanh(q . k / (A sqrt(d))): no overflow of exp in float32, without a
  maximum over neighbors, which costs a reduction.  The factor stands in the weights of
  the queries.  ``attention: softmax`` has a = q . k / sqrt(d) and u = 0 or 1.
* Keys and values use one kernel, with channels of their own.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import Edges
from openmm_se3.nn.edge_chunks import (
    Chunk,
    Geometry,
    edges_of_chunk,
    geometry_of_chunk,
    gradients,
)
from openmm_se3.nn.kernel import DepthwiseKernel, FullKernel, KernelBasis
from openmm_se3.nn.layers import AttentiveSelfInteraction, EquivariantLinear
from openmm_se3.nn.radial import RadialNetwork

LOGIT_BOUND = 10.0
# In the place of the 1 in the denominator: below any weight, and not zero where an atom
# has no neighbors.
NO_NEIGHBORS = 1e-12
# Logit of an edge beyond a sharp cutoff: below all others, and finite, as differences
# of infinities are not numbers.
UNSEEN = -1e30


# With the layout "dense" a quantity of edges is an array [n_atoms, n_neighbors, ...],
# written [edges, ...] below: neither gathering nor adding up needs an index then.  With
# other layouts [edges] is [n_edges].


def by_center(values: Tensor, edges: Edges, n_atoms: int) -> Tensor:
    """Return values of edges [n_edges, ...] as [edges, ...]."""
    return values.unflatten(0, (n_atoms, -1)) if edges.layout == "dense" else values


def at_center(values: Tensor, edges: Edges) -> Tensor:
    """Return what the central atom of each edge has [edges, ...], to be broadcast."""
    if edges.layout == "dense":
        return values.unsqueeze(1)
    return values.index_select(0, edges.center)


def sum_over_neighbors(values: Tensor, edges: Edges, n_atoms: int) -> Tensor:
    """Return the sum over the edges of each atom [n_atoms, ...].

    Args:
        values: Values of edges [edges, ...].
        edges: The edges.
        n_atoms: Number of atoms.
    """
    if edges.layout == "dense":
        return values.sum(1)
    sums = values.new_zeros([n_atoms] + list(values.shape[1:]))
    return sums.index_add(0, edges.center, values)


def largest_over_neighbors(
    values: Tensor, edges: Edges, n_atoms: int, least: float
) -> Tensor:
    """Return the largest over the edges of each atom [n_atoms, heads].

    Args:
        values: Values of edges [edges, heads].
        edges: The edges.
        n_atoms: Number of atoms.
        least: Below all values; that of an atom without edges.
    """
    lowest = values.new_full((n_atoms, values.shape[-1]), least)
    if edges.layout == "dense":
        return torch.cat([values, lowest.unsqueeze(1)], dim=1).amax(1)
    index = edges.center.unsqueeze(1).expand_as(values)
    return lowest.scatter_reduce(0, index, values, "amax")


class AttentionLayer(nn.Module):
    """One SE(3)-Transformer layer, equation (2.8), with several heads.

    Args:
        config: Shape of the network.
        k_max: Highest degree of the input features.
        l_max: Highest degree of the output features.
        channels_in: Channels of the input features.
    """

    def __init__(
        self, config: ModelConfig, k_max: int, l_max: int, channels_in: int
    ) -> None:
        super().__init__()
        channels, key_channels = config.channels, config.key_channels
        self.heads = config.heads
        self.channels = channels
        self.key_channels = key_channels
        shared = min(k_max, l_max)
        self.dim_query = (shared + 1) ** 2
        self.dim_out = (l_max + 1) ** 2
        parity = config.symmetry == "O(3)"
        self.basis = KernelBasis(l_max, k_max, max_harmonic(config), parity)
        # q . k is a sum of this many products a head.
        n_products = self.dim_query * key_channels / self.heads
        self.bounded = config.attention == "bounded"
        self.logit_bound = LOGIT_BOUND if self.bounded else 1.0
        self.unseen = UNSEEN
        self.query = EquivariantLinear(
            shared,
            channels_in,
            key_channels,
            1.0 / (self.logit_bound * math.sqrt(n_products)),
        )
        self.mix: nn.Module
        kernel: DepthwiseKernel | FullKernel
        if config.kernel == "depthwise":
            self.mix = EquivariantLinear(k_max, channels_in, key_channels + channels)
            kernel = DepthwiseKernel(self.basis.paths, key_channels + channels)
        else:
            self.mix = nn.Identity()
            kernel = FullKernel(self.basis.paths, channels_in, key_channels + channels)
        self.kernel = kernel
        self.radial = RadialNetwork(
            n_radial_functions(config),
            config.radial_width,
            kernel.n_radial,
            config.activation,
        )
        # With a sharp cutoff the weights of the neighbors add up to one, as in (2.5).
        self.rest = 1.0 if config.envelope == "smooth" else NO_NEIGHBORS
        self.output = EquivariantLinear(l_max, channels, channels)
        self.self_interaction: nn.Module
        if config.self_interaction == "attentive":
            self.self_interaction = AttentiveSelfInteraction(
                shared,
                channels_in,
                channels,
                config.self_interaction_width,
                config.activation,
            )
        else:
            self.self_interaction = EquivariantLinear(shared, channels_in, channels)

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        radial_basis: Tensor,
        envelope: Tensor,
        edges: Edges,
    ) -> Tensor:
        """Return features [(l_max+1)^2, n_atoms, channels].

        Args:
            features: f_in [(k_max+1)^2, n_atoms, channels_in].
            harmonics: Y_{Jm} of the edges' directions [n_edges, (jmax+1)^2].
            radial_basis: b_n(r) [n_distances, n_functions]; of edges, or of pairs of
                edges.
            envelope: u(r) [n_edges].
            edges: The edges.
        """
        queries, mixed = self.project(features)
        sent = mixed.index_select(1, edges.neighbor).transpose(0, 1)
        heads = self.attend(queries, sent, harmonics, radial_basis, envelope, edges)
        return self.combine(features, heads)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries, and what every atom sends to its neighbors.

        These are [n_atoms, dim_query, key_channels] and [dim_in, n_atoms, channels].
        """
        queries = self.query(features[: self.dim_query]).transpose(0, 1)  # (2.3)
        return queries, self.mix(features)

    def attend(
        self,
        queries: Tensor,
        sent: Tensor,
        harmonics: Tensor,
        radial_basis: Tensor,
        envelope: Tensor,
        edges: Edges,
    ) -> Tensor:
        """Return the heads of the central atoms [dim_out, n_atoms, channels].

        Args:
            queries: q_i of the central atoms [n_atoms, dim_query, key_channels].
            sent: What the neighbor of each edge sends [n_edges, dim_in, channels].
            harmonics: As for :meth:`forward`, as are the other arguments.
            radial_basis: b_n(r).
            envelope: u(r).
            edges: The edges; all those of an atom.
        """
        n_atoms = queries.shape[0]
        basis = self.basis(harmonics)  # (2.1)
        radial = self.radial(radial_basis, envelope.narrow(0, 0, radial_basis.shape[0]))
        messages = self.kernel(basis, radial, sent)  # (2.2) [n_edges, dim_out, Ck + C]
        keys, values = by_center(messages, edges, n_atoms).split(
            [self.key_channels, self.channels], dim=-1
        )  # (2.4)
        keys = keys.narrow(-2, 0, self.dim_query).unflatten(-1, (self.heads, -1))
        values = values.unflatten(-1, (self.heads, -1))  # [edges, dim_out, heads, C/H]
        queries = queries.unflatten(-1, (self.heads, -1))

        logits = (at_center(queries, edges) * keys).sum((-3, -1))
        u = by_center(envelope, edges, n_atoms).unsqueeze(-1)
        if self.bounded:
            logits = self.logit_bound * torch.tanh(logits)
        else:
            # A constant for each atom changes no weight, and keeps exp from overflow.
            logits = torch.where(u > 0.0, logits, self.unseen)
            largest = largest_over_neighbors(
                logits.detach(), edges, n_atoms, self.unseen
            )
            logits = logits - at_center(largest, edges)
        weights = torch.exp(logits) * u
        total = self.rest + sum_over_neighbors(weights, edges, n_atoms)
        alpha = weights / at_center(total, edges)  # (2.5) [edges, heads]

        weighted = values * alpha.unsqueeze(-2).unsqueeze(-1)
        heads = sum_over_neighbors(weighted, edges, n_atoms).flatten(-2)
        return heads.transpose(0, 1)

    def attend_in_chunks(
        self,
        queries: Tensor,
        mixed: Tensor,
        geometry: Geometry,
        edges: Edges,
        chunks: list[Chunk],
    ) -> Tensor:
        """Return what :meth:`attend` does; to be called without gradients.

        Args:
            queries: As :meth:`project` returns them.
            mixed: What every atom sends.
            geometry: That of the edges.
            edges: The edges, sorted by center.
            chunks: Their chunks.
        """
        parts: list[Tensor] = []
        for chunk in chunks:
            own = edges_of_chunk(chunk, edges)
            of_edges = geometry_of_chunk(chunk, geometry)
            parts.append(
                self.attend(
                    queries[chunk.first_atom : chunk.end_atom],
                    mixed.index_select(1, own.neighbor).transpose(0, 1),
                    of_edges.harmonics,
                    of_edges.radial_basis,
                    of_edges.envelope,
                    own,
                )
            )
        return torch.cat(parts, dim=1)

    def attend_in_chunks_backward(
        self,
        queries: Tensor,
        mixed: Tensor,
        geometry: Geometry,
        edges: Edges,
        chunks: list[Chunk],
        slope: Tensor,
        back: Geometry,
    ) -> tuple[Tensor, Tensor]:
        """Return dE/d(queries) and dE/d(mixed), and add to dE/d(geometry).

        Args:
            queries: As for :meth:`attend_in_chunks`, without a gradient.
            mixed: The same, as are the next three arguments.
            geometry: That of the edges.
            edges: The edges, sorted by center.
            chunks: Their chunks.
            slope: dE/d(heads) [dim_out, n_atoms, channels].
            back: dE/d(geometry), which is added to.
        """
        queries_back, mixed_back = torch.zeros_like(queries), torch.zeros_like(mixed)
        for chunk in chunks:
            atoms, n_edges = chunk.end_atom - chunk.first_atom, chunk.end_edge
            n_edges = n_edges - chunk.first_edge
            own = edges_of_chunk(chunk, edges)
            of_edges = geometry_of_chunk(chunk, geometry)
            of_atoms = queries.narrow(0, chunk.first_atom, atoms).clone()
            leaves = [
                of_atoms.requires_grad_(),
                mixed.index_select(1, own.neighbor).requires_grad_(),
                of_edges.harmonics.requires_grad_(),
                of_edges.radial_basis.requires_grad_(),
                of_edges.envelope.requires_grad_(),
            ]
            heads = self.attend(
                leaves[0],
                leaves[1].transpose(0, 1),
                leaves[2],
                leaves[3],
                leaves[4],
                own,
            )
            of_heads = slope.narrow(1, chunk.first_atom, atoms)
            changes = gradients([heads], leaves, [of_heads])
            with torch.no_grad():
                sums = [
                    queries_back.narrow(0, chunk.first_atom, atoms),
                    back.harmonics.narrow(0, chunk.first_edge, n_edges),
                    back.radial_basis.narrow(0, chunk.first_edge, n_edges),
                    back.envelope.narrow(0, chunk.first_edge, n_edges),
                ]
                for total, change in zip(sums, changes[:1] + changes[2:]):
                    total.add_(change)
                mixed_back.index_add_(1, own.neighbor, changes[1])
        return queries_back, mixed_back

    def combine(self, features: Tensor, heads: Tensor) -> Tensor:
        """Return features after the layer (2.8) from those before and the heads."""
        update = self.output(heads)
        kept = self.self_interaction(features[: self.dim_query])  # (2.6, 2.7)
        if self.dim_query < self.dim_out:
            low, high = update.split([self.dim_query, self.dim_out - self.dim_query])
            return torch.cat([kept + low, high])
        return kept + update


def n_radial_functions(config: ModelConfig) -> int:
    """Return the number of functions of the radial basis."""
    return config.radial_functions if config.radial_basis == "bessel" else 1


def feature_degrees(config: ModelConfig) -> list[int]:
    """Return the highest degree of the features before, between and after the layers.

    Energies need degree 0 at the end, direct forces degree 1.  Where there are both,
    the direct forces have a last layer of their own, which is not counted here.
    """
    last = 1 if config.force_mode == "direct" else 0
    return [0] + [config.lmax] * (config.layers - 1) + [last]


def max_harmonic(config: ModelConfig) -> int:
    """Return the highest degree J of the network's kernels, which is k + l by (2.2).

    A last layer of direct forces beside an energy makes do with these, and J = 1.
    """
    allowed = max(k + l for k, l in itertools.pairwise(feature_degrees(config)))
    if config.force_mode == "both":
        allowed = max(allowed, 1)
    return allowed if config.jmax is None else min(config.jmax, allowed)

"""The network with its edges in chunks: forward, and backward by hand, layer by layer.

See :mod:`openmm_se3.nn.edge_chunks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from openmm_se3.neighbors import Edges
from openmm_se3.nn.attention import AttentionLayer
from openmm_se3.nn.edge_chunks import (
    Chunk,
    Geometry,
    chunks_of,
    gradients,
    sorted_by_center,
)
from openmm_se3.nn.kernel import FullKernel

# Numbers of edges that are kept at a time, in float32 2 GB: with more edges there are
# chunks.
NUMBERS_AT_A_TIME = 2**29
# Those of a chunk on a processor, whose caches like small ones.  A GPU, which waits for
# every launch, has chunks of as many edges as there are without chunks.
NUMBERS_OF_CHUNK = 2**24


class Chunked(nn.Module):
    """What :class:`~openmm_se3.nn.transformer.SE3Transformer` adds for many edges.

    Attributes:
        edges_at_a_time: More edges than these are computed in chunks.
        edges_of_chunk: Edges of a chunk on a processor.
    """

    if TYPE_CHECKING:  # what the network has; TorchScript cannot read these
        attention: nn.ModuleList
        nonlinearities: nn.ModuleList
        head_attention: AttentionLayer | None
        head_nonlinearity: nn.Module | None
        embedding: nn.Embedding
        direct: bool

        def geometry(self, vectors: Tensor, edges: Edges) -> Geometry: ...  # noqa: D102
        def atomic_energies(self, features: Tensor) -> Tensor: ...  # noqa: D102
        def direct_forces(self, directed: Tensor, head: bool) -> Tensor: ...  # noqa: D102
        def energies_of(self, species: Tensor, f: Tensor, zbl: Tensor) -> Tensor: ...  # noqa: D102
        def repulsion(self, species: Tensor, r: Tensor, edges: Edges) -> Tensor: ...  # noqa: D102

    def set_chunks(
        self, at_a_time: int = NUMBERS_AT_A_TIME, of_chunk: int = NUMBERS_OF_CHUNK
    ) -> None:
        """Choose chunks by the numbers of edges that are kept.

        Args:
            at_a_time: So many at most without chunks, of all layers.
            of_chunk: About so many with chunks, of one layer.
        """
        layers = [cast(AttentionLayer, layer) for layer in self.attention]
        kept = [numbers_of_an_edge(layer) for layer in layers]
        # The backward pass needs as much again, of one layer at a time.
        self.edges_at_a_time = at_a_time // (sum(kept) + max(kept))
        self.edges_of_chunk = max(of_chunk // (2 * max(kept)), 1)

    def in_chunks(
        self, species: Tensor, vectors: Tensor, edges: Edges, head: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return atomic energies, dE/d(x_j - x_i) and direct forces.

        Without a graph; arguments are those of the network.  The derivative is
        [n_edges, 3]; direct forces stand in its place where they are all there is.
        """
        own, order = sorted_by_center(edges)
        with torch.no_grad():
            vectors = vectors.index_select(0, order)
            most = self.edges_at_a_time if vectors.is_cuda else self.edges_of_chunk
            chunks = chunks_of(own.center, species.shape[0], most)
            geometry = self.geometry(vectors, own)
            features, heads = self.layers_in_chunks(species, geometry, own, chunks)
            repulsion = self.repulsion(species, geometry.distance, own)
            energies = self.energies_of(species, features[-1], repulsion)
            directed = features[-1]
            if head:
                directed = self.directed_in_chunks(features, geometry, own, chunks)
            direct = self.direct_forces(directed, head)
        slope = direct
        if not self.direct:
            back = self.backward_in_chunks(features, heads, geometry, own, chunks)
            by_vectors = self.geometry_backward(species, vectors, own, back)
            slope = torch.empty_like(vectors).index_copy(0, order, by_vectors)
        return energies, slope, direct

    def layers_in_chunks(
        self, species: Tensor, geometry: Geometry, edges: Edges, chunks: list[Chunk]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return features before, between and after the layers, and their heads."""
        features = [self.embedding(species).unsqueeze(0)]
        heads: list[Tensor] = []
        for attention, nonlinearity in zip(self.attention, self.nonlinearities):
            queries, mixed = attention.project(features[-1])  # type: ignore[operator]
            found = attention.attend_in_chunks(queries, mixed, geometry, edges, chunks)  # type: ignore[operator]
            heads.append(found)
            features.append(nonlinearity(attention.combine(features[-1], found)))  # type: ignore[operator]
        return features, heads

    def directed_in_chunks(
        self,
        features: list[Tensor],
        geometry: Geometry,
        edges: Edges,
        chunks: list[Chunk],
    ) -> Tensor:
        """Return the features of direct forces from those that all layers give."""
        directed = features[-1]
        if self.head_attention is not None and self.head_nonlinearity is not None:
            before = features[-2]
            queries, mixed = self.head_attention.project(before)
            found = self.head_attention.attend_in_chunks(
                queries, mixed, geometry, edges, chunks
            )
            directed = self.head_attention.combine(before, found)
            directed = self.head_nonlinearity(directed)
        return directed

    def backward_in_chunks(
        self,
        features: list[Tensor],
        heads: list[Tensor],
        geometry: Geometry,
        edges: Edges,
        chunks: list[Chunk],
    ) -> Geometry:
        """Return dE/d(geometry) without the repulsion's part."""
        leaf = features[-1].clone().requires_grad_()
        atomic = self.atomic_energies(leaf)
        slope = gradients([atomic], [leaf], [torch.ones_like(atomic)])[0]
        back = Geometry(
            torch.zeros_like(geometry.harmonics),
            torch.zeros_like(geometry.radial_basis),
            torch.zeros_like(geometry.envelope),
            geometry.distance,
        )
        for i in range(len(heads) - 1, -1, -1):
            before, own = features[i], heads[i]
            slope = self.layer_backward(
                i, before, own, slope, geometry, edges, chunks, back
            )
        return back

    def geometry_backward(
        self, species: Tensor, vectors: Tensor, edges: Edges, back: Geometry
    ) -> Tensor:
        """Return dE/d(x_j - x_i) [n_edges, 3] from dE/d(geometry)."""
        x = vectors.clone().requires_grad_()
        geometry = self.geometry(x, edges)
        # A sum, because some of these may not depend on the vectors.
        total = (geometry.harmonics * back.harmonics).sum()
        total = total + (geometry.radial_basis * back.radial_basis).sum()
        total = total + (geometry.envelope * back.envelope).sum()
        total = total + self.repulsion(species, geometry.distance, edges).sum()
        return gradients([total], [x], [torch.ones_like(total)])[0]

    def layer_backward(
        self,
        number: int,
        before: Tensor,
        heads: Tensor,
        slope: Tensor,
        geometry: Geometry,
        edges: Edges,
        chunks: list[Chunk],
        back: Geometry,
    ) -> Tensor:
        """Return dE/d(features before a layer) from that behind its nonlinearity.

        Args:
            number: Which layer.
            before: Features before it [dim_in, n_atoms, channels].
            heads: Its heads [dim_out, n_atoms, channels].
            slope: dE/d(features behind it).
            geometry: That of the edges.
            edges: The edges, sorted by center.
            chunks: Their chunks.
            back: dE/d(geometry), which is added to.
        """
        f, h = before.clone().requires_grad_(), heads.clone().requires_grad_()
        # TorchScript takes no layer by its number.
        for i, (attention, nonlinearity) in enumerate(
            zip(self.attention, self.nonlinearities)
        ):
            if i == number:
                after = nonlinearity(attention.combine(f, h))  # type: ignore[operator]
                by_f, by_h = gradients([after], [f, h], [slope])
                queries, mixed = attention.project(f)  # type: ignore[operator]
                with torch.no_grad():
                    q, m = queries.clone(), mixed.clone()
                by_projected = attention.attend_in_chunks_backward(  # type: ignore[operator]
                    q, m, geometry, edges, chunks, by_h, back
                )
                by_queries, by_mixed = by_projected
                through = gradients([queries, mixed], [f], [by_queries, by_mixed])
                slope = by_f + through[0]
        return slope


def numbers_of_an_edge(layer: AttentionLayer) -> int:
    """Return how many numbers a layer keeps of an edge for the backward pass."""
    rows, dim_in = layer.basis.n_rows, layer.basis.dim_in
    message = layer.key_channels + layer.channels
    kernel = layer.kernel
    channels = kernel.channels_in if isinstance(kernel, FullKernel) else message
    radial = layer.radial.hidden
    return (
        radial.in_features
        + 3 * radial.out_features  # before and after the activation, with the envelope
        + sum(kernel.n_radial)
        + rows * dim_in  # kernels W_J
        + dim_in * channels  # features of the neighbor
        + 2 * rows * channels  # W_J f and its factors
        + layer.dim_query * layer.key_channels  # queries of the center
        + layer.dim_out * (message + layer.channels)  # keys, values, weighted values
    )

"""Energies and their derivatives with the edges in chunks, which bounds the memory.

Without chunks every quantity of every edge is kept for the backward pass.  With them
only features of atoms are kept.  Each layer computes its messages a second time in the
backward pass, a few thousand edges at a time:

    forward    heads_i = attend(queries_i, edges of i)   chunk by chunk, no gradient
    backward   the same with a gradient, chunk by chunk  last layer first

A chunk has all edges of its central atoms, so that each softmax is computed in one.
What is added up is the same with and without chunks; results differ by rounding.
"""

# Not with ``from __future__ import annotations``, which TorchScript cannot read here.
from typing import NamedTuple

import torch
from torch import Tensor

from openmm_se3.neighbors import Edges


class Chunk(NamedTuple):
    """Some central atoms and all their edges.

    Attributes:
        first_atom: First of the atoms.
        end_atom: Behind the last one.
        first_edge: First of their edges.
        end_edge: Behind the last one.
    """

    first_atom: int
    end_atom: int
    first_edge: int
    end_edge: int


class Geometry(NamedTuple):
    """What follows from the vectors of edges.

    Attributes:
        harmonics: Y_{Jm} [n_edges, (jmax+1)^2].
        radial_basis: b_n(r) [n_distances, n_functions].
        envelope: u(r) [n_edges].
        distance: r [n_edges], A.
    """

    harmonics: Tensor
    radial_basis: Tensor
    envelope: Tensor
    distance: Tensor


def sorted_by_center(edges: Edges) -> tuple[Edges, Tensor]:
    """Return edges sorted by center, and the place of each before [n_edges]."""
    order = torch.argsort(edges.center, stable=True)
    center = edges.center.index_select(0, order)
    neighbor = edges.neighbor.index_select(0, order)
    return Edges(center, neighbor, None, "list"), order


def chunks_of(center: Tensor, n_atoms: int, most: int) -> list[Chunk]:
    """Return chunks of up to ``most`` edges, or of one atom that has more.

    Args:
        center: Central atom of each edge [n_edges], sorted.
        n_atoms: Number of atoms.
        most: Edges of a chunk.
    """
    counts = torch.bincount(center, minlength=n_atoms)
    ends: list[int] = counts.cumsum(0).tolist()
    chunks: list[Chunk] = []
    atom, edge = 0, 0
    for i in range(n_atoms):
        is_last = i + 1 == n_atoms
        if is_last or ends[i + 1] - edge > most:
            chunks.append(Chunk(atom, i + 1, edge, ends[i]))
            atom, edge = i + 1, ends[i]
    return chunks


def edges_of_chunk(chunk: Chunk, edges: Edges) -> Edges:
    """Return the edges of a chunk, whose centers count from its first atom."""
    n_edges = chunk.end_edge - chunk.first_edge
    center = edges.center.narrow(0, chunk.first_edge, n_edges) - chunk.first_atom
    neighbor = edges.neighbor.narrow(0, chunk.first_edge, n_edges)
    return Edges(center, neighbor, None, "list")


def geometry_of_chunk(chunk: Chunk, geometry: Geometry) -> Geometry:
    """Return copies of what the edges of a chunk have."""
    first, n_edges = chunk.first_edge, chunk.end_edge - chunk.first_edge
    return Geometry(
        geometry.harmonics.narrow(0, first, n_edges).clone(),
        geometry.radial_basis.narrow(0, first, n_edges).clone(),
        geometry.envelope.narrow(0, first, n_edges).clone(),
        geometry.distance.narrow(0, first, n_edges),
    )


def gradients(
    outputs: list[Tensor], inputs: list[Tensor], slopes: list[Tensor]
) -> list[Tensor]:
    """Return the derivative by each input, from those by the outputs."""
    # TorchScript types both lists as lists of optional tensors.
    given: list[Tensor | None] = []
    for slope in slopes:
        given.append(slope)
    found: list[Tensor] = []
    derivatives = torch.autograd.grad(outputs, inputs, given)  # type: ignore[arg-type]
    for derivative in derivatives:
        assert derivative is not None
        found.append(derivative)
    return found

"""Memory that energy and forces take, and what the machine has left.

TorchScript writes every quantity of every edge to memory and keeps it for the backward
pass, so that it takes as much as there are edges; beyond some 2 GB it computes edges in
chunks, and takes little more.  Compiled code keeps little of an edge, and takes as much
as there are atoms.  All are counted from the shape of the network;
``benchmarks/size.py`` measures them.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from scipy.spatial import cKDTree

from openmm_se3.available_memory import GB, available_memory
from openmm_se3.compiled.library import reason_against
from openmm_se3.model_file import PRECISIONS
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.nn.attention import AttentionLayer
from openmm_se3.nn.chunked_network import numbers_of_an_edge
from openmm_se3.nn.committee import members_of
from openmm_se3.nn.layers import AttentiveSelfInteraction
from openmm_se3.nn.transformer import SE3Transformer

# What compiled code has of a pair of atoms: two indices and a vector in float64, and
# what follows from the distance, in the network's precision.
PAIR_BYTES, PAIR_NUMBERS = 32, 14
# What TorchScript has of an edge in a list: its atoms before and after sorting, its
# image, and a vector in float64.
EDGE_BYTES = 128
# What TorchScript's own graphs of the chunks take, as measured.
GRAPHS_GB = 0.1
# Blocks that the allocator keeps between the tensors, as measured for six networks.
HELD = 1.1


class NotEnoughMemoryError(RuntimeError, MemoryError):
    """Energy and forces would need more memory than there is."""


def expected_edges(n_atoms: int, volume: float, cutoff: float) -> int:
    """Return the edges of atoms that are spread evenly; clumps of atoms have more.

    Args:
        n_atoms: Number of atoms.
        volume: Volume of the box, A^3.
        cutoff: Cutoff of the network, A.

    Returns:
        Their number; 0 in a box without volume, which OpenMM refuses.
    """
    if not volume > 0.0:
        return 0
    return round(n_atoms**2 * 4.0 / 3.0 * math.pi * cutoff**3 / volume)


def count_edges(positions: np.ndarray, box: np.ndarray | None, cutoff: float) -> int:
    """Return the number of edges.

    Args:
        positions: Positions [n_atoms, 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
        cutoff: Cutoff of the network, A.
    """
    if box is None:
        tree = cKDTree(positions)
        return int(tree.count_neighbors(tree, cutoff)) - len(positions)
    x, cell = (torch.from_numpy(np.array(a, dtype=float)) for a in (positions, box))
    return len(neighbor_pairs(x, cutoff, cell)[0])


def needed_memory(
    network: SE3Transformer,
    implementation: str,
    precision: str,
    n_atoms: int,
    n_edges: int,
) -> float:
    """Return an estimate of the memory that energy and forces take, GB.

    Args:
        network: The network.
        implementation: "compiled", "triton" or "torchscript".
        precision: "single" or "double".
        n_atoms: Number of atoms.
        n_edges: Number of edges; a pair of atoms has two.
    """
    size = PRECISIONS[precision].itemsize
    layers = [cast(AttentionLayer, layer) for layer in network.attention]
    if implementation == "torchscript":
        kept = [numbers_of_an_edge(layer) for layer in layers]
        if n_edges > network.edges_at_a_time:
            return _needed_in_chunks(network, size, n_atoms, n_edges)
        # The backward pass needs as much again, of one layer at a time.
        return HELD * size * n_edges * (sum(kept) + max(kept)) / GB
    if implementation == "triton":
        atom = sum(_numbers_kept_on_gpu(layer) for layer in layers)
        atom += max(_numbers_used_on_gpu(layer) for layer in layers)
        # Room for half as many neighbors again: what a neighbor is, and in which image,
        # and what is found before it is sorted; direction, distance, and derivatives.
        heads = max(layer.heads for layer in layers)
        edge = 5 * 4 + size * (7 + 2 * heads)
        return (size * n_atoms * atom + 1.5 * n_edges * edge) / GB
    atom = sum(_numbers_of_an_atom(layer) for layer in layers)
    # Weights of attention and what they are computed from, in both directions.
    pair = PAIR_NUMBERS + sum(4 * layer.heads for layer in layers)
    return (
        size * (n_atoms * atom + n_edges / 2 * pair) + n_edges / 2 * PAIR_BYTES
    ) / GB


def _needed_in_chunks(
    network: SE3Transformer, size: int, n_atoms: int, n_edges: int
) -> float:
    """Return what TorchScript takes with the edges in chunks, GB."""
    layers = [cast(AttentionLayer, layer) for layer in network.attention]
    member = members_of(network)[0]
    jmax = member.harmonics.jmax
    products = sum(3 * (2 * degree + 1) for degree in range(1, jmax))
    functions = max(layer.radial.hidden.in_features for layer in layers)
    # Harmonics, radial basis and the rest of the geometry, its derivatives, and what
    # the backward pass to the vectors keeps.
    edge = 3 * (jmax + 1) ** 2 + 2 * products + 2 * functions + 20
    chunk = min(member.edges_of_chunk, n_edges)
    chunk *= 2 * max(numbers_of_an_edge(layer) for layer in layers)
    atom = sum(_numbers_kept_in_chunks(layer) for layer in layers)
    atom += max(_numbers_used_in_chunks(layer) for layer in layers)
    numbers = n_edges * edge + n_atoms * atom + chunk
    return GRAPHS_GB + (HELD * size * numbers + n_edges * EDGE_BYTES) / GB


def _numbers_kept_in_chunks(layer: AttentionLayer) -> int:
    """Return how many numbers of an atom a layer keeps: its input and heads."""
    channels = layer.channels
    return (layer.basis.dim_in + layer.dim_out) * channels


def _numbers_used_in_chunks(layer: AttentionLayer) -> int:
    """Return how many numbers of an atom the backward pass of a layer needs."""
    sent = layer.basis.dim_in * (layer.key_channels + layer.channels)
    queries = layer.dim_query * layer.key_channels
    mixing = 0
    if isinstance(layer.self_interaction, AttentiveSelfInteraction):
        mixing = 4 * math.prod(layer.self_interaction.shape)
    return 4 * (sent + queries) + 8 * layer.dim_out * layer.channels + mixing


def _numbers_of_an_atom(layer: AttentionLayer) -> int:
    """Return how many numbers compiled code keeps of an atom."""
    neighbor_features = layer.basis.dim_in * (layer.key_channels + layer.channels)
    queries = layer.dim_query * layer.key_channels
    out = layer.dim_out * layer.channels
    mixing = 0
    if isinstance(layer.self_interaction, AttentiveSelfInteraction):
        mixing = math.prod(layer.self_interaction.shape)
    # Each thread has sums of its own.
    sums = torch.get_num_threads() * max(out, neighbor_features + queries)
    # Heads, update, result and gates, and derivatives by heads and input.
    return neighbor_features + queries + 6 * out + mixing + sums


def _numbers_kept_on_gpu(layer: AttentionLayer) -> int:
    """Return how many numbers of an atom the backward pass on a GPU needs."""
    channels = layer.output.weight.shape[1]
    kept = layer.basis.dim_in + 2 * layer.dim_out  # input, heads, update
    return kept * channels + layer.heads


def _numbers_used_on_gpu(layer: AttentionLayer) -> int:
    """Return how many numbers of an atom a layer on a GPU needs while it runs."""
    projected = 2 * layer.key_channels + layer.channels
    derivatives = 3 * layer.dim_out + layer.basis.dim_in
    return 2 * layer.basis.dim_in * projected + derivatives * layer.channels


def require_memory(
    network: SE3Transformer,
    implementation: str,
    precision: str,
    n_atoms: int,
    n_edges: int,
) -> tuple[float, float]:
    """Return the memory that is needed, by estimate, and what is available, GB.

    On a machine with a GPU, TorchScript and Triton may use its memory instead.

    Raises:
        NotEnoughMemoryError: There is less than is needed; the message has both
            numbers and the fix.
    """
    needed = needed_memory(network, implementation, precision, n_atoms, n_edges)
    available = available_memory()
    if implementation != "compiled" and torch.cuda.is_available():
        available = max(available, torch.cuda.mem_get_info()[0] / GB)
    if needed <= available:
        return needed, available
    fixes = ["fewer atoms", "a model with a smaller cutoff"]
    if implementation == "torchscript" and reason_against(network.config) is None:
        compiled = needed_memory(network, "compiled", precision, n_atoms, n_edges)
        fixes.insert(0, f"implementation='compiled', which needs {compiled:.1f} GB")
    raise NotEnoughMemoryError(
        f"energy and forces of {n_atoms} atoms with about {n_edges} edges need about "
        f"{needed:.1f} GB of memory with implementation='{implementation}', and "
        f"{available:.1f} GB are available; use {', or '.join(fixes)}"
    )

"""With the edges in chunks a network gives what it gives without."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from random_model import BOX, random_network, water_cluster
from torch import Tensor

from openmm_se3.neighbors import Edges, neighbor_pairs
from openmm_se3.nn import attention
from openmm_se3.nn.committee import Committee
from openmm_se3.nn.edge_chunks import Chunk, chunks_of
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import scripted
from openmm_se3.torchscript.modules import GenericForce

THESIS: dict[str, Any] = {
    "kernel": "full",
    "channels": 4,
    "key_channels": 2,
    "attention": "softmax",
    "nonlinearity": "norm",
    "envelope": "sharp",
    "radial_basis": "distance",
    "embedding": "onehot",
    "zbl": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"self_interaction": "linear"},
    "one layer, one degree": {"layers": 1, "lmax": 0},
    "thesis": THESIS,
    "direct": {"force_mode": "direct", "layers": 2},
    "both": {"force_mode": "both", "layers": 2},
}


def water_in_a_box() -> tuple[Tensor, Tensor, Edges]:
    """Return positions, species and edges of six molecules and an atom far away."""
    species, positions = water_cluster(6)
    positions = torch.cat([positions, torch.tensor([[50.0, 0.0, 0.0]]).double()])
    species = torch.cat([species, torch.tensor([1])])
    return positions, species, neighbor_pairs(positions, 4.0)


def in_chunks(network: SE3Transformer) -> SE3Transformer:
    """Let a network compute some thirty edges at a time."""
    for member in [network, *getattr(network, "members", [])]:
        member.edges_at_a_time, member.edges_of_chunk = 0, 30
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_all_edges_together(name: str) -> None:
    network = random_network(**NETWORKS[name])
    atoms = water_in_a_box()
    expected = ForceField(network).with_direct_forces(*atoms)
    found = ForceField(in_chunks(network)).with_direct_forces(*atoms)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and not ours.requires_grad
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_committee_in_chunks() -> None:
    members = [random_network(seed=seed, layers=2) for seed in range(2)]
    atoms = water_in_a_box()
    expected = ForceField(Committee(members))(*atoms)
    found = ForceField(in_chunks(Committee(members)))(*atoms)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_edges_in_any_order() -> None:
    network = random_network(layers=2)
    positions, species, edges = water_in_a_box()
    mixed = torch.randperm(len(edges.center), generator=torch.manual_seed(0))
    assert edges.shifts is not None
    shuffled = Edges(*(part[mixed] for part in edges[:2]), edges.shifts[mixed])
    expected = ForceField(network)(positions, species, edges)
    found = ForceField(in_chunks(network))(positions, species, shuffled)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["default", "direct"])
def test_torchscript_in_chunks(name: str) -> None:
    network = random_network(**NETWORKS[name])
    species, positions = water_cluster(4)
    box = torch.tensor(BOX)
    calls = []
    for each in (network, in_chunks(network)):
        module = scripted(GenericForce(each))
        module.set_atoms(species, torch.arange(len(species)), 0.0)
        frozen = torch.jit.freeze(module)  # as openmm-torch does
        # TorchScript optimizes a module in its first calls.
        calls.append([frozen(0.1 * positions, 0.1 * box) for _ in range(4)])
    for expected, found in zip(*calls, strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)


def test_smooth_where_chunks_begin() -> None:
    network = random_network(layers=2)
    positions, species, edges = water_in_a_box()
    # One atom moves until it has lost neighbors, so that the number of edges passes
    # that from which on there are chunks.
    moves = [torch.tensor([step, 0.0, 0.0]).double() for step in np.arange(0, 1, 0.02)]
    frames = []
    for move in moves:
        x = positions.clone()
        x[17] += move
        frames.append((x, neighbor_pairs(x, 4.0)))
    counts = [len(edges.center) for _, edges in frames]
    network.edges_at_a_time = sorted(set(counts))[0]
    network.edges_of_chunk = 30
    assert any(n > network.edges_at_a_time for n in counts)
    chunked = [float(ForceField(network)(x, species, e)[0]) for x, e in frames]
    network.edges_at_a_time = 10_000
    together = [float(ForceField(network)(x, species, e)[0]) for x, e in frames]
    np.testing.assert_allclose(chunked, together, rtol=0, atol=1e-12)


def test_training_has_no_chunks() -> None:
    network = in_chunks(random_network(layers=2))
    positions, species, edges = water_in_a_box()
    energy, forces = ForceField(network)(positions, species, edges, create_graph=True)
    (energy.sum() + forces.sum()).backward()
    assert network.embedding.weight.grad is not None


@pytest.mark.parametrize("most", [1, 5, 6, 100])
def test_chunks_have_all_edges_of_their_atoms_once(most: int) -> None:
    counts = [0, 3, 2, 0, 7, 1, 0]
    center = torch.repeat_interleave(torch.arange(7), torch.tensor(counts))
    chunks = chunks_of(center, 7, most)
    assert chunks[0].first_atom == chunks[0].first_edge == 0
    assert chunks[-1].end_atom == 7 and chunks[-1].end_edge == 13
    for one, other in itertools.pairwise(chunks):
        assert one.end_atom == other.first_atom and one.end_edge == other.first_edge
    for chunk in chunks:
        own = center[chunk.first_edge : chunk.end_edge]
        atoms = range(chunk.first_atom, chunk.end_atom)
        assert len(own) == sum(counts[i] for i in atoms)
        assert len(own) <= most or sum(counts[i] > 0 for i in atoms) == 1


def test_a_planted_fault_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(chunk: Chunk, edges: Edges) -> Edges:
        own = original(chunk, edges)
        return own._replace(neighbor=own.neighbor.roll(1))

    original = attention.edges_of_chunk
    network = random_network(layers=2)
    atoms = water_in_a_box()
    expected = ForceField(network)(*atoms)
    monkeypatch.setattr(attention, "edges_of_chunk", shifted)
    found = ForceField(in_chunks(network))(*atoms)
    assert float((found[1] - expected[1]).abs().max()) > 1e-6

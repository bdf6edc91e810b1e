"""Derivatives by the weights, as the GPU's kernels give them, without a GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from random_model import BOX, random_network, water_cluster
from torch import Tensor, nn
from triton_networks import NARROW, network_of

from openmm_se3.compiled.cache import CompileError
from openmm_se3.compiled.codegen import TABLE_START
from openmm_se3.compiled.force_gradient import relative_energies, with_lone_atoms
from openmm_se3.compiled.weights import RadialTables
from openmm_se3.neighbors import Edges, in_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.start import compiled_batches
from openmm_se3.triton import kernels, weight_gradient
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights
from openmm_se3.triton.training import NeighborLists, TritonBatches
from openmm_se3.triton.weight_gradient import TrainedNetwork

INTERVALS = 8


class TabulatedRadial(nn.Module):
    """A radial network that is a table, so that the reference is the kernels' own."""

    def __init__(self, table: Tensor, cutoff: float) -> None:
        super().__init__()
        self.table = nn.Parameter(table)  # [intervals, 6, n_functions]
        self.per_length = len(table) / (cutoff - TABLE_START)

    def forward(self, distance: Tensor, envelope: Tensor) -> list[Tensor]:
        place = ((distance[:, 0] - TABLE_START) * self.per_length).clamp(min=0.0)
        interval = place.detach().long().clamp(max=len(self.table) - 1)
        t = (place - interval).unsqueeze(1)
        powers = torch.stack([t**k for k in range(6)], dim=1)
        return [(self.table[interval] * powers).sum(1)]


class Distance(nn.Module):
    def forward(self, distance: Tensor) -> Tensor:
        return distance.unsqueeze(-1)


def tabulated(network: SE3Transformer) -> tuple[SE3Transformer, Tensor]:
    """Return a network with tables for radial networks, and the tables."""
    flat = RadialTables(network, INTERVALS)(network).detach()
    own = copy.deepcopy(network)
    tables = Network(network.config).tables_of_layers(flat)
    own.radial_basis = Distance()
    for layer, table in zip(own.attention, tables, strict=True):
        layer.radial = TabulatedRadial(table.clone(), network.config.cutoff)
    return own, flat


def two_molecules() -> tuple[Tensor, Tensor, Edges]:
    """Return positions, species and edges of two molecules and a lone atom."""
    species, positions = water_cluster(2)
    positions = torch.cat([positions, torch.tensor([[30.0, 0.0, 0.0]]).double()])
    species = torch.cat([species, torch.tensor([0])])
    return positions, species, neighbor_pairs(positions, 4.0)


def in_a_box() -> tuple[Tensor, Tensor, Edges]:
    """Return the same of a molecule in a box so small that it sees itself."""
    species, positions = water_cluster(1)
    return positions, species, neighbor_pairs(positions, 4.0, torch.tensor(NARROW))


def gradients(
    network: SE3Transformer, atoms: tuple[Tensor, Tensor, Edges]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return derivatives of a weighted sum of energies: kernels', and autograd's."""
    positions, species, edges = atoms
    factors = torch.linspace(-1.0, 2.0, len(species)).double()
    own, flat = tabulated(network)
    field = ForceField(own)
    own.zero_grad()
    features = own.features(species, field.edge_vectors(positions, edges), edges, False)
    (own.atomic_energies(features[0]) * factors).sum().backward()
    expected = {
        name: parameter.grad
        for name, parameter in own.named_parameters()
        if parameter.grad is not None
    }
    lists = NeighborLists(edges, positions)
    weights = Weights.of(own).joined()
    by_weights, by_tables = TrainedNetwork(network.config).energy_gradient(
        lists.at(positions, torch.float64), species, factors, weights.detach(), flat
    )
    own.zero_grad()
    weights.backward(by_weights)
    found = {name: p.grad for name, p in own.named_parameters() if p.grad is not None}
    tables = Network(network.config).tables_of_layers(by_tables)
    for number, table in enumerate(tables):
        found[f"attention.{number}.radial.table"] = table
    return found, expected


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest error of a parameter's gradient, as a share of its size."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - theirs).norm() / theirs.norm())
        for name, theirs in expected.items()
    )


@pytest.mark.parametrize(
    ("changes", "atoms"),
    [
        ({}, in_a_box),
        ({"self_interaction": "attentive", "layers": 2}, two_molecules),
        ({"channels": 6, "key_channels": 3, "heads": 3, "layers": 2}, two_molecules),
        ({"lmax": 1, "jmax": 2, "symmetry": "SO(3)", "layers": 2}, in_a_box),
        ({"layers": 1, "energy_scale": 0.3}, two_molecules),
    ],
    ids=["default", "attentive", "three heads", "SO(3)", "one layer"],
)
def test_equal_to_autograd(changes: dict[str, Any], atoms: Any) -> None:
    assert largest_error(*gradients(network_of(**changes), atoms())) < 1e-9


# Of each fault: where the text is changed, or what of the module is.
FAULTS = {
    "a power": ("power = power * t", "power = power * t * t"),
    "a path": ("path * (KEYS + CHANNELS)", "path * 0 * (KEYS + CHANNELS)"),
    "values": ("d * spread_heads(weight, value_head[None, :])", "d"),
    "keys": ("d * spread_heads(logit_back, key_head[None, :])", "d * 0.0"),
    "a component": ("v1 = tl.load(v + 1 * v_stride)", "v1 = tl.load(v + 2 * v_stride)"),
    "the center": ("slope + center * CHANNELS", "slope + other * CHANNELS"),
    "an interval": ("place - interval.to(kind)", "place"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_a_kernel_shows(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = FAULTS[fault]
    original = kernels.Kernels.__init__
    planted = 0

    def with_fault(self: kernels.Kernels, text: str) -> None:
        nonlocal planted
        head, mark, rest = text.partition("def key_by_path")
        planted += old in rest
        original(self, head + mark + rest.replace(old, new))

    monkeypatch.setattr(kernels.Kernels, "__init__", with_fault)
    kernels.forget()
    try:
        found = gradients(network_of(layers=2, lmax=1), two_molecules())
        assert planted and largest_error(*found) > 1e-4
    finally:
        kernels.forget()


@pytest.mark.parametrize("part", ["_by_gate", "_by_kept", "_head"])
def test_a_planted_fault_of_a_matrix_shows(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = TrainedNetwork if part == "_head" else weight_gradient.TrainedLayer
    original = getattr(owner, part)

    def with_fault(self: Any, *arguments: Any) -> Any:
        result = original(self, *arguments)
        if part == "_by_kept":
            result.hidden.mul_(1.01)
            return result
        return *result[:-1], 1.01 * result[-1]

    monkeypatch.setattr(owner, part, with_fault)
    network = network_of(layers=2, lmax=1, self_interaction="attentive")
    assert largest_error(*gradients(network, two_molecules())) > 1e-4


def test_lists_hold_every_edge_and_its_reverse() -> None:
    species, positions = water_cluster(2)
    edges = neighbor_pairs(positions, 4.0, torch.tensor(BOX))
    results = []
    for given in (edges, in_pairs(edges)):
        lists = NeighborLists(given, positions)
        assert int(lists.count.sum()) == len(edges.center)
        there = lists.slot.long()
        back = lists.reverse[there].long()
        assert torch.equal(lists.list[there].long(), back // lists.room)
        assert torch.equal(lists.reverse[back].long(), there)
        found = lists.at(positions, torch.float64)
        direction = found.direction.view(3, -1)
        torch.testing.assert_close(direction[:, there], -direction[:, back])
        r = found.distance.view(len(species), -1)
        used = torch.arange(lists.room) < lists.count.unsqueeze(1)
        assert (r.diff(dim=1)[used[:, 1:]] >= 0.0).all()
        results.append(found)
    torch.testing.assert_close(results[0].distance, results[1].distance)


def loss_and_gradient(
    network: SE3Transformer, energies: Tensor, forces: Tensor
) -> dict[str, Tensor]:
    network.zero_grad()
    (energies.double().square().sum() + forces.double().square().sum()).backward()
    return {
        name: p.grad for name, p in network.named_parameters() if p.grad is not None
    }


def test_losses_of_energies_and_forces() -> None:
    network = random_network(layers=2, lmax=1, self_interaction="linear").train()
    positions, species, edges = two_molecules()
    batch = {
        "positions": positions,
        "species": species,
        "edges": edges,
        "molecule": torch.tensor([0, 0, 0, 0, 0, 0, 1]),
        "n_molecules": 2,
    }
    expected = ForceField(network)(**batch, create_graph=True)
    expected_gradient = loss_and_gradient(network, *expected)
    found = TritonBatches(network).energy_and_forces(network, **batch)
    for ours, theirs in zip(found, expected, strict=True):
        # What differs are tables of 128 intervals.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    gradient = loss_and_gradient(network, *found)
    error, size = (
        torch.cat([part.flatten() for part in parts]).norm()
        for parts in (
            [gradient[name] - g for name, g in expected_gradient.items()],
            list(expected_gradient.values()),
        )
    )
    assert gradient.keys() == expected_gradient.keys()
    assert error < 1e-5 * size
    # The loss of forces is most of it: without the difference this would show.
    network.zero_grad()
    energies, _ = TritonBatches(network).energy_and_forces(network, **batch)
    energies.square().sum().backward()
    alone = network.attention[0].query.weight.grad
    assert (alone - gradient["attention.0.query.weight"]).norm() > 1e-3 * size


def test_training_takes_the_kernels_on_gpus_that_they_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = random_network(torch.float32)

    def chosen(network: SE3Transformer = network, **settings: Any) -> bool:
        found = compiled_batches(
            network, TrainingConfig(**{"device": "gpu"} | settings)
        )
        assert found is None or isinstance(found, TritonBatches)
        return found is not None

    monkeypatch.delenv("OPENMM_SE3_IMPLEMENTATION", raising=False)
    assert not chosen()  # no GPU here
    with pytest.raises(CompileError, match="NVIDIA"):
        chosen(implementation="triton")
    monkeypatch.setattr(kernels, "problem", lambda: None)
    assert chosen() and chosen(implementation="triton")
    assert not chosen(implementation="pytorch")
    assert not chosen(random_network(torch.float32, kernel="full"))
    with pytest.raises(ValueError, match=r"training\.device to gpu"):
        chosen(implementation="triton", device="cpu")
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "torchscript")
    assert not chosen()


def test_lone_atoms_stand_behind_the_others() -> None:
    positions, species, _ = two_molecules()
    molecule = torch.zeros(len(species), dtype=torch.int64)
    x, kinds, molecules = with_lone_atoms(positions, species, molecule, 1, 2)
    assert kinds[-2:].tolist() == [0, 1] and molecules[-2:].tolist() == [1, 2]
    energies = torch.cat([torch.ones(len(species)), torch.tensor([0.25, 0.5])]).double()
    total = relative_energies(energies, species, molecule, 1)
    expected = len(species) - 0.25 * int((species == 0).sum())
    assert float(total) == pytest.approx(expected - 0.5 * int((species == 1).sum()))
    assert len(x) == len(positions) + 2

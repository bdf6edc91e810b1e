"""Compiled energies, forces and derivatives by the weights against PyTorch's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from openmm_se3.compiled.library import CompileError, find_compiler
from openmm_se3.compiled.training import CompiledBatches, FixedWeights
from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import Edges, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.start import compiled_batches

pytestmark = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)

SMALL = ModelConfig(
    elements=("H", "C", "O"),
    cutoff=4.0,
    channels=8,
    key_channels=4,
    heads=2,
    self_interaction="attentive",
)
# Every term of the gradient that the first network lacks.
OTHER = dataclasses.replace(
    SMALL,
    layers=2,
    lmax=1,
    symmetry="SO(3)",
    self_interaction="linear",
    energy_scale=0.3,
)
# Whole registers of 8 numbers, as in the shipped models.
WIDE = dataclasses.replace(SMALL, channels=16, key_channels=8)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def free_molecules(cutoff: float) -> dict[str, Any]:
    """Return a batch of molecules of 1, 5, 24 and 2 atoms."""
    generator = torch.Generator().manual_seed(4)
    sizes = (1, 5, 24, 2)
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    start = 0
    for n in sizes:
        grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:n].double()
        x = 1.8 * grid + 0.1 * torch.randn(n, 3, generator=generator).double()
        far = torch.cdist(x, x) + 100.0 * torch.eye(n)
        i, j = torch.nonzero(far < cutoff, as_tuple=True)
        parts.append((x, start + i, start + j))
        start += n
    positions, center, neighbor = (torch.cat(part) for part in zip(*parts, strict=True))
    return {
        "positions": positions,
        "species": torch.arange(start) % 3,
        "edges": Edges(center, neighbor, torch.zeros(len(center), 3).double()),
        "molecule": torch.repeat_interleave(torch.arange(4), torch.tensor(sizes)),
        "n_molecules": 4,
    }


def small_box(cutoff: float) -> dict[str, Any]:
    """Return four atoms in a box so small that they see their own images."""
    box = torch.tensor([[3.0, 0.0, 0.0], [0.7, 3.2, 0.0], [-0.4, 0.9, 3.5]]).double()
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(4, 3, generator=generator).double() @ box
    edges = neighbor_pairs(x, cutoff, box)
    assert (edges.center == edges.neighbor).any()
    return {
        "positions": x,
        "species": torch.tensor([0, 1, 2, 0]),
        "edges": edges,
        "molecule": torch.zeros(4, dtype=torch.int64),
        "n_molecules": 1,
    }


def gradients(
    network: SE3Transformer, energies: torch.Tensor, forces: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the derivatives of the sum of squares by the weights."""
    network.zero_grad()
    (energies.double().square().sum() + forces.double().square().sum()).backward()
    return {
        name: p.grad.double()
        for name, p in network.named_parameters()
        if p.grad is not None
    }


def relative_error(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> float:
    """Return the error of a gradient, all parameters together."""
    error, size = (
        torch.cat([values.flatten() for values in part]).norm()
        for part in (
            [found[name] - expected[name] for name in expected],
            list(expected.values()),
        )
    )
    return float(error / size)


def make_network(config: ModelConfig, dtype: torch.dtype) -> SE3Transformer:
    torch.manual_seed(7)
    return SE3Transformer(config).to(dtype).train()


@pytest.mark.parametrize("batch", [free_molecules, small_box])
@pytest.mark.parametrize(
    ("config", "dtype", "limit"),
    [
        (SMALL, torch.float64, 1e-6),
        (OTHER, torch.float64, 1e-6),
        (WIDE, torch.float32, 1.5e-3),
    ],
    ids=["small", "other", "wide"],
)
def test_equal_to_pytorch(
    config: ModelConfig, dtype: torch.dtype, limit: float, batch: Any
) -> None:
    network = make_network(config, dtype)
    tensors = batch(config.cutoff)
    compiled = CompiledBatches(network)
    expected = ForceField(network)(**tensors, create_graph=True)
    expected_gradients = gradients(network, *expected)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = compiled.energy_and_forces(network, **tensors)
        for ours, theirs in zip(found, expected, strict=True):
            limit_of_values = 1e-9 if dtype == torch.float64 else 1e-3  # eV, eV/A
            assert torch.allclose(
                ours, theirs.double(), rtol=1e-5, atol=limit_of_values
            )
        found_gradients = gradients(network, *found)
        assert found_gradients.keys() == expected_gradients.keys()
        assert relative_error(found_gradients, expected_gradients) < limit
        if dtype == torch.float64:  # in float32 small ones drown in the rounding
            for name, theirs in expected_gradients.items():
                error = (found_gradients[name] - theirs).norm() / theirs.norm()
                assert error < 10.0 * limit, name


def test_fixed_weights_give_the_same() -> None:
    network = make_network(SMALL, torch.float32)
    tensors = free_molecules(SMALL.cutoff)
    expected = CompiledBatches(network).energy_and_forces(network, **tensors)
    found = FixedWeights(network).energy_and_forces(**tensors)
    assert not found[1].requires_grad
    for ours, other in zip(found, expected, strict=True):
        assert torch.allclose(ours, other.detach(), rtol=1e-5, atol=1e-7)


def test_gradients_of_energies_alone_are_exact() -> None:
    network = make_network(SMALL, torch.float64)
    tensors = free_molecules(SMALL.cutoff)
    results = []
    for energies, _ in (
        ForceField(network)(**tensors, create_graph=True),
        CompiledBatches(network).energy_and_forces(network, **tensors),
    ):
        results.append(gradients(network, energies, torch.zeros(1, 3)))
    for name, theirs in results[0].items():
        assert torch.allclose(results[1][name], theirs, rtol=1e-5, atol=1e-7), name


def test_an_infinite_loss_gives_a_gradient_that_shows_it() -> None:
    network = make_network(SMALL, torch.float64)
    _, forces = CompiledBatches(network).energy_and_forces(
        network, **free_molecules(SMALL.cutoff)
    )
    (torch.inf * forces).sum().backward()
    assert not torch.isfinite(network.attention[0].query.weight.grad).any()


def test_the_implementation_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_network(SMALL, torch.float32)
    full = make_network(dataclasses.replace(SMALL, kernel="full"), torch.float32)

    def chosen(network: SE3Transformer, **settings: Any) -> bool:
        return compiled_batches(network, TrainingConfig(**settings)) is not None

    assert not chosen(small)  # the tests' own environment asks for PyTorch
    assert chosen(small, implementation="compiled")
    monkeypatch.delenv("OPENMM_SE3_IMPLEMENTATION")
    assert chosen(small)
    assert not chosen(small, implementation="pytorch")
    assert not chosen(small, device="gpu")
    assert not chosen(full)
    with pytest.raises(CompileError, match="kernel: depthwise"):
        chosen(full, implementation="compiled")
    with pytest.raises(ValueError, match=r"set training\.device to cpu"):
        chosen(small, implementation="compiled", device="gpu")
    monkeypatch.setattr("openmm_se3.compiled.library.find_compiler", lambda: None)
    assert not chosen(
        make_network(dataclasses.replace(SMALL, channels=16), torch.float32)
    )

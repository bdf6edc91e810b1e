"""Forces are the slope of the energy, and both can be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_model import random_network, water_cluster
from torch import Tensor
from torch.func import functional_call

from openmm_se3.neighbors import Edges, all_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "full kernel": {"kernel": "full"},
    "both parities, linear": {"symmetry": "SO(3)", "self_interaction": "linear"},
    "norm": {"nonlinearity": "norm", "embedding": "one-hot"},
    "sharp cutoff": {"envelope": "none", "radial_basis": "distance"},
}
TINY: dict[str, Any] = {
    "layers": 2,
    "lmax": 1,
    "channels": 2,
    "key_channels": 2,
    "heads": 1,
    "radial_functions": 2,
    "radial_width": 2,
    "self_interaction_width": 2,
    "energy_scale": 1.0,
}


def finite_difference_forces(
    energy: Callable[[Tensor], Tensor], positions: Tensor, step: float = 1e-4
) -> Tensor:
    """Return -dE/dx by central differences of fourth order."""
    forces = torch.zeros_like(positions)
    for index in range(positions.numel()):
        move = torch.zeros(positions.numel(), dtype=positions.dtype)
        move[index] = step
        move = move.view(positions.shape)
        near = energy(positions + move) - energy(positions - move)
        far = energy(positions + 2.0 * move) - energy(positions - 2.0 * move)
        forces.view(-1)[index] = -(8.0 * near - far) / (12.0 * step)
    return forces


@pytest.mark.parametrize("variant", VARIANTS)
def test_forces_are_the_slope_of_the_energy(variant: str) -> None:
    network = random_network(**VARIANTS[variant])
    species, positions = water_cluster(2)
    positions[1] = positions[0] + 0.6 * torch.nn.functional.normalize(
        positions[1] - positions[0], dim=0
    )  # inside the wall
    edges = all_pairs(len(species))

    def energy(x: Tensor) -> Tensor:
        return ForceField(network)(x, species, edges)[0].squeeze()

    _, forces = ForceField(network)(positions, species, edges)
    expected = finite_difference_forces(energy, positions)
    torch.testing.assert_close(forces, expected, rtol=1e-7, atol=1e-7)


def test_direct_forces_are_not_the_slope_of_the_energy() -> None:
    """The control of the test above; these forces are an output of their own."""
    network = random_network(force_mode="direct")
    species, positions = water_cluster(2)
    edges = all_pairs(len(species))

    def energy(x: Tensor) -> Tensor:
        return ForceField(network)(x, species, edges)[0].squeeze()

    _, forces = ForceField(network)(positions, species, edges)
    assert (forces - finite_difference_forces(energy, positions)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conservative_forces_add_up_to_zero(dtype: torch.dtype) -> None:
    species, positions = water_cluster(3)
    for force_mode, zero in (("conservative", True), ("direct", False)):
        network = random_network(dtype, force_mode=force_mode)
        edges = all_pairs(len(species))
        _, forces = ForceField(network)(positions, species, edges)
        limit = 20 * torch.finfo(dtype).eps * forces.abs().sum()
        assert bool(forces.sum(0).abs().max() < limit) is zero


def energy_of(
    network: SE3Transformer, species: Tensor, edges: Edges
) -> Callable[..., Tensor]:
    """Return the energy as a function of vectors and of the parameters."""
    names = [name for name, _ in network.named_parameters()]

    def energy(vectors: Tensor, *parameters: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        atomic, _ = functional_call(network, values, (species, vectors, edges))
        return atomic.sum()

    return energy


@pytest.mark.parametrize("kernel", ["depthwise", "full"])
@pytest.mark.parametrize("nonlinearity", ["gate", "norm"])
def test_gradcheck(kernel: str, nonlinearity: str) -> None:
    """First and second derivatives by vectors and by all parameters."""
    network = random_network(kernel=kernel, nonlinearity=nonlinearity, **TINY).train()
    species, positions = water_cluster(1)
    edges = all_pairs(len(species))
    vectors = (positions[edges.neighbor] - positions[edges.center]).requires_grad_()
    parameters = [p.detach().requires_grad_() for p in network.parameters()]
    energy = energy_of(network, species, edges)
    assert torch.autograd.gradcheck(energy, (vectors, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, (vectors, *parameters), fast_mode=True)


def test_loss_of_forces_by_parameters() -> None:
    """What training needs: the slope of a force error by every parameter."""
    network = random_network(**TINY).train()
    species, positions = water_cluster(2)
    edges = all_pairs(len(species))

    def loss() -> Tensor:
        energy, forces = ForceField(network)(
            positions, species, edges, create_graph=True
        )
        return energy.square().sum() + forces.square().sum()

    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(
        loss(), list(network.parameters()), allow_unused=True
    )
    unused = [n for n, g in zip(names, gradients, strict=True) if g is None]
    assert unused == ["force_head.weight"]  # serves direct forces only
    step = 1e-5
    for (name, parameter), gradient in zip(
        network.named_parameters(), gradients, strict=True
    ):
        if gradient is None:
            continue
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
            values.append(loss().item())
            with torch.no_grad():
                parameter.sub_(sign * step * direction)
        numeric = (values[0] - values[1]) / (2.0 * step)
        expected = (gradient * direction).sum().item()
        assert numeric == pytest.approx(expected, rel=1e-5, abs=1e-8), name


# Where spherical angles, norms and directions are undefined or kinked.
ODD_GEOMETRIES: dict[str, list[list[float]]] = {
    "along x": [[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0]],
    "along y": [[0.0, 0, 0], [0, 1.0, 0], [0, 2.0, 0], [0, -1.0, 0]],
    "along z": [[0.0, 0, 0], [0, 0, 1.0], [0, 0, 2.0], [0, 0, -1.0]],
    "square": [[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0]],
    "on top of each other": [[0.0, 0, 0], [0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]],
    "all in one place": [[0.5, 0.5, 0.5]] * 4,
    "nearly in one place": [[0.0, 0, 0], [1e-9, 0, 0], [0, 1e-6, 0], [0, 0, 1e-3]],
    "at the cutoff": [[0.0, 0, 0], [4.0, 0, 0], [0, 4.0, 0], [0, 0, 8.0]],
    "far apart": [[0.0, 0, 0], [1e4, 0, 0], [0, 1e5, 0], [0, 0, 1e6]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("geometry", ODD_GEOMETRIES)
def test_no_geometry_gives_nan(geometry: str, dtype: torch.dtype) -> None:
    """Neither in energy and forces nor in the slope of both by the parameters."""
    positions = torch.tensor(ODD_GEOMETRIES[geometry], dtype=torch.float64)
    species = torch.tensor([1, 0, 0, 1])
    edges = all_pairs(4)
    for changes in VARIANTS.values():
        network = random_network(dtype, **changes).train()
        energy, forces = ForceField(network)(
            positions, species, edges, create_graph=True
        )
        assert torch.isfinite(energy).all()
        assert torch.isfinite(forces).all()
        # Summed up in float64 and scaled, as forces on top of each other are huge.
        size = forces.detach().abs().max().double().clamp(min=1.0)
        loss = (forces.double() / size).square().sum() + energy.sum() / size
        parameters = [p for p in network.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for gradient in gradients:
            assert gradient is None or torch.isfinite(gradient).all()

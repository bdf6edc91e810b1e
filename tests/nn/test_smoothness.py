"""Energy and forces stay smooth as atoms cross the cutoff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_model import SMALL, random_network
from torch import Tensor, nn

from openmm_se3.neighbors import Edges, all_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.radial import Envelope
from openmm_se3.nn.transformer import SE3Transformer

CUTOFF: float = SMALL["cutoff"]
STEP = 1e-6  # A
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}  # eV and eV/A
VARIANTS: dict[str, dict[str, Any]] = {
    "depthwise": {},
    "full": {"kernel": "full"},
    "linear": {"self_interaction": "linear", "symmetry": "SO(3)"},
    "direct": {"force_mode": "direct"},
}

both_precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)

Finder = Callable[[Tensor], Edges]


def dense_edges(positions: Tensor) -> Edges:
    return all_pairs(len(positions))


def sparse_edges(positions: Tensor) -> Edges:
    return neighbor_pairs(positions, CUTOFF)


both_paths = pytest.mark.parametrize("edges", [dense_edges, sparse_edges])


def direction() -> Tensor:
    return nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]).double(), dim=0)


def across_the_cutoff(
    network: SE3Transformer, fixed: Tensor, species: Tensor, edges: Finder
) -> tuple[Tensor, Tensor]:
    """Return by how much energy and forces change as one more atom enters.

    It comes along a line from the first of the fixed atoms, half a step on either side
    of the cutoff.
    """
    results = []
    for distance in (CUTOFF - 0.5 * STEP, CUTOFF + 0.5 * STEP):
        visitor = fixed[:1] + distance * direction()
        positions = torch.cat([fixed, visitor])
        pairs = edges(positions)
        results.append(ForceField(network)(positions, species, pairs))
    (energy_in, forces_in), (energy_out, forces_out) = results
    return (energy_in - energy_out).abs(), (forces_in - forces_out).abs().max()


@both_precisions
@both_paths
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_only_neighbor_crosses(
    variant: str, edges: Finder, dtype: torch.dtype
) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    species = torch.tensor([1, 0])
    change = across_the_cutoff(network, torch.zeros(1, 3).double(), species, edges)
    assert max(change) < TOLERANCE[dtype]
    # Control: half way in there is something to feel.
    positions = torch.stack([torch.zeros(3).double(), 0.5 * CUTOFF * direction()])
    energy, forces = ForceField(network)(positions, species, all_pairs(2))
    assert abs(energy) > 1e-2
    assert forces.abs().max() > 1e-2


@both_precisions
@both_paths
def test_one_of_many_neighbors_crosses(edges: Finder, dtype: torch.dtype) -> None:
    network = random_network(dtype)
    # The other atoms lie on the far side, out of the visitor's reach.
    species = torch.tensor([1, 0, 0, 1])
    others = [[0.0, 0.0, 0.0], [-0.9, 0.4, 0.1], [0.3, 0.4, -0.8]]
    positions = torch.tensor(others, dtype=torch.float64)
    assert (positions[1:] @ direction()).max() < 0.0
    change = across_the_cutoff(network, positions, species, edges)
    # Energies of several eV: float32 rounds them and the forces at 1e-6 of that.
    assert max(change) < 20.0 * TOLERANCE[dtype]


def test_without_the_envelope_the_energy_jumps() -> None:
    network = random_network(envelope="none")
    energy, force = across_the_cutoff(
        network, torch.zeros(1, 3).double(), torch.tensor([1, 0]), sparse_edges
    )
    assert energy > 1e-2
    assert force > 1e-3


def slopes_of_pairs(
    network: SE3Transformer, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return |dF/dr| (eV/A^2) and the slope of the first layer's features (1/A).

    Both for two atoms between each of the given distances and the next.
    """
    n = len(distances)
    positions = torch.zeros(2 * n, 3).double()
    positions[1::2] = distances[:, None] * direction()
    first = 2 * torch.arange(n)
    outputs: list[Tensor] = []
    hook = network.nonlinearities[0].register_forward_hook(
        lambda module, inputs, output: outputs.append(output.detach())
    )
    _, forces = ForceField(network)(
        positions,
        torch.tensor([1, 0]).repeat(n),
        Edges(torch.cat([first, first + 1]), torch.cat([first + 1, first])),
        molecule=torch.arange(n).repeat_interleave(2),
        n_molecules=n,
    )
    hook.remove()
    force = forces[1::2] @ direction()
    directed = outputs[0][1:, ::2]  # degrees l > 0, which vanish without a neighbor
    change = directed.diff(dim=1).abs().amax(dim=(0, 2))
    return force.diff().abs() / distances.diff(), change / distances.diff()


@pytest.mark.parametrize("seed", range(3))
def test_slopes_are_bounded_near_the_cutoff(seed: int) -> None:
    """A lone neighbor that fades must not be blown up to order one first."""
    distances = torch.linspace(CUTOFF - 0.5, CUTOFF, 501, dtype=torch.float64)
    for kernel in ("depthwise", "full"):
        network = random_network(seed=seed, kernel=kernel)
        stiffness, slope = slopes_of_pairs(network, distances)
        assert stiffness.max() < 1.0  # a bond has 50 eV/A^2
        assert slope.max() < 0.1
        # They fade: the last fifth has less than the first.
        assert stiffness[-100:].max() < 0.1 * stiffness[:100].max()
        assert slope[-100:].max() < 0.1 * slope[:100].max()
        # Control: the norm nonlinearity (2.9) divides by the size of the feature.
        network = random_network(seed=seed, kernel=kernel, nonlinearity="norm")
        _, control = slopes_of_pairs(network, distances)
        assert control.max() > 50.0 * slope.max()


def test_envelope_vanishes_with_two_derivatives() -> None:
    envelope = Envelope(CUTOFF)
    r = torch.tensor([CUTOFF - 1e-9, CUTOFF, CUTOFF + 1.0]).double().requires_grad_()
    value = envelope(r)
    (slope,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    for derivative in (value, slope, curvature):
        assert derivative.abs().max() < 1e-7
    assert envelope(torch.tensor([1e-3])).item() == pytest.approx(1.0)

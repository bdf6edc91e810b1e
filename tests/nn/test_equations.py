"""Every variant of the network is the thesis's equations, written out in NumPy.

``equations`` shares nothing with ``openmm_se3.nn``; both are in float64 here.
"""

from __future__ import annotations

from typing import Any

import equations
import numpy as np
import pytest
import torch
from random_model import BOX, small_config

from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import Edges, all_pairs, in_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.presets import PRESETS

TOLERANCE = 1e-9  # relative to the largest energy or force
FORCE_TOLERANCE = 1e-7  # of a finite difference
THESIS = PRESETS["thesis-basic"]["model"]
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "full kernel": {"kernel": "full"},
    "both parities": {"symmetry": "SO(3)"},
    "full kernel, both parities": {"kernel": "full", "symmetry": "SO(3)", "layers": 2},
    "sharp cutoff": {"envelope": "none"},
    "sharp cutoff, full kernel": {"envelope": "none", "kernel": "full", "heads": 1},
    "distance": {"radial_basis": "distance"},
    "linear": {"self_interaction": "linear"},
    "norm": {"nonlinearity": "norm"},
    "one-hot": {"embedding": "one-hot"},
    "one-hot, full kernel": {"embedding": "one-hot", "kernel": "full"},
    "direct": {"force_mode": "direct"},
    "both forces": {"force_mode": "both", "symmetry": "SO(3)"},
    "both forces, full kernel": {"force_mode": "both", "kernel": "full"},
    "one layer": {"layers": 1},
    "one layer, direct": {"layers": 1, "force_mode": "direct"},
    "four heads, two layers": {"heads": 4, "layers": 2},
    "fewer keys": {"key_channels": 2, "heads": 2},
    "without repulsion": {"zbl": False},
    "scalars only": {"lmax": 0},
    "vectors": {"lmax": 1, "symmetry": "SO(3)"},
    "few harmonics": {"jmax": 2, "symmetry": "SO(3)"},
    "degree 3": {"lmax": 3, "layers": 2, "symmetry": "SO(3)"},
    "degree 3, between": {"lmax": 3, "layers": 3, "jmax": 3},
    "degree 3, full, direct": {
        "lmax": 3,
        "layers": 3,
        "jmax": 3,
        "kernel": "full",
        "force_mode": "direct",
    },
    "four elements": {"elements": ("O", "H", "N", "C"), "force_mode": "both"},
    "four elements, one-hot": {
        "elements": ("O", "H", "N", "C"),
        "embedding": "one-hot",
    },
    "thesis": THESIS,
    "thesis, energy only": PRESETS["thesis-energy-only"]["model"],
    "thesis, higher order": {
        **PRESETS["thesis-higher-order"]["model"],
        **{"channels": 8, "key_channels": 8, "layers": 2},
    },
}


def network_of(**changes: Any) -> SE3Transformer:
    """Return a network none of whose weights is zero or one, in float64.

    Large enough that logits leave the linear part of the tanh, and that attention,
    hidden degrees and every nonlinearity change the energy.
    """
    torch.manual_seed(1)
    network = SE3Transformer(small_config(**changes))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("query.weight"):
                parameter.mul_(6.0)
            elif ".norms." in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif not name.startswith("embedding"):
                parameter.mul_(1.4)
    return network.eval()


def weights_of(network: SE3Transformer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def molecule(config: ModelConfig, n_atoms: int = 5) -> tuple[np.ndarray, list[int]]:
    """Return positions [n_atoms, 3] (A) and species.

    Two atoms within the reach of the repulsion, one that only some others see.
    """
    positions = np.array(
        [
            [0.0, 0.0, 0.0],
            [0.31, -0.2, 0.22],
            [-0.9, 1.1, 0.3],
            [1.2, 1.0, -1.5],
            [-1.4, -2.2, 1.9],
        ]
    )
    species = [n % len(config.elements) for n in (1, 0, 2, 1, 3)]
    return positions[:n_atoms], species[:n_atoms]


def oracle(
    network: SE3Transformer, species: list[int], cell: np.ndarray | None = None
) -> Any:
    """Return the function from positions to energy and direct forces."""
    weights = weights_of(network)

    def function(positions: np.ndarray) -> tuple[float, np.ndarray]:
        neighbors = equations.neighbors_of(positions, network.config.cutoff, cell)
        return equations.energy_and_direct_forces(
            network.config, weights, species, neighbors
        )

    return function


def assert_same(
    network: SE3Transformer,
    positions: np.ndarray,
    species: list[int],
    edges: Edges,
    cell: np.ndarray | None = None,
) -> None:
    """Compare energy, conservative and direct forces with those of the equations."""
    function = oracle(network, species, cell)
    energy, direct = function(positions)
    found_energy, forces, found_direct = ForceField(network).with_direct_forces(
        torch.tensor(positions), torch.tensor(species), edges
    )
    size = max(1.0, abs(energy))
    assert abs(energy) > 0.1, "nothing to compare"
    assert abs(found_energy.item() - energy) < TOLERANCE * size
    if network.direct:
        found_direct = forces
    assert found_direct.shape == direct.shape
    if len(direct):
        largest = np.abs(direct).max()
        assert largest > 0.1, "nothing to compare"
        np.testing.assert_allclose(
            found_direct.numpy(), direct, rtol=0.0, atol=TOLERANCE * largest
        )
    if not network.direct:
        direction = np.random.default_rng(0).normal(size=positions.shape)
        slope = equations.force_along(lambda x: function(x)[0], positions, direction)
        assert abs(slope) > 0.1, "nothing to compare"
        found = float((forces.numpy() * direction).sum())
        assert found == pytest.approx(slope, rel=FORCE_TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_is_the_equations(variant: str) -> None:
    network = network_of(**VARIANTS[variant])
    positions, species = molecule(network.config)
    edges = all_pairs(len(species))
    assert_same(network, positions, species, edges)


@pytest.mark.parametrize("variant", ["default", "thesis", "degree 3"])
@pytest.mark.parametrize("box", ["several images", "large"])
def test_periodic_network_is_the_equations(box: str, variant: str) -> None:
    """Edges from the cell list, shuffled or in pairs, with images of an atom itself."""
    changes = {**VARIANTS[variant], "cutoff": 3.0}
    if variant == "default":
        changes["force_mode"] = "both"
    network = network_of(**changes)
    positions, species = molecule(network.config, n_atoms=3)
    positions = positions + np.array([5.0, -7.0, 0.3])  # outside of the first box
    cell = BOX if box == "large" else 0.42 * BOX  # heights below the cutoff
    edges = neighbor_pairs(
        torch.tensor(positions), network.config.cutoff, torch.tensor(cell)
    )
    n_own = int((edges.center == edges.neighbor).sum())
    assert (n_own > 0) is (box == "several images")
    order = torch.randperm(len(edges.center))
    shuffled = Edges(*(part[order] for part in edges[:3]))
    assert_same(network, positions, species, shuffled, cell)
    assert_same(network, positions, species, in_pairs(edges), cell)


def test_harmonics_are_orthogonal_on_the_sphere() -> None:
    """By quadrature that is exact for these degrees; their square's mean is one."""
    cosines, weights = np.polynomial.legendre.leggauss(8)
    azimuths = 2.0 * np.pi * np.arange(14) / 14
    points, sizes = [], []
    for cosine, weight in zip(cosines, weights, strict=True):
        sine = np.sqrt(1.0 - cosine**2)
        for a in azimuths:
            points.append(np.array([cosine, sine * np.cos(a), sine * np.sin(a)]))
            sizes.append(weight / 2.0 / len(azimuths))
    indices = [(J, m) for J in range(7) for m in range(-J, J + 1)]
    values = np.array([[equations.Y(J, m, x) for J, m in indices] for x in points])
    gram = values.T @ (np.array(sizes)[:, None] * values)
    np.testing.assert_allclose(gram, np.eye(len(indices)), atol=1e-12)
    assert [equations.Y(1, m, np.array([1.0, 0.0, 0.0])) for m in (-1, 0, 1)] == [
        pytest.approx(3.0**0.5),
        pytest.approx(0.0, abs=1e-15),
        pytest.approx(0.0, abs=1e-15),
    ]


def representation(degree: int, rotation: np.ndarray) -> np.ndarray:
    """Return D [2l+1, 2l+1] with Y(R x) = D Y(x)."""
    points = np.random.default_rng(0).normal(size=(30, 3))
    ms = range(-degree, degree + 1)
    before = np.array([[equations.Y(degree, m, x) for m in ms] for x in points])
    after = np.array(
        [[equations.Y(degree, m, rotation @ x) for m in ms] for x in points]
    )
    return np.asarray(np.linalg.lstsq(before, after)[0].T)


def test_clebsch_gordan_matrices_are_equivariant() -> None:
    """And normalized, and the couplings of harmonics where there are these."""
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    D = [representation(degree, rotation) for degree in range(7)]
    x = np.array([0.3, -0.5, 0.8])
    for l in range(4):
        for k in range(4):
            for J in range(abs(l - k), l + k + 1):
                q = equations.Q(J, l, k)
                turned = np.einsum("am,bl,ck,mlk->abc", D[J], D[l], D[k], q)
                np.testing.assert_allclose(turned, q, atol=1e-12)
                assert np.square(q).sum() == pytest.approx(1.0)
                Y_J, Y_l, Y_k = (
                    [equations.Y(j, m, x) for m in range(-j, j + 1)] for j in (J, l, k)
                )
                product = np.einsum("mlk,m,l,k->", q, Y_J, Y_l, Y_k)
                if (J + l + k) % 2:
                    assert abs(product) < 1e-12  # odd: of x alone there is none
                else:
                    assert abs(product) > 0.1

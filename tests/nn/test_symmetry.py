"""Rotation, translation, reflection and permutation, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from e3nn import o3
from random_model import random_network, small_config, water_cluster
from torch import Tensor

from openmm_se3.neighbors import all_pairs
from openmm_se3.nn.attention import AttentionLayer, max_harmonic
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.kernel import (
    DepthwiseKernel,
    FullKernel,
    KernelBasis,
    SphericalHarmonics,
)
from openmm_se3.nn.layers import (
    AttentiveSelfInteraction,
    EquivariantLinear,
    Gate,
    NormNonlinearity,
)
from openmm_se3.nn.radial import BesselBasis, Envelope, RadialNetwork
from openmm_se3.nn.transformer import SE3Transformer

LAYER_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
FORCE_TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}
BROKEN = 1e-2  # what a layer that is not equivariant exceeds by far
MOTIONS = 4
LMAX = 3
CHANNELS = 8

both_precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)

# Features [dim, n, channels] and positions [n, 3] -> rows of the result [n_rows, ...].
Layer = Callable[[Tensor, Tensor], Tensor]


class Motion:
    """A random rotation and a random translation by some 10 A, exact to float64."""

    def __init__(self, seed: int) -> None:
        # e3nn's matrices are good to 1e-6 only unless float64 is the default.
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        self.rotation = o3.rand_matrix()
        self.translation = 10.0 * torch.randn(3)

    def matrix(self, degrees: list[int]) -> Tensor:
        """Return the rotation of rows that are blocks of these degrees."""
        torch.set_default_dtype(torch.float64)
        blocks = [o3.Irrep(l, 1).D_from_matrix(self.rotation) for l in degrees]
        return torch.block_diag(*blocks)

    def of_positions(self, positions: Tensor) -> Tensor:
        return positions @ self.rotation.T + self.translation


def rotate_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    return (matrix @ rows.double().flatten(1)).view(rows.shape)


def equivariance_errors(
    layer: Layer,
    degrees_in: list[int],
    degrees_out: list[int],
    dtype: torch.dtype,
    positions_dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return (3.1), |L Phi(f) - Phi(L f)| / |L Phi(f)|, of each block of the output.

    The largest over some random motions L, for random features of every input degree.
    """
    _, positions = water_cluster(2)
    worst = torch.zeros(len(degrees_out), dtype=torch.float64)
    for seed in range(MOTIONS):
        motion = Motion(seed)
        n_rows = sum(2 * l + 1 for l in degrees_in)
        features = torch.randn(n_rows, len(positions), CHANNELS).to(dtype)
        turned = rotate_rows(motion.matrix(degrees_in), features).to(dtype)
        moved = motion.of_positions(positions)
        expected = rotate_rows(
            motion.matrix(degrees_out),
            layer(features, positions.to(positions_dtype)),
        )
        difference = layer(turned, moved.to(positions_dtype)).double() - expected
        sizes = [2 * l + 1 for l in degrees_out]
        for block, (d, e) in enumerate(
            zip(difference.split(sizes), expected.split(sizes), strict=True)
        ):
            assert e.norm() > 1e-3, "nothing to compare"
            worst[block] = max(worst[block], d.norm() / e.norm())
    return worst


class Directions:
    """Functions of all pairs of some positions, as layers take them."""

    def __init__(
        self, positions: Tensor, dtype: torch.dtype, jmax: int = 2 * LMAX
    ) -> None:
        self.edges = all_pairs(len(positions))
        self.neighbor = self.edges.neighbor
        vectors = (positions[self.neighbor] - positions[self.edges.center]).to(dtype)
        distance = vectors.norm(dim=1)
        self.directions = vectors / distance[:, None]
        self.harmonics = SphericalHarmonics(jmax).to(dtype)(self.directions)
        self.envelope = Envelope(6.0)(distance)
        self.bessel = BesselBasis(6.0, 4).to(dtype)(distance)


def harmonics(dtype: torch.dtype) -> tuple[Layer, list[int], list[int]]:
    def layer(features: Tensor, positions: Tensor) -> Tensor:
        return Directions(positions, dtype).harmonics.T

    return layer, [0], list(range(2 * LMAX + 1))


def kernel_basis(dtype: torch.dtype) -> tuple[Layer, list[int], list[int]]:
    basis = KernelBasis(LMAX, LMAX, 2 * LMAX, parity=False).to(dtype)

    def layer(features: Tensor, positions: Tensor) -> Tensor:
        edges = Directions(positions, dtype)
        kernels = basis(edges.harmonics)
        return torch.einsum("eri,iec->rec", kernels, features[:, edges.neighbor])

    return layer, list(range(LMAX + 1)), [path.l for path in basis.paths]


def kernel(name: str, dtype: torch.dtype) -> tuple[Layer, list[int], list[int]]:
    basis = KernelBasis(LMAX, LMAX, 2 * LMAX, parity=False).to(dtype)
    body: DepthwiseKernel | FullKernel
    if name == "depthwise":
        body = DepthwiseKernel(basis.paths, CHANNELS)
    else:
        body = FullKernel(basis.paths, CHANNELS, CHANNELS)
    radial = RadialNetwork(4, 8, body.n_radial).to(dtype)

    def layer(features: Tensor, positions: Tensor) -> Tensor:
        edges = Directions(positions, dtype)
        neighbor_features = features[:, edges.neighbor].transpose(0, 1)
        psi = radial(edges.bessel, edges.envelope)
        return body(basis(edges.harmonics), psi, neighbor_features).transpose(0, 1)

    degrees = list(range(LMAX + 1))
    return layer, degrees, degrees


def on_atoms(module: torch.nn.Module) -> tuple[Layer, list[int], list[int]]:
    def layer(features: Tensor, positions: Tensor) -> Tensor:
        return module(features)

    degrees = list(range(LMAX + 1))
    return layer, degrees, degrees


def attention(
    dtype: torch.dtype,
    k_max: int,
    l_max: int,
    change: Callable[[AttentionLayer], None] = lambda layer: None,
    **changes: Any,
) -> tuple[Layer, list[int], list[int]]:
    config = small_config(lmax=LMAX, channels=CHANNELS, **changes)
    module = AttentionLayer(config, k_max, l_max, CHANNELS).to(dtype)
    change(module)
    with torch.no_grad():
        # As large as what the self-interaction keeps, so that a fault in it shows.
        module.output.weight.mul_(10.0)

    def layer(features: Tensor, positions: Tensor) -> Tensor:
        e = Directions(positions, dtype, max_harmonic(config))
        arguments = e.harmonics, e.bessel, e.envelope, e.edges
        return module(features, *arguments)

    return layer, list(range(k_max + 1)), list(range(l_max + 1))


LAYERS: dict[str, Callable[[torch.dtype], tuple[Layer, list[int], list[int]]]] = {
    "harmonics": harmonics,
    "kernel basis": kernel_basis,
    "depthwise kernel": lambda dtype: kernel("depthwise", dtype),
    "full kernel": lambda dtype: kernel("full", dtype),
    "linear": lambda dtype: on_atoms(EquivariantLinear(LMAX, CHANNELS, 6).to(dtype)),
    "self-interaction": lambda dtype: on_atoms(
        AttentiveSelfInteraction(LMAX, CHANNELS, 6, 8).to(dtype)
    ),
    "gate": lambda dtype: on_atoms(Gate(LMAX, CHANNELS).double().to(dtype)),
    "norm": lambda dtype: on_atoms(NormNonlinearity(LMAX, CHANNELS).to(dtype)),
    "first attention": lambda dtype: attention(dtype, 0, LMAX),
    "attention": lambda dtype: attention(dtype, LMAX, LMAX),
    "attention, full kernel": lambda dtype: attention(
        dtype, LMAX, LMAX, kernel="full", symmetry="SO(3)"
    ),
    "attention, linear": lambda dtype: attention(
        dtype, LMAX, LMAX, self_interaction="linear", jmax=LMAX
    ),
    "last attention, energy": lambda dtype: attention(dtype, LMAX, 0),
    "last attention, direct": lambda dtype: attention(dtype, LMAX, 1, kernel="full"),
}


@both_precisions
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_equivariant(name: str, dtype: torch.dtype) -> None:
    layer, degrees_in, degrees_out = LAYERS[name](dtype)
    errors = equivariance_errors(layer, degrees_in, degrees_out, dtype)
    assert errors.max() < LAYER_TOLERANCE[dtype], errors


def permute_coupling(layer: AttentionLayer) -> None:
    """Turn round the components of the output of the last path."""
    coupling = layer.basis.coupling.unflatten(1, (layer.basis.n_rows, -1))
    rows = 2 * layer.basis.paths[-1].l + 1
    coupling[:, -rows:] = coupling[:, -rows:].flip(1).clone()


def weights_by_component(layer: AttentionLayer) -> None:
    """Mix the channels of one component unlike those of its degree."""
    layer.output.degree[-1] = 0


def queries_by_component(layer: AttentionLayer) -> None:
    """Scale one component of the queries, which changes the logits only."""
    layer.query.degree[-1] = 0


@pytest.mark.parametrize(
    "change", [permute_coupling, weights_by_component, queries_by_component]
)
def test_a_broken_attention_layer_fails(
    change: Callable[[AttentionLayer], None],
) -> None:
    layer, degrees_in, degrees_out = attention(torch.float64, LMAX, LMAX, change)
    errors = equivariance_errors(layer, degrees_in, degrees_out, torch.float64)
    assert errors.max() > BROKEN


def test_broken_layers_on_atoms_fail() -> None:
    gate = Gate(LMAX, CHANNELS).double()
    gate.mean_of_degree[:, 1:] = 0.0  # of all components of l > 0 one counts
    for broken in (gate, torch.nn.ReLU()):
        errors = equivariance_errors(*on_atoms(broken), torch.float64)
        assert errors.max() > BROKEN


def test_vectors_formed_in_float32_fail() -> None:
    """Why relative vectors are formed in the precision of the positions."""
    case = LAYERS["harmonics"](torch.float32)
    errors = equivariance_errors(*case, torch.float32, positions_dtype=torch.float32)
    assert errors.max() > LAYER_TOLERANCE[torch.float32]


@pytest.mark.parametrize("jmax", [0, 1, 2, 6])
def test_harmonics_are_those_of_e3nn(jmax: int) -> None:
    """Clebsch-Gordan coefficients are e3nn's: the harmonics must be, too."""
    torch.set_default_dtype(torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    directions = torch.cat([directions, torch.eye(3), -torch.eye(3)])
    expected = o3.spherical_harmonics(
        list(range(jmax + 1)), directions, normalize=False, normalization="component"
    )
    ours = SphericalHarmonics(jmax).double()(directions)
    torch.testing.assert_close(ours, expected, rtol=0.0, atol=1e-12)


NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "full kernel": {"kernel": "full"},
    "both parities": {"symmetry": "SO(3)"},
    "linear, few harmonics": {"self_interaction": "linear", "jmax": 2},
    "degree 3": {"lmax": 3, "layers": 2},
    "one-hot, norm": {"embedding": "one-hot", "nonlinearity": "norm"},
    "direct": {"force_mode": "direct"},
    "both forces": {"force_mode": "both"},
    "sharp cutoff": {"envelope": "none", "radial_basis": "distance"},
    "direct, full, norm": {
        "force_mode": "direct",
        "kernel": "full",
        "nonlinearity": "norm",
        "self_interaction": "attentive",
    },
}


@both_precisions
@pytest.mark.parametrize("name", NETWORKS)
def test_forces_turn_with_the_molecule(name: str, dtype: torch.dtype) -> None:
    network = random_network(dtype, **NETWORKS[name])
    species, positions = water_cluster(3)
    edges = all_pairs(len(species))
    energy, forces = ForceField(network)(positions, species, edges)
    assert forces.norm(dim=1).min() > 1e-3, "nothing to compare"
    for seed in range(MOTIONS):
        motion = Motion(seed)
        turned_energy, turned = ForceField(network)(
            motion.of_positions(positions), species, edges
        )
        expected = forces.double() @ motion.rotation.T
        error = (turned - expected).norm() / expected.norm()
        assert error < FORCE_TOLERANCE[dtype]
        scale = network.energy_scale  # of the parts that make up an energy
        assert abs(turned_energy - energy) < FORCE_TOLERANCE[dtype] * scale


@both_precisions
@pytest.mark.parametrize("changes", [{}, {"kernel": "full", "layers": 1}], ids=str)
def test_direct_forces_beside_conservative_ones_turn_and_mirror(
    changes: dict[str, Any], dtype: torch.dtype
) -> None:
    network = random_network(dtype, force_mode="both", **changes)
    species, positions = water_cluster(3)
    edges = all_pairs(len(species))
    _, _, forces = ForceField(network).with_direct_forces(positions, species, edges)
    assert forces.norm(dim=1).min() > 1e-3, "nothing to compare"
    for seed in range(MOTIONS):
        motion = Motion(seed)
        for mirror in (1.0, -1.0):
            _, _, turned = ForceField(network).with_direct_forces(
                mirror * motion.of_positions(positions), species, edges
            )
            expected = mirror * forces.double() @ motion.rotation.T
            error = (turned - expected).norm() / expected.norm()
            assert error < FORCE_TOLERANCE[dtype]


@both_precisions
@pytest.mark.parametrize("name", ["default", "full kernel", "direct"])
def test_hidden_degrees_turn_with_the_molecule(name: str, dtype: torch.dtype) -> None:
    """Errors of all layers together, at every hidden degree of a network."""
    network = random_network(dtype, **NETWORKS[name])
    modules = [
        m
        for p in zip(network.attention, network.nonlinearities, strict=True)
        for m in p
    ]
    species, positions = water_cluster(2)
    outputs = hidden_features(network, modules, species, positions)
    for seed in range(MOTIONS):
        motion = Motion(seed)
        moved = motion.of_positions(positions)
        turned = hidden_features(network, modules, species, moved)
        for before, after in zip(outputs, turned, strict=True):
            degrees = list(range(round(len(before) ** 0.5)))
            expected = rotate_rows(motion.matrix(degrees), before)
            for l in degrees:
                rows = slice(l * l, (l + 1) ** 2)
                error = (after[rows] - expected[rows]).norm() / expected[rows].norm()
                assert error < LAYER_TOLERANCE[dtype], (l, error)


def hidden_features(
    network: SE3Transformer,
    modules: list[torch.nn.Module],
    species: Tensor,
    positions: Tensor,
) -> list[Tensor]:
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda m, i, output: outputs.append(output))
        for module in modules
    ]
    ForceField(network)(positions, species, all_pairs(len(species)))
    for hook in hooks:
        hook.remove()
    return outputs


@both_precisions
def test_mirror_images_have_the_same_energy(dtype: torch.dtype) -> None:
    species, positions = water_cluster(3)
    mirrored = positions * torch.tensor([1.0, 1.0, -1.0])
    edges = all_pairs(len(species))
    differences = {}
    for symmetry in ("O(3)", "SO(3)"):
        network = random_network(dtype, seed=1, symmetry=symmetry)
        energy, forces = ForceField(network)(positions, species, edges)
        other, _ = ForceField(network)(mirrored, species, edges)
        differences[symmetry] = ((other - energy) / energy).abs().item()
    assert differences["O(3)"] < FORCE_TOLERANCE[dtype]
    assert differences["SO(3)"] > 1e-3


@both_precisions
def test_order_of_atoms_does_not_matter(dtype: torch.dtype) -> None:
    network = random_network(dtype)
    species, positions = water_cluster(2)
    edges = all_pairs(len(species))
    order = torch.randperm(len(species))
    energy, forces = ForceField(network)(positions, species, edges)
    same, permuted = ForceField(network)(positions[order], species[order], edges)
    tolerance = FORCE_TOLERANCE[dtype]
    assert abs(same - energy) < tolerance * network.energy_scale
    assert (permuted - forces[order]).norm() < tolerance * forces.norm()
    # Control: the same atoms in other places are another molecule.
    other, _ = ForceField(network)(positions, species[order], edges)
    assert not torch.equal(species, species[order])
    assert abs(other - energy) > 1e-3

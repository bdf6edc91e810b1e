"""The network as a whole: isolated atoms, sums of molecules, layouts of edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_model import random_network, water_cluster
from torch import Tensor

from openmm_se3.neighbors import Edges, all_pairs, in_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.kernel import edge_products
from openmm_se3.nn.transformer import SE3Transformer

# Of energies (eV) and forces (eV/A), relative where these are large.
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-12}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "full kernel, both parities": {"kernel": "full", "symmetry": "SO(3)"},
    # The norms of few channels are at times nearly equal, which blows rounding up.
    "norm, one-hot, linear": {
        "channels": 16,
        "nonlinearity": "norm",
        "embedding": "one-hot",
        "self_interaction": "linear",
    },
    "one layer": {"layers": 1},
    "scalars only": {"lmax": 0},
    "direct": {"force_mode": "direct"},
    "both forces": {"force_mode": "both"},
    "sharp cutoff": {"envelope": "none", "radial_basis": "distance"},
    "softmax, ReLU, linear readout": {
        "envelope": "none",
        "attention": "softmax",
        "activation": "relu",
        "readout": "linear",
    },
}

both_precisions = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)

all_variants = pytest.mark.parametrize("variant", VARIANTS)


def same(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether two results are equal to rounding."""
    size = other.abs().max().clamp(min=1.0)
    return bool((one - other).abs().max() < ROUNDING[dtype] * size)


@both_precisions
@all_variants
def test_an_isolated_atom_has_no_energy_and_no_force(
    variant: str, dtype: torch.dtype
) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    for species in range(2):
        for layout in ("list", "dense"):
            energy, forces = ForceField(network)(
                torch.randn(1, 3).double(),
                torch.tensor([species]),
                all_pairs(1)._replace(layout=layout),
            )
            # Matrix products round unlike for one atom and for several.
            size = float(network.isolated.abs().max()) + network.energy_scale
            limit = 4.0 * torch.finfo(dtype).eps * size
            assert abs(energy) < limit
            assert forces.tolist() == [[0.0, 0.0, 0.0]]


@both_precisions
@all_variants
def test_an_isolated_atom_beside_molecules(variant: str, dtype: torch.dtype) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    species, positions = water_cluster(2)
    far = torch.tensor([[50.0, 0.0, 0.0]]).double()
    edges = all_pairs(7)
    energy, forces = ForceField(network)(
        torch.cat([positions, far]), torch.cat([species, torch.tensor([1])]), edges
    )
    alone, alone_forces = ForceField(network)(positions, species, all_pairs(6))
    assert same(energy, alone, dtype)
    assert same(forces[:6], alone_forces, dtype)
    assert forces[6].tolist() == [0.0, 0.0, 0.0]


@both_precisions
@all_variants
def test_molecules_beyond_the_cutoff_add_up(variant: str, dtype: torch.dtype) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    species, positions = water_cluster(2)
    for gap, adds_up in ((20.0, True), (0.0, False)):
        both = positions.clone()
        both[3:] += gap * torch.tensor([1.0, 0.0, 0.0])
        parts = [
            ForceField(network)(both[part], species[part], all_pairs(3))
            for part in (slice(0, 3), slice(3, 6))
        ]
        energy, forces = ForceField(network)(both, species, all_pairs(6))
        assert same(energy, parts[0][0] + parts[1][0], dtype) is adds_up
        assert same(forces, torch.cat([f for _, f in parts]), dtype) is adds_up


@both_precisions
@all_variants
def test_dense_path_is_the_sparse_path(variant: str, dtype: torch.dtype) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    species, positions = water_cluster(4)
    n_atoms = len(species)
    dense = ForceField(network)(positions, species, all_pairs(n_atoms))
    edges = neighbor_pairs(positions, network.config.cutoff)
    n_edges = len(edges.center)
    assert n_edges < n_atoms * (n_atoms - 1), "all pairs are within the cutoff"
    order = torch.randperm(n_edges)  # the sparse path takes edges in any order
    shuffled = Edges(*(part[order] for part in edges[:3]))
    sparse = ForceField(network)(positions, species, shuffled)
    for one, other in zip(dense, sparse, strict=True):
        assert same(one, other, dtype)


@both_precisions
@all_variants
@pytest.mark.parametrize("box", [None, 5.0], ids=["free", "own images"])
def test_edges_in_pairs_give_the_same(
    box: float | None, variant: str, dtype: torch.dtype
) -> None:
    network = random_network(dtype, **VARIANTS[variant])
    species, positions = water_cluster(3)
    cell = None if box is None else box * torch.eye(3).double()
    edges = neighbor_pairs(positions, 5.5, cell)
    one = ForceField(network).with_direct_forces(positions, species, edges)
    pairs = in_pairs(edges)
    other = ForceField(network).with_direct_forces(positions, species, pairs)
    for left, right in zip(one, other, strict=True):
        assert left.shape == right.shape
        assert not len(left) or same(left, right, dtype)
    # In another order the two halves are no pairs.
    unpaired = edges._replace(layout="paired")
    wrong = ForceField(network).with_direct_forces(positions, species, unpaired)
    assert not same(one[0], wrong[0], dtype)


@pytest.mark.parametrize("kernel", ["depthwise", "full"])
def test_edges_in_pairs_give_the_same_gradients(kernel: str) -> None:
    """Of a batch as training has it: two boxes, and a lone atom without edges."""
    species, positions, center, neighbor, shifts = [], [], [], [], []
    for n_molecules, box in ((1, 5.0), (2, 6.5)):
        s, x = water_cluster(n_molecules, seed=n_molecules)
        i, j, shift, _ = neighbor_pairs(x, 4.0, box * torch.eye(3).double())
        offset = sum(len(part) for part in species)
        for parts, part in zip(
            (species, positions, center, neighbor, shifts),
            (s, x, i + offset, j + offset, shift),
            strict=True,
        ):
            parts.append(part)
    species.append(torch.tensor([1]))
    positions.append(torch.zeros(1, 3).double())
    atoms = torch.cat(positions), torch.cat(species)
    edges = Edges(torch.cat(center), torch.cat(neighbor), torch.cat(shifts))
    molecule = torch.repeat_interleave(torch.arange(3), torch.tensor([3, 6, 1]))

    def gradients(edges: Edges) -> list[Tensor]:
        network = random_network(kernel=kernel, symmetry="SO(3)").train()
        energies, forces = ForceField(network)(
            *atoms, edges, molecule, 3, create_graph=True
        )
        loss = energies.square().sum() + forces.square().sum()
        loss.backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    both = gradients(edges), gradients(in_pairs(edges))
    assert max(float(one.abs().max()) for one in both[0]) > 0.1
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_products_of_edges_have_all_their_derivatives() -> None:
    a = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(edge_products(a, b), torch.bmm(a, b))
    assert torch.autograd.gradcheck(edge_products, (a, b))
    assert torch.autograd.gradgradcheck(edge_products, (a, b))
    scripted = torch.jit.script(edge_products)
    assert torch.equal(scripted(a, b), torch.bmm(a, b))


@both_precisions
def test_a_batch_is_its_molecules(dtype: torch.dtype) -> None:
    network = random_network(dtype)
    sizes = (3, 1, 2)
    clusters = [water_cluster(n, seed=n) for n in sizes]
    single = [ForceField(network)(x, s, all_pairs(len(s))) for s, x in clusters]
    starts = [0, 9, 12]
    pairs = [all_pairs(len(s)) for s, _ in clusters]
    shifted = zip(pairs, starts, strict=True)
    moved = [(p.center + start, p.neighbor + start) for p, start in shifted]
    energies, forces = ForceField(network)(
        torch.cat([x for _, x in clusters]),
        torch.cat([s for s, _ in clusters]),
        Edges(*(torch.cat(part) for part in zip(*moved, strict=True))),
        molecule=torch.arange(3).repeat_interleave(3 * torch.tensor(sizes)),
        n_molecules=3,
    )
    assert energies.shape == (3,)
    assert same(energies, torch.cat([e for e, _ in single]), dtype)
    assert same(forces, torch.cat([f for _, f in single]), dtype)


def test_energies_are_summed_in_float64() -> None:
    """A float32 sum over many molecules would be off by far more."""
    network = random_network(torch.float32)
    species, positions = water_cluster(1)
    copies = 3000
    center, neighbor, _, _ = all_pairs(3)
    start = 3 * torch.arange(copies)[:, None]
    energy, _ = ForceField(network)(
        positions.repeat(copies, 1),
        species.repeat(copies),
        Edges((center + start).flatten(), (neighbor + start).flatten()),
    )
    vectors = (positions[neighbor] - positions[center]).float()
    atomic, _ = network(species, vectors, Edges(center, neighbor))
    assert energy.dtype == atomic.dtype == torch.float64
    each = energy.item() / copies
    # One molecule's energy depends on the size of the batch by float32 rounding only,
    # so the atomic energies of the batch itself are the measure.
    batch, _ = network(
        species.repeat(copies),
        vectors.repeat(copies, 1),
        Edges((center + start).flatten(), (neighbor + start).flatten()),
    )
    assert energy.item() == pytest.approx(batch.double().sum().item(), rel=1e-13)
    assert each == pytest.approx(atomic.sum().item(), abs=ROUNDING[torch.float32])
    single = batch.float().sum().item()
    assert abs(single - energy.item()) > 1e-10 * abs(energy.item())


@both_precisions
@pytest.mark.parametrize(
    "variant", ["default", "norm, one-hot, linear", "direct", "both forces"]
)
def test_scripted_is_eager(variant: str, dtype: torch.dtype) -> None:
    """Many calls and sizes: TorchScript recompiles itself during the first ones."""
    network = random_network(dtype, **VARIANTS[variant])
    scripted = torch.jit.script(ForceField(network))
    clusters = [water_cluster(n, seed=n) for n in (1, 2, 3)]
    for _ in range(20):
        for species, positions in clusters:
            x = positions + 0.05 * torch.randn_like(positions)
            edges = all_pairs(len(species))
            expected = ForceField(network)(x, species, edges)
            for one, other in zip(scripted(x, species, edges), expected, strict=True):
                assert same(one, other, dtype)
                assert not one.requires_grad


@pytest.mark.parametrize("layers", [1, 3])
def test_a_direct_head_leaves_energy_and_conservative_forces_alone(layers: int) -> None:
    """Not to rounding but to the bit: nothing of it goes into them."""
    species, positions = water_cluster(2)
    edges = all_pairs(len(species))
    expected = ForceField(random_network(layers=layers))(positions, species, edges)
    both = random_network(layers=layers, force_mode="both")
    found = ForceField(both).with_direct_forces(positions, species, edges)
    for without in (found[:2], ForceField(both)(positions, species, edges)):
        for one, other in zip(without, expected, strict=True):
            assert torch.equal(one, other)
    direct = found[2]
    assert (direct - expected[1]).norm(dim=1).min() > 1e-2
    sparse = edges._replace(layout="list")
    again = ForceField(both).with_direct_forces(positions, species, sparse)[2]
    assert same(again, direct, torch.float64)
    # Where forces are one kind only there are no others beside them.
    for force_mode in ("conservative", "direct"):
        alone = ForceField(random_network(layers=layers, force_mode=force_mode))
        assert len(alone.with_direct_forces(positions, species, edges)[2]) == 0


def test_training_and_evaluation_give_the_same() -> None:
    network = random_network()
    species, positions = water_cluster(2)
    edges = all_pairs(len(species))
    evaluated = ForceField(network)(positions, species, edges)
    trained = ForceField(network.train())(positions, species, edges)
    for one, other in zip(evaluated, trained, strict=True):
        assert same(one, other, torch.float64)


@both_precisions
def test_positions_stay_as_they_are(dtype: torch.dtype) -> None:
    network = random_network(torch.float32)
    species, positions = water_cluster(2)
    positions = positions.to(dtype)
    before = positions.clone()
    ForceField(network)(positions, species, all_pairs(6))
    assert torch.equal(positions, before)
    assert not positions.requires_grad


@both_precisions
def test_isolated_energies_are_those_of_the_weights(dtype: torch.dtype) -> None:
    """In float64, and computed again when precision or weights change."""
    network = random_network(dtype)
    other = SE3Transformer(network.config).to(dtype)
    other.load_state_dict(network.state_dict())
    converted = random_network(torch.float64).to(dtype)
    for one in (network, other.eval(), converted):
        assert one.isolated.dtype == torch.float64
        assert torch.equal(one.isolated, one.isolated_energies(one.isolated))
    assert torch.equal(network.isolated, other.isolated)


def test_another_precision_is_another_rounding_only() -> None:
    single = random_network(torch.float32)
    double = SE3Transformer(single.config)
    double.load_state_dict(single.state_dict())
    species, positions = water_cluster(2)
    edges = all_pairs(6)
    one = ForceField(single)(positions, species, edges)
    other = ForceField(double.eval())(positions, species, edges)
    assert one[1].dtype == torch.float32
    assert other[1].dtype == torch.float64
    for a, b in zip(one, other, strict=True):
        assert same(a, b, torch.float32)

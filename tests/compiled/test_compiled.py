"""The compiled network against the network: the reference decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compiled_networks import TOLERANCE, differences, settings_of

from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.force import TABLE_INTERVALS, compiled_force
from openmm_se3.compiled.library import find_compiler
from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torchscript.build import (
    build_module,
    eager_force,
)
from openmm_se3.torchscript.self_check import random_positions
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

pytestmark = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)

BOX_OF_192 = 2.1 * torch.eye(3, dtype=torch.float64)  # nm; six random_positions a side

TRICLINIC = torch.tensor([[0.9, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.3, 1.1]]).double()


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 2, 3, 5, 24, 25])
def test_equal_to_the_network_for_free_molecules(n_atoms: int, precision: str) -> None:
    limit = TOLERANCE[precision]
    assert differences(settings_of(n_atoms, precision), None) < limit


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 4])
def test_equal_in_a_box_smaller_than_two_cutoffs(n_atoms: int, precision: str) -> None:
    limit = TOLERANCE[precision]
    settings = settings_of(n_atoms, precision, periodic=True)
    assert differences(settings, TRICLINIC) < limit


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_equal_in_a_box_narrower_than_the_cutoff(n_atoms: int) -> None:
    """Images of the second shell of boxes are neighbors, too."""
    box = torch.tensor([[0.44, 0.0, 0.0], [0.1, 0.48, 0.0], [-0.05, 0.15, 0.5]])
    settings = settings_of(n_atoms, "double", periodic=True)
    assert differences(settings, box.double(), calls=3) < TOLERANCE["double"]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_equal_for_192_atoms_in_a_box(precision: str) -> None:
    settings = settings_of(192, precision, periodic=True)
    assert differences(settings, BOX_OF_192, calls=3) < TOLERANCE[precision]


def test_ten_thousand_atoms_are_copies_of_192() -> None:
    copies = torch.cartesian_prod(*(torch.arange(n) for n in (3, 6, 3)))
    n_atoms = 192 * len(copies)
    assert n_atoms > 10_000
    x = random_positions(192)
    energy, forces = build_module(settings_of(192, "double", True))(x, BOX_OF_192)
    settings = settings_of(n_atoms, "double", True)
    many = (x + (copies.double() @ BOX_OF_192).unsqueeze(1)).flatten(0, 1)
    box = BOX_OF_192 * torch.tensor([[3.0], [6.0], [3.0]])
    module = build_module(settings)
    total, all_forces = module(many, box)
    assert float(total) == pytest.approx(len(copies) * float(energy), rel=1e-11)
    expected = forces.repeat(len(copies), 1)
    assert torch.allclose(all_forces, expected, rtol=0.0, atol=1e-6)
    # A control: one atom elsewhere among ten thousand would be seen.
    many[-1] += 0.01
    moved, _ = module(many, box)
    assert float(moved) != pytest.approx(float(total), rel=1e-11)


def test_threads_do_not_change_the_result() -> None:
    settings = settings_of(192, "double", periodic=True)
    module = build_module(settings)
    x = random_positions(192, cutoff=4.2)
    box = torch.eye(3).double() * 1.3
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(module(x, box))
            again = module(x, box)
            assert torch.equal(again[1], results[-1][1])
    finally:
        torch.set_num_threads(before)
    expected = eager_force(settings.model.network(torch.float64), settings)(x, box)
    for energy, forces in results:
        assert float(energy) == pytest.approx(float(expected[0]), rel=1e-12)
        assert torch.allclose(forces, expected[1], rtol=0.0, atol=1e-6)


def test_pairs_by_cells_are_those_of_the_neighbor_list() -> None:
    generator = torch.Generator().manual_seed(3)
    settings = settings_of(150, "double")
    module = build_module(settings)
    network = settings.model.network(torch.float64)
    # Sizes with one to four cells a side, atoms in images far away, and a thin sheet.
    slanted = torch.tensor([[2.3, 0.0, 0.0], [0.7, 1.6, 0.0], [-0.9, 0.5, 3.1]])
    grid = random_positions(150, cutoff=6.0)
    for box in (torch.diag(torch.tensor([1.9, 1.5, 2.9])), slanted, None):
        x = grid.clone()
        if box is None:
            x[:, 2] *= 0.01
        else:
            box = box.double()
            images = torch.randint(-3, 4, (150, 3), generator=generator).double()
            x = (grid @ torch.linalg.inv(box) % 1.0 + images) @ box
        expected = eager_force(network, settings)(x, box)
        energy, forces = module(x) if box is None else module(x, box)
        # Some atoms are on top of each other, with forces of 1e11 kJ/mol/nm.
        assert float(energy) == pytest.approx(float(expected[0]), rel=1e-9)
        assert torch.allclose(forces, expected[1], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("box", [None, "straight", "slanted"])
def test_atoms_on_the_faces_of_the_cells(box: str | None) -> None:
    """Three cells a side or more: the first and the last are no neighbors."""
    generator = torch.Generator().manual_seed(6)
    grid = torch.cartesian_prod(*[torch.arange(5)] * 3).double()
    x = 0.5 * (grid + 0.2 * torch.rand(grid.shape, generator=generator).double())
    cell = None
    if box is None:
        low, high = x.amin(0), x.amax(0)
        x = torch.where(grid == 0, low, torch.where(grid == 4, high, x))
    else:
        # So little below a face that a place in the box is rounded up to 1.
        x = torch.where(grid == 0, -1e-18, x)
        cell = 2.5 * torch.eye(3, dtype=torch.float64)
        if box == "slanted":
            cell[1, 0], cell[2, 0], cell[2, 1] = 0.4, -0.7, 0.6
            x = (x / 2.5) @ cell
    settings = settings_of(len(x), "double", periodic=cell is not None)
    network = settings.model.network(torch.float64)
    edges = neighbor_pairs(
        10.0 * x, network.config.cutoff, None if cell is None else 10.0 * cell
    )
    expected = ForceField(network)(10.0 * x, torch.tensor(settings.species), edges)
    module = build_module(settings)
    energy, forces = module(x) if cell is None else module(x, cell)
    assert float(energy) == pytest.approx(
        EV_TO_KJ_PER_MOL * float(expected[0]), rel=1e-9
    )
    in_our_units = forces / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
    assert torch.allclose(in_our_units, expected[1], rtol=0.0, atol=1e-9)


def test_atoms_of_a_larger_system_and_other_orders() -> None:
    settings = settings_of(5, "double", atoms=(7, 1, 4, 0, 2), n_particles=8)
    assert differences(settings, None) < 1e-10


def test_a_gpu_platform_that_moves_the_module_leaves_it_on_the_processor() -> None:
    module = build_module(settings_of(5, "single"))
    x = random_positions(5)
    expected = module(x)
    # OpenMM moves modules to the device of its platform; on this one nothing is left.
    for found, before in zip(module.to("meta")(x), expected, strict=True):
        assert torch.equal(found, before)


def test_energy_offset() -> None:
    plain, shifted = (
        build_module(settings_of(3, "double", offset=offset)) for offset in (0.0, -7.0)
    )
    x = random_positions(3)
    difference = float(shifted(x)[0] - plain(x)[0])
    assert difference == pytest.approx(-7.0 * EV_TO_KJ_PER_MOL, rel=1e-12)


def test_forces_are_the_slope_of_the_energy() -> None:
    module = build_module(settings_of(6, "double"))
    x = random_positions(6)
    _, forces = module(x)
    step = 2e-5

    def energy(atom: int, axis: int, steps: int) -> float:
        moved = x.clone()
        moved[atom, axis] += steps * step
        return float(module(moved)[0])

    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        near, far = (energy(atom, axis, n) - energy(atom, axis, -n) for n in (1, 2))
        slope = (8.0 * near - far) / (12.0 * step)
        assert -slope == pytest.approx(float(forces[atom, axis]), rel=1e-7, abs=1e-5)


def test_energy_is_smooth_across_the_cutoff_and_the_ends_of_the_table() -> None:
    settings = settings_of(2, "double")
    module = build_module(settings)
    cutoff = settings.model.config.cutoff
    step = (cutoff - pack.TABLE_START) / TABLE_INTERVALS["double"]
    node = pack.TABLE_START + round(3.0 / step) * step
    for r in (cutoff, node):
        below, above = (
            module(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1 * (r + by)]]).double())
            for by in (-1e-7, 1e-7)
        )
        assert float(above[0] - below[0]) == pytest.approx(0.0, abs=1e-4)
        assert torch.allclose(above[1], below[1], rtol=0.0, atol=1e-3)


def test_atoms_in_contact_stay_finite_and_nan_is_refused() -> None:
    module = build_module(settings_of(2, "single"))
    for r in (0.0, 1e-4, 0.002):
        energy, forces = module(torch.tensor([[0.0, 0.0, 0.0], [r, 0.0, 0.0]]).double())
        assert torch.isfinite(energy).all()
        assert torch.isfinite(forces).all()
    for wrong in (np.nan, np.inf):
        x = torch.tensor([[0.0, 0.0, 0.0], [wrong, 0.0, 0.0]]).double()
        with pytest.raises(RuntimeError, match="NaN or infinite"):
            module(x)


def test_results_have_the_precision_of_the_positions() -> None:
    module = build_module(settings_of(3, "single"))
    for dtype in (torch.float32, torch.float64):
        x = random_positions(3).to(dtype).requires_grad_()
        energy, forces = module(x)
        assert energy.dtype == forces.dtype == dtype
        assert forces.is_contiguous()
        assert not energy.requires_grad
        assert not forces.requires_grad


OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "both parities": {
        "layers": 4,
        "lmax": 1,
        "symmetry": "SO(3)",
        "self_interaction": "linear",
    },
    "degree 3": {"layers": 2, "lmax": 3, "jmax": 3, "self_interaction_width": 8},
}


@pytest.mark.parametrize("changes", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_another_shape_of_network(changes: dict[str, Any]) -> None:
    config = ModelConfig(
        elements=("H", "C", "O"),
        cutoff=4.0,
        channels=8,
        key_channels=4,
        heads=2,
        energy_scale=0.3,
        **{"self_interaction": "attentive", **changes},
    )
    network = SE3Transformer(config).eval()
    species = torch.tensor([0, 1, 2, 2, 0])
    module = compiled_force(network, "double")
    module.set_atoms(species, torch.arange(5), 0.0)
    settings = settings_of(5, "double", species=tuple(species.tolist()))
    x = random_positions(5)
    energy, forces = module(x)
    expected = eager_force(network, settings)(x)
    assert float(energy) == pytest.approx(float(expected[0]), rel=1e-11)
    assert torch.allclose(forces, expected[1], rtol=0.0, atol=1e-7)

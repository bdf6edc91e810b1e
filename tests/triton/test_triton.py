"""The GPU's kernels without a GPU: their source, run on NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from random_model import (
    BOX,
    water_cluster,
)
from triton_networks import NARROW, difference, evaluate, network_of

from openmm_se3.triton import kernels

TOLERANCE = {"single": 5e-5, "double": 1e-9}  # eV/A, and eV an atom

ORGANIC = ("H", "B", "C", "N", "O", "F", "P", "S", "Cl", "Br")

CELLS = {
    "wide": np.diag([9.0, 8.5, 8.1]),
    "two cutoffs": BOX,
    "one cutoff": NARROW,
    "turned": BOX @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0],
}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 2, 3, 5, 24, 25])
def test_equal_to_the_network_for_free_molecules(n_atoms: int, precision: str) -> None:
    network = network_of(elements=ORGANIC)
    positions = 1.7 * water_cluster(9)[1][:n_atoms]  # heavy atoms need more space
    species = torch.arange(n_atoms) * 7 % len(ORGANIC)
    off = difference(network, species, positions, precision=precision)
    assert off < TOLERANCE[precision]


@pytest.mark.parametrize("cell", CELLS)
def test_equal_in_boxes_of_any_shape(cell: str) -> None:
    species, positions = water_cluster(1 if cell == "one cutoff" else 2)
    box = torch.tensor(CELLS[cell])
    options: dict[str, Any] = {"room": 120}
    assert difference(network_of(), species, positions, box, **options) < 1e-9
    # Wherever the images are that OpenMM hands over.
    away = torch.randint(-3, 4, positions.shape, generator=torch.manual_seed(0))
    moved = positions + away.double() @ box
    assert difference(network_of(), species, moved, box, **options) < 1e-9
    options["precision"] = "single"
    assert difference(network_of(), species, moved, box, **options) < 5e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 6, "key_channels": 3, "heads": 3},
        {"channels": 8, "key_channels": 4, "heads": 1},
        {"lmax": 1, "jmax": 2, "symmetry": "SO(3)"},
        {"lmax": 0},
        {"lmax": 3, "jmax": 3, "layers": 2},
        {"layers": 1, "zbl": False},
        {"self_interaction": "attentive"},
        {"self_interaction": "attentive", "channels": 20, "self_interaction_width": 24},
    ],
    ids=str,
)
def test_equal_for_other_shapes(changes: dict[str, Any]) -> None:
    species, positions = water_cluster(1)
    assert difference(network_of(**changes), species, positions) < 1e-9


def test_atoms_without_neighbors_have_no_energy() -> None:
    species = torch.tensor([0, 1, 1])
    positions = torch.tensor([[0.0, 0.0, 0.0], [4.001, 0.0, 0.0], [0.0, 90.0, 0.0]])
    energy, forces = evaluate(network_of(), species, positions.double())
    assert energy == pytest.approx(0.0, abs=1e-12)
    assert not forces.any()
    # A control: a little nearer they have.
    positions[1, 0] = 3.0
    assert abs(evaluate(network_of(), species, positions.double())[0]) > 1e-6


def test_atoms_that_touch_meet_the_wall() -> None:
    species = torch.tensor([0, 1])
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.1, 0.0]]).double()
    assert difference(network_of(), species, positions) < 1e-7  # of 1e3 eV/A


def test_particles_that_are_no_atoms_feel_nothing() -> None:
    species, positions = water_cluster(1)
    atoms = torch.tensor([3, 1, 4])
    particles = torch.full((6, 3), 1.5, dtype=torch.float64)
    particles[atoms] = positions
    energy, forces = evaluate(network_of(), species, particles, atoms=atoms, offset=2.0)
    expected = evaluate(network_of(), species, positions)
    assert energy == pytest.approx(expected[0] + 2.0, rel=1e-12)
    torch.testing.assert_close(forces[atoms], expected[1])
    assert not forces[[0, 2, 5]].any()


def test_too_little_room_gives_no_number() -> None:
    species, positions = water_cluster(2)
    assert np.isfinite(evaluate(network_of(), species, positions, room=5)[0])
    energy, forces = evaluate(network_of(), species, positions, room=4)
    assert np.isnan(energy) and forces.isnan().any()


@pytest.mark.parametrize("length", [0.1, 0.0])
def test_a_collapsed_box_gives_no_number(length: float) -> None:
    box = length * torch.eye(3).double()
    species, positions = water_cluster(1)
    assert np.isnan(evaluate(network_of(), species, positions, box)[0])


def test_a_position_that_is_no_number_gives_no_number() -> None:
    species, positions = water_cluster(2)
    positions[4, 1] = torch.nan
    assert np.isnan(evaluate(network_of(), species, positions)[0])


# Of each fault: the function from which on the text is changed, what, and to what.
FAULTS = {
    "a coupling": ("value_message", "radial(table + 8, t)", "1.01 * radial(table, t)"),
    "the softmax": ("", "gains[h] - dots[h]", "gains[h]"),
    "the slope of the envelope": ("", "gain * exponent * du", "0.0 * du"),
    "a torque": ("", "tl.sum(wide_alpha * turn[1], axis=1)", "0.0"),
    "the torque at the neighbor": ("", "torque_in(g, x_key)", "torque_in(g, x_value)"),
    "the other edge": (
        "",
        "pull + planes + other, mask=both",
        "pull + other, mask=both",
    ),
    "the queries": ("", "back + atom * WIDTH + of_key", "back + of_key"),
    "the gate": ("", "gates[l] * (1.0 - gates[l])", "gates[l]"),
    "images": ("", "images_a * images_b * images_c", "images_a"),
    "the wall": ("", "screened * slope", "0.0 * slope"),
    "the products": ("", "sums, 2.0, l", "sums, 1.0, l"),
    "the mixing": ("", "change += tl.load(back", "change = tl.load(back"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, old, new = FAULTS[fault]
    original = kernels.Kernels.__init__
    planted = 0

    def with_fault(self: kernels.Kernels, text: str) -> None:
        nonlocal planted
        head, mark, rest = text.partition(f"def {function}")
        planted += old in rest
        original(self, head + mark + rest.replace(old, new))

    monkeypatch.setattr(kernels.Kernels, "__init__", with_fault)
    kernels.forget()
    try:
        species, positions = water_cluster(1)
        box = None
        if fault == "images":
            box = torch.tensor(NARROW)
        if fault == "the wall":
            positions[1] *= 0.5
        attentive = fault in ("the products", "the mixing")
        network = network_of(self_interaction="attentive" if attentive else "linear")
        off = difference(network, species, positions, box)
        assert planted and off > TOLERANCE["single"]
    finally:
        kernels.forget()

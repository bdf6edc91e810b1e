"""The benchmark of a model's accuracy on water."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import water_accuracy
import water_geometry
import water_reference
from matplotlib import pyplot
from matplotlib.figure import Figure
from morse_water import ANGLE, LENGTH, water_force

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory


def test_minimum_and_frequencies_of_a_known_force() -> None:
    energy, positions = water_geometry.find_minimum(
        water_force, water_geometry.monomer_start() + 0.03
    )
    first, second, angle = water_geometry.bond_lengths_and_angle(positions)
    assert energy == pytest.approx(0.0, abs=1e-9)
    assert (first, second) == pytest.approx((LENGTH, LENGTH), abs=1e-6)
    assert np.radians(angle) == pytest.approx(ANGLE, abs=1e-5)
    hessian = water_geometry.finite_difference_hessian(water_force, positions)
    found = water_geometry.frequencies(hessian, water_geometry.WATER, 9)
    assert np.abs(found[:6]).max() < 5.0  # translations and rotations
    # One stretched bond alone: omega^2 = k / mu for the Morse curvature 2 D a^2.
    assert 3000.0 < found[7] < found[8] < 4500.0


def test_frequency_unit() -> None:
    # 1 eV/A^2 and 1 dalton: sqrt(1.602e-19 * 1e20 / 1.6605e-27) / (2 pi c) = 521.47.
    hessian = np.diag([1.0, 1.0, 1.0]) * 1.008
    found = water_geometry.frequencies(hessian, np.array([1]), 3)
    assert found == pytest.approx(521.471, abs=0.01)


def test_grids_hold_whole_molecules_apart() -> None:
    numbers, positions = water_geometry.water_grid(5)
    assert numbers.tolist() == [8, 1, 1] * 5
    oxygens = positions[::3]
    gaps = np.linalg.norm(oxygens[:, None] - oxygens[None], axis=-1)
    assert gaps[np.triu_indices(5, 1)].min() == pytest.approx(2.9)


def test_reference_is_that_of_the_labels() -> None:
    reference = json.loads(water_reference.OUTPUT.read_text())
    assert LevelOfTheory(**reference["level_of_theory"]) == LevelOfTheory()
    monomer = reference["monomers"]["minimum"]
    own = water_geometry.bond_lengths_and_angle(np.array(monomer["positions"]))
    assert own[0] == pytest.approx(monomer["oh_length"], abs=1e-5)
    assert set(reference["curves"]) == {
        "hydrogen bond",
        "cyclic minimum",
        "aligned dipoles",
    }
    for curve in reference["curves"].values():
        frames = np.array(curve["positions"])
        distances = np.linalg.norm(frames[:, 3] - frames[:, 0], axis=-1)
        np.testing.assert_allclose(distances, curve["distances"], atol=1e-9)
        assert (distances[0], distances[-1]) == pytest.approx((2.4, 8.0))


def test_parts_of_the_reference_are_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "reference" / "water.json"
    calls = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"energy": -1.0}

    for _ in range(2):
        reference = water_reference.Reference(path, LevelOfTheory())
        assert reference.part("monomers", "minimum", compute) == {"energy": -1.0}
    assert len(calls) == 1
    other = water_reference.Reference(path, LevelOfTheory(grid_level=5))
    other.part("monomers", "minimum", compute)
    assert len(calls) == 2


def test_test_errors_are_those_of_the_definition(
    model_folder: Path, tmp_path: Path
) -> None:
    model = water_accuracy.load_model(model_folder)
    network = model.network(water_accuracy.PRECISIONS["double"])
    rng = np.random.default_rng(0)
    atoms = sum(model.self_energies[int(z)] for z in water_geometry.WATER)
    frames = []
    # Energies are off by 1 eV from their mean of 2 eV, on average over four.
    for index, shift in enumerate((1.0, 3.0, 1.0, 3.0)):
        x = water_geometry.monomer_start() + rng.normal(scale=0.03, size=(3, 3))
        energy, forces = water_accuracy.interaction(network, water_geometry.WATER)(x)
        frames.append(
            Frame(
                numbers=water_geometry.WATER,
                positions=x,
                energy=energy + atoms + shift,
                forces=forces + 0.1 * (index + 1),
                trajectory=f"md-600K-{index}",
                kind="md",
                split="test",
                temperature=600.0,
            )
        )
    path = tmp_path / "labels.h5"
    write_hdf5(path, Dataset(Frames.of(frames), LevelOfTheory(), model.self_energies))
    rows, details = water_accuracy.test_error_rows(model, network, [path])
    kcal = 23.060548
    assert details[0]["energy_mae_per_molecule"] == pytest.approx(kcal, rel=1e-5)
    assert details[0]["energy_offset_per_molecule"] == pytest.approx(
        -2 * kcal, rel=1e-5
    )
    assert details[0]["force_mae"] == pytest.approx(0.25 * kcal, rel=1e-5)
    assert details[0]["force_mae_worst_frame"] == pytest.approx(0.4 * kcal, rel=1e-5)
    assert details[0]["worst_frame"].endswith("md-600K-3")
    assert [row.passed for row in rows] == [False, False]
    # Two frames could not miss the energy limit by much, one not at all.
    few = Frames.of(frames[:2])
    write_hdf5(path, Dataset(few, LevelOfTheory(), model.self_energies))
    rows, _ = water_accuracy.test_error_rows(model, network, [path])
    assert [row.passed for row in rows] == [False, None]


def test_differences_of_the_dimer_curves_share_a_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", figures.append)
        curve = {"distances": [2.4, 8.0], "interaction_energies": [0.0, 0.0]}
        found = {"small": np.array([0.1, 0.0]), "large": np.array([-3.0, 0.0])}
        curves = dict.fromkeys(found, curve)
        fine = {n: (np.arange(3.0), np.zeros(3)) for n in found}
        water_accuracy.draw(curves, found, fine, 7.0, tmp_path / "dimer.png")
    small, large = figures[0].axes[2:]
    assert small.get_ylim() == large.get_ylim()
    assert large.get_ylim()[0] < -3.0
    assert "kcal/mol" in small.get_ylabel()
    labels = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert labels == ["DFT", "model", "cutoff"]
    pyplot.close("all")

"""The benchmarks' own arithmetic, and that those on water run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import ase.io
import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water
from click.testing import CliRunner
from matplotlib import pyplot
from matplotlib.figure import Figure
from openmm import app
from random_model import write_random_weights
from scipy.spatial.transform import Rotation
from test_verlet import ANGLE, LENGTH, water_force

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.force.mixed import without_internal_terms
from openmm_se3.model_file import load_model
from openmm_se3.simulation.minimum import BadMinimumError
from openmm_se3.training.sweep import Result, Variant

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "accuracy")]

import force_drift  # noqa: E402
import liquid_clusters  # noqa: E402
import long_dynamics  # noqa: E402
import mixed_water  # noqa: E402
import recipes  # noqa: E402
import splits  # noqa: E402
import water_accuracy  # noqa: E402
import water_geometry  # noqa: E402
import water_reference  # noqa: E402
import water_stability  # noqa: E402


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with random weights."""
    return write_random_weights(tmp_path_factory.mktemp("models") / "random")


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


def test_rows_of_the_stability_table() -> None:
    rows = water_stability.all_rows()
    assert len({row.name for row in rows}) == len(rows)
    lengths = {row.name: row.picoseconds for row in rows}
    assert lengths["monomer-300K-1ns"] == 1000.0
    for temperature in (300, 600, 1000):
        for seed in (1, 2, 3):
            for precision in ("single", "double"):
                name = f"monomer-{temperature}K-{precision}-seed{seed}"
                assert lengths[name] == 100.0


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ({}, True),
        ({"stable": False}, False),
        ({"drift": -0.2}, False),
        ({"drift": float("nan")}, False),
        ({"fluctuation_ratio": 4.0}, True),
        ({"fluctuation_ratio": 2.0}, False),
        ({"oo_range": [2.5, 7.6]}, True),
        ({"oo_range": [4.5, 7.6]}, False),  # they never met
        ({"oo_range": [2.5, 3.2]}, False),  # they never parted
    ],
)
def test_verdict_of_a_row(change: dict[str, object], passes: bool) -> None:
    good = {"stable": True, "drift": 0.05, "drift_limit": 0.1}
    assert water_stability.row_passes({**good, **change}, cutoff=7.0) is passes


def test_drift_limits() -> None:
    assert water_stability.drift_limit("single", 5.0) == 0.1
    assert water_stability.drift_limit("double", 0.001) == 0.01
    assert water_stability.drift_limit("double", 0.02) == 0.04


def test_collisions_start_beyond_the_cutoff_and_are_held_to_a_line() -> None:
    positions = water_stability.separated_pair(1, 6.0)
    assert positions[3] - positions[0] == pytest.approx([0.0, 0.0, 6.5])
    for seed in range(1, 20):
        x = water_stability.separated_pair(seed, 6.0)
        assert np.linalg.norm(x[:3, None] - x[3:], axis=-1).min() > 6.0
    other = water_stability.separated_pair(2, 6.0)
    assert not np.allclose(positions[1], other[1])  # another orientation
    system = openmm.System()
    for mass in (16.0, 1.0, 1.0) * 2:
        system.addParticle(mass)
    water_stability.add_track(system, 6.0)
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    for shift, pull in (
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 1.2), (0.0, 0.0, -50.0)),  # 1 A beyond the wall
        ((1.0, 0.0, 0.0), (-50.0, 0.0, 0.0)),
        ((0.0, -1.0, -3.0), (0.0, 50.0, 0.0)),
    ):
        moved = positions.copy()
        moved[3:] += shift
        context.setPositions(0.1 * moved)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        assert forces[3] == pytest.approx(pull, abs=1e-6)
        assert forces[0] == pytest.approx(-forces[3])


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run rows here: what a test replaces does not reach another process."""
    executor = SimpleNamespace(run=lambda f, tasks: enumerate(map(f, tasks)))
    monkeypatch.setattr(water_stability, "LocalExecutor", lambda processes: executor)


def test_a_stability_row_runs_and_is_kept(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_this_process: None,
) -> None:
    row = water_stability.Row("try", 2, 250.0, 1.0, "double", 1, True, True)
    monkeypatch.setattr(water_stability, "all_rows", lambda: [row])
    # A picosecond is too short to meet, and to part beyond an ordinary cutoff.
    monkeypatch.setattr(water_stability, "MET", np.inf)
    monkeypatch.setattr(water_stability, "SEGMENTS", 4)
    analytic = SimpleNamespace(
        createSystem=lambda topology: harmonic_water(2)[0],
        config=SimpleNamespace(cutoff=2.6),
        engine="none",
    )
    monkeypatch.setattr(water_stability, "SE3Potential", lambda *_, **__: analytic)
    out = tmp_path / "rows"
    arguments = ["--model", str(model_folder), "--out", str(out)]
    first = CliRunner().invoke(water_stability.main, arguments)
    assert first.exit_code == 0, first.output
    content = json.loads((out / "try.json").read_text())
    assert content["stable"]
    assert 3.0 < content["fluctuation_ratio"] < 5.0
    assert content["oo_range"][0] > 2.0
    again = CliRunner().invoke(water_stability.main, arguments)
    assert "1 rows are there, 0 to run" in again.output
    (out / "model.sha256").write_text("another\n")
    refused = CliRunner().invoke(water_stability.main, arguments)
    assert refused.exit_code == 2
    assert "other weights" in refused.output


def test_a_model_without_a_water_molecule_fails_its_row(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_this_process: None,
) -> None:
    row = water_stability.Row("try", 1, 300.0, 0.2, "single", 1)
    monkeypatch.setattr(water_stability, "all_rows", lambda: [row])
    out = tmp_path / "rows"
    arguments = ["--model", str(model_folder), "--out", str(out)]
    result = CliRunner().invoke(water_stability.main, arguments)
    assert result.exit_code == 1, result.output
    assert "fail" in result.output
    assert json.loads((out / "try.json").read_text())["passed"] is False


def test_force_drift_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(force_drift, "save", lambda path, figure: drawn.append(figure))
    # What the tiny networks have learned holds no molecule together.
    analytic = SimpleNamespace(
        createSystem=lambda topology: harmonic_water(topology.getNumResidues())[0]
    )
    monkeypatch.setattr(force_drift, "SE3Potential", lambda *_, **__: analytic)
    arguments = ["--short", "--out", str(tmp_path)]
    first = CliRunner().invoke(force_drift.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    for system in ("one molecule", "hexamer"):
        for mode in ("conservative", "direct"):
            assert f"{mode}, {system}: 0.1 ps" in first.output
    models = [load_model(tmp_path / mode / "model") for mode in force_drift.MODES]
    assert [m.config.force_mode for m in models] == list(force_drift.MODES)
    for axes, system in zip(drawn[0].axes, force_drift.SYSTEMS, strict=True):
        assert axes.get_legend().get_title().get_text() == system
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [label.split()[0] for label in labels] == list(force_drift.MODES)
        assert all("kT/ns/dof" in label for label in labels)
        assert np.ptp(axes.lines[0].get_ydata()) < 0.1  # springs conserve energy

    def never(*arguments: object) -> None:
        raise AssertionError("what is there is made again")

    monkeypatch.setattr(force_drift, "run_dynamics", never)
    again = CliRunner().invoke(force_drift.main, arguments, catch_exceptions=False)
    assert again.output.splitlines()[-8:] == first.output.splitlines()[-8:]


def test_a_network_that_holds_no_molecule_together_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def torn(*arguments: object) -> None:
        calls.append(arguments)
        raise BadMinimumError("a molecule was torn apart")

    monkeypatch.setattr(force_drift, "run_dynamics", torn)
    monkeypatch.setattr(
        force_drift,
        "SE3Potential",
        lambda *_, **__: SimpleNamespace(createSystem=lambda topology: None),
    )
    row = force_drift.Row("direct", "hexamer", 0.1, 0.0, "a" * 64)
    place = tmp_path / "run"
    place.mkdir()
    (place / force_drift.ROW).write_text("{}")  # of another version
    for _ in range(2):
        force_drift.run_row(row, tmp_path, place, "Reference", seed=1)
    assert len(calls) == 1
    found = force_drift.measured(place)
    assert found["reason"] == "a molecule was torn apart"
    assert force_drift.drift_text(found) == "stopped too early"


def test_the_best_rate_of_each_recipe_counts() -> None:
    def result(recipe: str, rate: float, error: float) -> Result:
        run = Variant(recipe, {"recipe": recipe, "rate": rate}, None)  # type: ignore[arg-type]
        errors = {"validation": {"all": {"force_mae": error}}}
        return Result(run, 1, 1.0, [], errors)

    results = [
        result("default", 1e-2, math.nan),
        result("default", 3e-3, 2.0),
        result("thesis-basic", 1e-2, 3.0),
        result("thesis-basic", 3e-3, 4.0),
    ]
    assert recipes.best_runs(results) == [results[1], results[2]]


def test_clusters_are_cut_whole_across_the_faces_of_a_box() -> None:
    lengths = np.array([10.0, 12.0, 11.0])
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    oxygens = [[9.5, 6.0, 5.0], [1.0, 6.0, 5.0], [5.0, 6.0, 5.0], [9.5, 3.0, 5.0]]
    positions = np.array(oxygens)[:, None] + molecule
    found = liquid_clusters.cut(positions, lengths, center=0, molecules=3)
    # The second is 1.5 A away through the face, the fourth 3 A, the third 4.5 A.
    shifts = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, -3.0, 0.0]])
    np.testing.assert_allclose(found, (shifts[:, None] + molecule).reshape(-1, 3))


def test_clusters_of_a_simulation_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liquid_clusters, "EQUILIBRATION_PS", 0.01)
    monkeypatch.setattr(liquid_clusters, "INTERVAL_PS", 0.005)
    out = tmp_path / "clusters.xyz"
    arguments = ["--clusters", "2", "--molecules", "2", "--out", str(out)]
    done = CliRunner().invoke(liquid_clusters.main, arguments)
    assert done.exit_code == 0, done.output
    frames = ase.io.read(out, ":")
    assert [str(frame.symbols) for frame in frames] == ["OH2OH2"] * 2
    for frame in frames:
        bonds = [frame.get_distance(o, h) for o in (0, 3) for h in (o + 1, o + 2)]
        assert 0.8 < min(bonds) and max(bonds) < 1.2
        assert 2.3 < frame.get_distance(0, 3) < 3.5


def test_distance_of_frames_after_superposition() -> None:
    x = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    turned = x @ Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix().T + 5.0
    assert splits.superposed_distance(x, turned) == pytest.approx(0.0, abs=1e-7)
    # Two of three atoms further apart by 2 * 0.1 A along their line.
    longer = x + np.array([[0.0] * 3, [0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]])
    expected = 0.1 * np.sqrt(2.0 / 3.0)
    assert splits.superposed_distance(longer, turned) == pytest.approx(expected)


def test_share_of_neighbors_that_frames_have_in_common() -> None:
    """Of four oxygens in a row, across the face of the box too."""

    def frame(x: list[float]) -> Frame:
        positions = np.array([[value, 0.0, 0.0] for value in x])
        forces = np.zeros_like(positions)
        box = np.diag([20.0, 20.0, 20.0])
        return Frame(np.full(4, 8), positions, 0.0, forces, box=box)

    test = Frames.of([frame([0.0, 3.0, 6.0, 18.0])])  # 0-1, 1-2 and 3-0
    train = Frames.of([frame([0.0, 3.0, 9.0, 18.0]), frame([0.0, 5.0, 10.0, 15.0])])
    found = splits.shared_pairs(train, test)
    assert found["shared_with_nearest"] == pytest.approx(2 / 3)
    assert found["by_chance"] == pytest.approx(2 / 12)


def test_drift_of_a_known_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 kJ/mol/ps over 24 degrees of freedom; kT is 2.494 kJ/mol at 300 K."""
    time = 0.012 * np.arange(1, 401)
    noise = np.random.default_rng(0).normal(scale=0.01, size=400)
    log = {
        "time_ps": time,
        "total_kj_per_mol": -900.0 + 3.0 * time + noise,
        "temperature_k": np.full(400, 290.0),
        "shadow_kj_per_mol": np.full(400, np.nan),
    }
    recording = SimpleNamespace(log=log, run={"degrees_of_freedom": 24, "reason": ""})
    monkeypatch.setattr(force_drift, "read_folder", lambda folder: recording)
    row = tmp_path / force_drift.ROW
    row.write_text(json.dumps({"no_start": None}))
    found = force_drift.measured(tmp_path)
    slope = 3.0 / (2.494339 * 24)
    assert found["drift"] == pytest.approx(1000.0 * slope, rel=1e-3)
    assert found["energy"][-1] == pytest.approx(slope * 4.788, abs=1e-3)
    assert found["line"][-1] == pytest.approx(found["energy"][-1], abs=1e-3)
    assert force_drift.drift_text(found).startswith("+50.1")
    recording.log = {}  # stopped before its first row
    assert "too early" in force_drift.drift_text(force_drift.measured(tmp_path))
    row.write_text(json.dumps({"no_start": "a molecule was torn apart"}))
    assert force_drift.measured(tmp_path)["reason"] == "a molecule was torn apart"


class AnalyticMolecule:
    """Stands for SE3Potential in a mixed System: springs in the place of the model."""

    metadata = {"weights_sha256": "a" * 64}

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def createSystem(self, topology: app.Topology) -> openmm.System:
        return harmonic_water(topology.getNumResidues())[0]

    def createMixedSystem(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: list[int],
        forceGroup: int = 0,
    ) -> openmm.System:
        mixed = without_internal_terms(system, atoms)
        springs = openmm.HarmonicBondForce()
        for first, second, length in ((0, 1, 0.096), (0, 2, 0.096), (1, 2, 0.152)):
            springs.addBond(atoms[first], atoms[second], length, 2e5)
        springs.setForceGroup(forceGroup)
        springs.setUsesPeriodicBoundaryConditions(
            system.usesPeriodicBoundaryConditions()
        )
        mixed.addForce(springs)
        return mixed


def test_mixed_water_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(mixed_water, "save", lambda path, figure: drawn.append(figure))
    monkeypatch.setattr(mixed_water, "SE3Potential", AnalyticMolecule)
    monkeypatch.setattr("openmm_se3.simulation.minimum.MINIMISER_ITERATIONS", 100)
    arguments = ["--short", "--out", str(tmp_path)]
    first = CliRunner().invoke(mixed_water.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    results = json.loads((tmp_path / "mixed_water.json").read_text())
    for region in ("model", "solvent"):
        found = results["forces"][region]
        assert found["largest_difference"] < 1e-5 < 0.1 < found["largest_force"]
    constraints = 3 * results["molecules"]
    for name, less in (("mixed", 3), ("TIP3P", 0)):
        run = results["nve"][name]
        assert run["status"] == results["npt"][name]["status"] == "completed"
        degrees = 9 * results["molecules"] - constraints + less - 3
        assert run["degrees_of_freedom"] == degrees
        # The energy swings by a share of what one degree of freedom has.
        assert 0.0 < run["fluctuation_kj_per_mol"] < 0.5 * 0.00831446 * 300.0
        assert math.isfinite(run["drift"]) and run["drift_error"] > 0.0
        assert 0.5 < results["npt"][name]["density"] < 1.2
        assert results["npt"][name]["oh"][0] == pytest.approx(0.96, abs=0.03)
    # The model's molecule is flexible, the other rigid.
    assert results["npt"]["mixed"]["oh"][1] > 1e-3 > results["npt"]["TIP3P"]["oh"][1]
    labels = [line.get_label() for line in drawn[0].axes[1].lines]
    assert labels == ["model to TIP3P", "TIP3P to TIP3P"]
    again = CliRunner().invoke(mixed_water.main, arguments, catch_exceptions=False)
    assert again.output.count("is complete") == 4


def test_density_and_radial_distribution_of_an_ideal_gas() -> None:
    rng = np.random.default_rng(0)
    n, edge = 200, 2.0  # nm
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    oxygen, hydrogen = (mdtraj.element.get_by_symbol(s) for s in "OH")
    for _ in range(n):
        residue = topology.add_residue("HOH", chain)
        for name, element in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen)):
            topology.add_atom(name, element, residue)
    molecule = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    places = rng.uniform(0.0, edge, size=(50, n, 1, 3))
    frames = mdtraj.Trajectory((places + molecule).reshape(50, 3 * n, 3), topology)
    frames.unitcell_lengths = np.full((50, 3), edge)
    frames.unitcell_angles = np.full((50, 3), 90.0)
    run = {"status": "completed", "reason": "", "time_ps": 1.0, "platform": "none"}
    recording = SimpleNamespace(
        trajectory=frames,
        log={"temperature_k": np.array([300.0])},
        run={**run, "masses": [15.999, 1.008, 1.008] * n},
    )
    found = mixed_water.of_npt(recording, of_all=True)
    # 200 * 18.015 g/mol / 6.02214e23 / 8e-21 mL
    assert found["density"] == pytest.approx(0.74787, abs=1e-4)
    assert found["oh"] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert found["angle"] == pytest.approx([90.0, 0.0], abs=1e-2)
    assert np.mean(found["rdf"]["g"]) == pytest.approx(1.0, abs=0.05)
    for of_all, limit in ((True, 0.05), (False, 0.5)):
        r, g = mixed_water.radial_distribution(recording, of_all)
        assert r[-1] < 10.0 * edge / 2
        assert g[r > 4.0].mean() == pytest.approx(1.0, abs=limit)


@pytest.mark.parametrize(("dt", "code"), [(0.5, 0), (10.0, 1)])
def test_long_dynamics_tells_what_holds_from_what_breaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dt: float, code: int
) -> None:
    monkeypatch.setattr(long_dynamics, "SE3Potential", AnalyticMolecule)
    monkeypatch.setattr(long_dynamics, "DT", dt)  # fs
    out = tmp_path / "long.json"
    result = CliRunner().invoke(
        long_dynamics.main, ["--short", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == list(long_dynamics.RUNS)
    for row in rows:
        assert row["held"] == (code == 0)
        assert (0.0 < row["max_stretch"] < 0.5) == (code == 0)
        assert row["length_at_minimum"] == pytest.approx(0.96, abs=0.03)
        if code == 0:
            assert row["ps"] == pytest.approx(0.1)
            assert row["mean_length"] == pytest.approx(0.96, abs=0.05)

"""Accuracy in validation: held-out labels, and DFT at the level of the labels."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from analytic_water import exact_wavenumbers, harmonic_water, water_positions
from click.testing import CliRunner
from recordings import ETHANOL
from rich.console import Console
from wrong_potentials import AnalyticPotential

from openmm_se3.cli import main
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source, read_source
from openmm_se3.elements import COVALENT_RADII
from openmm_se3.model_file import load_model
from openmm_se3.validation.accuracy import accuracy_checks, held_out, without_labels
from openmm_se3.validation.check import Check
from openmm_se3.validation.contexts import as_function, make_context, masses_of
from openmm_se3.validation.dynamics import DRIFT_LIMIT, drift_limit
from openmm_se3.validation.relabel import (
    frequencies,
    level_of,
    relabel_checks,
    rotatable_bonds,
    scan,
)
from openmm_se3.validation.report import Report
from openmm_se3.validation.structures import Structure, random_cluster
from openmm_se3.validation.validate import Settings, validate

DATA = Path(__file__).parents[2] / "models" / "water" / "data"
WATER = Structure("H2O", np.array([8, 1, 1]), water_positions(1))
EXACT = exact_wavenumbers(harmonic_water()[0], WATER.positions)
Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


def analytic(scale: float = 1.0) -> Function:
    """Return harmonic water with its energy and forces times a factor."""
    import openmm

    system, _ = harmonic_water()
    context = make_context(system, openmm.VerletIntegrator(0.001), WATER.positions)
    function = as_function(context)

    def scaled(positions: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = function(positions)
        return scale * energy, scale * forces

    return scaled


class AnalyticModel(AnalyticPotential):
    """Stands in for an SE3Potential of harmonic water."""

    def createSystem(self, topology: object) -> object:  # type: ignore[override]  # noqa: N802
        return harmonic_water()[0]


def test_frequencies_are_the_exact_ones() -> None:
    system, _ = harmonic_water()
    found = frequencies(analytic(), WATER.positions, masses_of(system))
    assert found == pytest.approx(np.sort(EXACT), rel=2e-3)


@pytest.mark.parametrize("scale", [1.0, 1.21])
def test_a_model_is_compared_with_dft(scale: float) -> None:
    checks = relabel_checks(
        AnalyticModel(),  # type: ignore[arg-type]
        WATER,
        WATER,
        lambda numbers: analytic(scale),
        frames=3,
        seed=1,
    )
    found = {check.name: check for check in checks}
    assert set(found) == {
        "own dynamics, force error",
        "own dynamics, energy error",
        "harmonic frequencies, H2O",
    }
    for check in checks:
        assert check.status == "pass" and check.measured is not None
    waves = found["harmonic frequencies, H2O"].measured
    force = found["own dynamics, force error"].measured
    assert waves is not None and force is not None
    if scale == 1.0:
        assert waves < 1e-3 and force < 1e-6
    else:  # frequencies 1.1 times higher
        assert waves == pytest.approx(0.1 * max(EXACT), rel=0.01)
        assert 0.1 < force < 20.0


def test_bonds_that_turn_are_no_rings_and_no_ends() -> None:
    ethanol = Structure("C2H6O", np.array([6, 6, 8] + 6 * [1]), ETHANOL)
    found = dict(rotatable_bonds(ethanol))
    assert set(found) == {(0, 1), (1, 2)}
    assert found[1, 2].tolist() == [2, 8]
    frames = scan(ETHANOL, (1, 2), found[1, 2])
    assert len(frames) == 12 and np.allclose(frames[0], ETHANOL)
    for frame in frames:
        for i, j in ((1, 2), (2, 8), (0, 1)):
            assert np.linalg.norm(frame[i] - frame[j]) == pytest.approx(
                np.linalg.norm(ETHANOL[i] - ETHANOL[j])
            )
    assert np.abs(frames[6] - ETHANOL)[8].max() > 0.5
    length = 2 * COVALENT_RADII["C"]
    triangle = length * np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.866, 0.0]])
    assert not rotatable_bonds(Structure("C3", np.array([6, 6, 6]), triangle))


def test_errors_are_those_of_held_out_frames() -> None:
    model = load_model("water")
    sources = [Source(str(DATA / "water1.h5"))]
    frames, what = held_out(model, sources)
    assert what == "test frames"
    assert 0 < len(frames) and set(frames.column("split").tolist()) == {2}
    checks = {c.name: c for c in accuracy_checks(model, frames, what, None)}
    force = checks["force error, mean absolute"]
    assert force.measured is not None and force.measured < 0.2
    assert force.high is not None and force.high > 5.0  # that of no model at all
    strict = accuracy_checks(model, frames, what, 1e-6)
    assert [c.name for c in strict if c.status == "fail"] == [force.name]


def test_each_file_holds_out_frames_of_its_own(tmp_path: Path) -> None:
    model = load_model("water")
    trained = Source(str(DATA / "water1.h5"))
    some = read_source(trained)
    moved = [
        dataclasses.replace(some.frames[i], positions=1.001 * some.frames[i].positions)
        for i in range(5)
    ]
    moved = [dataclasses.replace(f, split="train") for f in moved]
    write_hdf5(tmp_path / "new.h5", dataclasses.replace(some, frames=Frames.of(moved)))
    new = Source(str(tmp_path / "new.h5"))
    tested, _ = held_out(model, [trained])
    both, what = held_out(model, [trained, new])
    assert len(both) == len(tested) + 5
    assert what == "test frames and frames of other files"
    assert held_out(model, [new])[1] == "frames"


def test_labels_of_the_training_without_test_frames_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model("water")
    source = Source(str(DATA / "water1.h5"))
    from openmm_se3.training import evaluation

    real = evaluation.read_as_trained

    def without_test(*arguments: object) -> object:
        dataset = real(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(dataset, frames=dataset.select("train"))

    monkeypatch.setattr(evaluation, "read_as_trained", without_test)
    with pytest.raises(ValueError, match="no test frames"):
        held_out(model, [source])


def test_a_level_known_by_name_cannot_be_computed() -> None:
    level = LevelOfTheory()
    assert level_of({"level_of_theory": dataclasses.asdict(level)}) == level
    with pytest.raises(ValueError, match="PBE0"):
        level_of({"level_of_theory": {"name": "PBE0+TS"}})
    with pytest.raises(ValueError, match="relabel"):
        Settings(relabel=-1)


def test_the_verdict_says_what_was_checked() -> None:
    code = Check("Verlet", "NumPy against OpenMM", 1e-12, "A", high=1e-9)
    verdict = Report("m", {}, (code, without_labels())).summary()
    assert "PASSED" in verdict and "--labels" in verdict
    measured = Check("accuracy", "force error", 2.3, "kcal/mol/A", high=1.0)
    verdict = Report("m", {}, (code, measured)).summary()
    assert "FAILED" in verdict and "2.3 kcal/mol/A" in verdict
    assert "--labels" not in verdict


@pytest.mark.parametrize(
    "elements", [("H",), ("H", "O"), ("H", "C", "O"), tuple("HCNOF")]
)
def test_the_random_cluster_has_an_even_number_of_electrons(
    elements: tuple[str, ...],
) -> None:
    cluster = random_cluster(elements, np.random.default_rng(1))
    assert cluster.numbers.sum() % 2 == 0
    assert len(cluster.numbers) >= 8


def test_a_drift_within_its_error_is_none() -> None:
    assert drift_limit("double", 0.001) == DRIFT_LIMIT["double"]
    # One run in twenty is more than two standard errors off, without any drift.
    assert drift_limit("double", 0.1) > 0.3


def test_the_command_measures_labels(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.validation import validate as checks

    empty = ("symmetry_checks", "energy_checks", "backend_checks", "verlet_checks")
    for name in empty:
        monkeypatch.setattr(checks, name, lambda *_: [])
    short = ["validate", str(smallest_model), "--drift-ps", "0"]
    labels = ["--labels", str(DATA / "water1.h5")]
    result = CliRunner().invoke(main, [*short, *labels])
    # Random weights are worse than no forces at all.
    assert result.exit_code == 1, result.output
    assert "force error, mean absolute" in result.output
    result = CliRunner().invoke(main, [*short, *labels, "--max-force-error", "1e6"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(main, [*short, "--max-force-error", "1"]).exit_code == 2
    report = validate(smallest_model, Settings(drift_ps=0.0))
    console = Console(file=io.StringIO(), width=160)
    report.print(console)
    assert "not run: accuracy" in console.file.getvalue()

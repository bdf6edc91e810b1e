"""The benchmark of force errors and energy drift."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import force_drift
import numpy as np
import pytest
import recipes
from analytic_water import harmonic_water
from click.testing import CliRunner
from matplotlib.figure import Figure

from openmm_se3.model_file import load_model
from openmm_se3.simulation.minimum import BadMinimumError
from openmm_se3.training.sweep import Result, Variant


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

"""The benchmark of stable water."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
import water_stability
from analytic_water import harmonic_water
from click.testing import CliRunner


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
        implementation="none",
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

"""Analyses of folders of runs."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from analytic_water import harmonic_water
from click.testing import CliRunner
from recordings import WATER
from rich.console import Console

from openmm_se3.analysis import (
    analyze,
    analyze_folder,
    print_report,
    read_folder,
)
from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.figure import draw
from openmm_se3.cli import main
from openmm_se3.simulation import (
    RunOptions,
    run_dynamics,
)
from openmm_se3.simulation import folder as names


def test_a_run_is_analyzed_whole_and_the_same_again(finished: Path) -> None:
    analysis = analyze_folder(finished)
    first = json.loads((finished / names.SUMMARY).read_text())
    assert first["verdict"] == "STABLE"
    assert first["lasted_ps"] == pytest.approx(2.0)
    assert first["oh_length_angstrom"]["mean"] == pytest.approx(0.957, abs=0.01)
    assert first["degrees_of_freedom"] == 15
    assert first["shadow_drift_kt_per_ns_per_dof"]["error"] < 0.1
    assert first["molecules"] == 2
    assert first["missing"] == []
    assert analysis.whole_spectrum is not None
    assert (finished / names.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert "STABLE for 2 ps" in (finished / names.REPORT).read_text()
    result = CliRunner().invoke(main, ["analyze", str(finished)])
    assert result.exit_code == 0, result.output
    assert "STABLE for 2 ps" in result.output
    assert json.loads((finished / names.SUMMARY).read_text()) == first


def test_a_run_that_the_guard_stopped_is_unstable(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", steps=400, dt_fs=4.0, equilibration_ps=0.0, seed=2
    )
    record = run_dynamics(system, topology, WATER, options)
    assert record.status == "stopped"
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "a")])
    assert result.exit_code == 1, result.output
    assert "UNSTABLE after" in result.output
    found = json.loads((tmp_path / "a" / names.SUMMARY).read_text())
    title = draw(analyze(read_folder(tmp_path / "a"))).get_suptitle()
    assert record.reason in title.replace("\n", " ")  # wrapped, not cut
    assert max(map(len, title.splitlines())) < 110
    assert found["reason"] == record.reason
    assert found["lasted_ps"] == record.time_ps


def test_a_run_stopped_in_equilibration_can_be_analyzed(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=400, dt_fs=4.0, equilibration_ps=1.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert not analysis.stability.stable
    assert analysis.stability.lasted_ps == 0.0
    assert "already in the equilibration" in analysis.stability.reason
    assert (tmp_path / "a" / names.FIGURE).exists()
    figure = draw(analysis)
    assert figure.get_suptitle().endswith("There is nothing to draw.")
    assert figure.get_figheight() < 2.0  # no blank page


def test_a_very_short_run_says_what_it_cannot_give(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(out=tmp_path / "a", seed=1, steps=1, equilibration_ps=0.0)
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.stability.stable
    assert "No energy drift: the run is too short for block means." in analysis.missing
    assert "No vibrational spectrum: too few frames." in analysis.missing


def test_drift_is_that_of_the_total_energy() -> None:
    """Not of its parts, and that of the shadow energy only where there is one."""
    time = 0.01 * np.arange(400)
    log = {
        "time_ps": time,
        "temperature_k": np.resize([290.0, 310.0], 400),
        "potential_kj_per_mol": -50.0 + 3.0 * time,
        "kinetic_kj_per_mol": 10.0 - 1.0 * time,
        "total_kj_per_mol": -40.0 + 2.0 * time,
        "shadow_kj_per_mol": np.where(np.arange(400) < 390, 0.5 * time, np.nan),
    }
    found = energies(log, 300.0, 6, conserved=True)
    assert found is not None and found.drift and found.shadow_drift
    assert found.temperature == pytest.approx(300.0)
    assert found.drift.slope == pytest.approx(2.0, rel=1e-9)
    assert found.shadow_drift.slope == pytest.approx(0.5, rel=1e-9)
    assert found.fluctuation == pytest.approx(log["total_kj_per_mol"].std())
    thermostatted = energies(log, 300.0, 6, conserved=False)
    assert thermostatted is not None
    assert thermostatted.drift is None and thermostatted.shadow_drift is None


def test_nvt_has_no_drift(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=2000, ensemble="nvt", equilibration_ps=0.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.energies is not None
    assert analysis.energies.drift is None
    assert any("thermostat" in sentence for sentence in analysis.missing)
    report = (tmp_path / "a" / names.REPORT).read_text()
    assert "± of lengths" in report
    assert "NVE" not in report


@pytest.mark.parametrize("equilibration_ps", [0.0, 0.1])
def test_the_note_of_nve_fits_its_start(
    tmp_path: Path, equilibration_ps: float
) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=100, equilibration_ps=equilibration_ps
    )
    run_dynamics(system, topology, WATER, options)
    console = Console(file=io.StringIO(), width=200)
    print_report(analyze_folder(tmp_path / "a"), console)
    for text in (
        console.file.getvalue(),
        (tmp_path / "a" / names.REPORT).read_text(),
    ):
        assert "± of lengths" in text
        assert ("starts at the minimum" in text) is (equilibration_ps == 0.0)
        assert ("last moment of the equilibration" in text) is (equilibration_ps > 0.0)


def test_the_report_names_model_and_system(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = json.loads((tmp_path / names.RUN).read_text())
    run |= {
        "molecules": 2,
        "model": "my [model]",
        "backend": "torchforce",
        "level_of_theory": {"method": "wb97x", "basis": "6-31g*"},
    }
    (tmp_path / names.RUN).write_text(json.dumps(run))
    analysis = analyze_folder(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    print_report(analysis, console)
    assert analysis.spectrum is not None
    resolution = f"(resolution {analysis.spectrum.resolution:.1f} cm^-1)"
    report = (tmp_path / names.REPORT).read_text()
    for text in (console.file.getvalue(), report):
        assert "my [model], trained on wb97x/6-31g*" in text
        assert "2 water molecules, 6 atoms, NVE" in text
        assert "torchforce" in text
        assert resolution in text
        assert " A " not in text  # Å throughout
    assert report.startswith("# Analysis of a water trajectory\n")

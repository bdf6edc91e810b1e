"""The main job, on the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from openmm_se3 import SE3Potential
from openmm_se3.cli import main
from openmm_se3.simulation import LogReporter, WaterRunOptions, run_water
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.progress import ProgressReporter

SHORT = ["--equilibration", "0.05", "--platform", "Reference"]


def test_water_runs_reports_and_does_not_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "my run"
    command = ["water", "--out", str(out), "--length", "0.5", *SHORT]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "STABLE for 0.5 ps" in result.output
    expected = set(names.RESULTS) - {names.LAST_GOOD_FRAME, names.LAST_GOOD_STATE}
    expected -= {names.TRAJECTORY_XTC, names.UNCERTAIN_FRAME}
    assert {path.name for path in out.iterdir()} == expected
    found = json.loads((out / names.SUMMARY).read_text())
    assert found["verdict"] == "STABLE"
    assert 0.95 < found["oh_length_angstrom"]["mean"] < 0.99
    assert 100.0 < found["hoh_angle_degrees"]["mean"] < 109.0
    assert found["run"]["model"] == "water"
    assert len(found["peaks_per_cm"]) >= 1
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert json.loads((out / names.SUMMARY).read_text()) == found


@pytest.mark.parametrize("options", [["--molecules", "2"], ["--precision", "double"]])
def test_other_options(tmp_path: Path, options: list[str]) -> None:
    command = ["water", "--out", str(tmp_path / "a"), "--length", "0.1", *SHORT]
    result = CliRunner().invoke(main, [*command, "--ensemble", "nvt", *options])
    assert result.exit_code == 0, result.output
    assert "thermostat" in result.output


def test_an_unstable_run_ends_with_code_1(tmp_path: Path) -> None:
    command = ["water", "--out", str(tmp_path / "a"), "--length", "2.5", "--dt", "5"]
    result = CliRunner().invoke(main, [*command, *SHORT])
    assert result.exit_code == 1, result.output
    assert "UNSTABLE" in result.output
    assert "0.5 fs is recommended" in result.output
    assert (tmp_path / "a" / names.LAST_GOOD_FRAME).exists()


@pytest.mark.parametrize("place", ["equilibration", "production", "analysis"])
def test_ctrl_c_names_what_can_be_analyzed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if place == "analysis":
        monkeypatch.setattr("openmm_se3.analysis.analyze_folder", interrupt)
    elif place == "production":
        monkeypatch.setattr(LogReporter, "_shadow_energy", interrupt)
    else:
        monkeypatch.setattr(ProgressReporter, "report", interrupt)
    out = tmp_path / "a"
    command = ["water", "--out", str(out), "--length", "0.05", *SHORT]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 130
    hint = f"Ended early; what there is: openmm-se3 analyze {out}"
    assert (hint in result.output) is (place == "production")
    if place == "production":
        result = CliRunner().invoke(main, ["analyze", str(out)])
        assert "ps (interrupted)" in result.output


def test_few_molecules_run_with_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def stop(*_: object) -> None:
        threads.append(torch.get_num_threads())
        raise ValueError

    monkeypatch.setattr(SE3Potential, "createSystem", stop)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for molecules in (20, 21):
            with pytest.raises(ValueError):
                run_water(WaterRunOptions(molecules=molecules, out=tmp_path / "a"))
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 2]


def test_unknown_model_and_platform_are_refused(tmp_path: Path) -> None:
    command = ["water", "--out", str(tmp_path / "a"), "--length", "0.005"]
    for option in (["--model", "wasser"], ["--platform", "Abacus"]):
        result = CliRunner().invoke(main, [*command, *option])
        assert result.exit_code == 2, result.output
        assert option[1] in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "a" / names.TRAJECTORY).exists()

"""The command that validates a model."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pages import read_page
from random_model import SELF_ENERGIES
from rich.console import Console

from openmm_se3.cli import main
from openmm_se3.model_file import load_model
from openmm_se3.validation import validate as checks
from openmm_se3.validation.check import Check
from openmm_se3.validation.report import Report
from openmm_se3.validation.validate import Settings


def test_command_on_a_model(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    page = tmp_path / "result.html"
    options = ["--steps", "100", "--drift-ps", "0", "--out", str(out)]
    options += ["--report", str(page)]
    result = CliRunner().invoke(main, ["validate", str(model_folder), *options])
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.output
    content = json.loads(out.read_text())
    assert content["passed"] is True
    assert content["model_metadata"]["self_energies"] == SELF_ENERGIES
    groups = {check["group"] for check in content["checks"]}
    assert groups == {
        "equivariance",
        "permutation",
        "finite differences",
        "isolated atoms",
        "cutoff",
        "precision",
        "backends",
        "mixed systems",
        "Verlet",
        "drift",
        "accuracy",
    }
    text = html.unescape(read_page(page))
    assert 'banner good"' in text and text.count("<figure") == 1
    for check in content["checks"]:
        assert check["name"] in text
        if check["measured"] is not None:
            assert f"{check['measured']:.3g}" in text
    assert "openmm-se3 validate" in text and "--report result.html" in text
    drift = [check for check in content["checks"] if check["group"] == "drift"]
    assert [check["status"] for check in drift] == ["not run"]
    assert "drift, NVE: - (limit none) left out by --drift-ps 0" in result.output
    again = CliRunner().invoke(main, ["validate", str(model_folder), *options])
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_notes_are_printed_as_they_are() -> None:
    note = 'fix: pip install "openmm-se3[ase]"'
    report = Report("a", {}, (Check("backends", "name [x]", None, note=note),))
    console = Console(file=io.StringIO(), width=200)
    report.print(console)
    assert console.file.getvalue().count(note) == 2
    assert console.file.getvalue().count("name [x]") == 2


def test_few_atoms_are_checked_with_one_thread(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    monkeypatch.setattr(
        checks, "symmetry_checks", lambda *_: threads.append(torch.get_num_threads())
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(TypeError):  # of the None that came for checks
            checks.validate(model_folder, Settings(steps=100, drift_ps=0.0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


def test_command_fails_when_a_check_does(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = load_model(model_folder).metadata
    report = Report("bad", about, (Check("group", "name", 2.0, "A", high=1.0),))
    monkeypatch.setattr(checks, "validate", lambda *_: report)
    out = tmp_path / "result.json"
    page = tmp_path / "result.html"
    files = ["--out", str(out), "--report", str(page)]
    result = CliRunner().invoke(main, ["validate", "bad", *files])
    assert result.exit_code == 1
    assert "FAILED: 1 failed" in result.output
    assert json.loads(out.read_text())["passed"] is False
    text = html.unescape(read_page(page))
    assert 'banner bad"' in text and "group, name: 2 A, limit <= 1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "no-such-model"),
        (["water", "--steps", "1"], "1 is not in the range x>=100"),
        (["water", "--drift-ps", "-1"], "-1.0 is not in the range x>=0.0"),
        (["water", "--drift-ps", "0.1"], "drift_ps must be 0 or at least 0.5"),
        (
            ["water", "--out", "no/such/folder/x.json"],
            "no folder no/such/folder to write",
        ),
    ],
)
def test_command_refuses_bad_input_in_one_line(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(main, ["validate", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output

"""One name for each option; the old one works for a release, with a warning."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from openmm_se3.cli import VERBS, main
from openmm_se3.cli.shared.run_options import advised
from openmm_se3.simulation import WaterRunOptions


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for verb in VERBS:
        command = importlib.import_module(f"openmm_se3.cli.{verb}").command
        if isinstance(command, click.Group):
            found += [(f"{verb} {n}", c) for n, c in command.commands.items()]
        else:
            found.append((verb, command))
    return found


def test_all_verbs_say_out_and_length() -> None:
    seen = 0
    for verb, command in commands():
        for option in command.params:
            if not isinstance(option, click.Option) or option.hidden:
                continue
            assert "--output" not in option.opts, verb
            if "--out" in option.opts:
                assert "-o" in option.opts, verb
                seen += 1
            if "production" in (option.help or "").lower().split(",")[0]:
                assert "--steps" not in option.opts, verb
    assert seen > 8


@pytest.mark.parametrize("option", ["--output", "--out", "-o"])
def test_label_takes_the_old_name(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []

    def stop(structures: Any, output: Any, *_: Any, **__: Any) -> None:
        outputs.append(output)
        raise ValueError("seen")

    monkeypatch.setattr("openmm_se3.data.labeling.label.label", stop)
    xyz, out = tmp_path / "a.xyz", tmp_path / "a.h5"
    xyz.write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    result = CliRunner().invoke(main, ["label", str(xyz), option, str(out)])
    assert outputs == [out]
    assert ("--output is now --out" in result.output) == (option == "--output")
    equals = f"--output={out}"
    assert "seen" in CliRunner().invoke(main, ["label", str(xyz), equals]).output


@pytest.mark.parametrize("verb", ["run", "water", "bench", "compile"])
def test_the_old_name_of_the_implementation(verb: str) -> None:
    # The value is refused by its new name, before anything is computed.
    result = CliRunner().invoke(main, [verb, "water", "--engine", "fortran"])
    assert result.exit_code == 2
    assert "--engine is now --implementation" in result.output
    assert "Invalid value for '--implementation': 'fortran'" in result.output


@pytest.mark.parametrize(
    ("words", "steps", "warned"),
    [
        ([], 40_000, False),
        (["--length", "2"], 4000, False),
        (["--length", "2", "--dt", "1"], 2000, False),
        (["--steps", "77"], 77, True),
    ],
)
def test_water_runs_for_a_length(
    words: list[str],
    steps: int,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[WaterRunOptions] = []

    def stop(run: WaterRunOptions, console: Any, command: str) -> None:
        runs.append(run)
        raise ValueError("seen")

    monkeypatch.setattr("openmm_se3.simulation.run_water", stop)
    out = str(tmp_path / "a")
    result = CliRunner().invoke(main, ["water", "-n", "2", "-o", out, *words])
    assert "seen" in result.output
    assert (runs[0].steps, runs[0].molecules, runs[0].out) == (steps, 2, out)
    assert ("--length" in result.output) == warned


def test_suggested_commands_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    out = tmp_path / "my run; rm x"
    out.mkdir()
    facts = {"status": "interrupted", "steps": 10, "frame_interval": 5}
    (out / "run.json").write_text(json.dumps(facts))
    console = Console(record=True, width=500)
    with pytest.raises(KeyboardInterrupt), advised(WaterRunOptions(out=out), console):
        raise KeyboardInterrupt
    (line,) = [x for x in console.export_text().splitlines() if "analyze" in x]
    words = shlex.split(line.partition("openmm-se3 ")[2])
    assert words == ["analyze", str(out)]

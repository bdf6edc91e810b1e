"""``openmm-se3 run``: the command, with an analytic force in the model's place."""

from __future__ import annotations

import html
import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from click.testing import CliRunner, Result
from openmm import app, unit
from pages import read_page
from random_model import small_config

import openmm_se3
from openmm_se3.cli import main
from openmm_se3.cli import run as run_command
from openmm_se3.domain import Compositions
from openmm_se3.force import backends
from openmm_se3.force.memory import NotEnoughMemoryError
from openmm_se3.simulation import ModelRunOptions, run_structure, water_topology
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.progress import ProgressReporter

SHORT = ["--length", "0.1", "--equilibration", "0.02", "--platform", "Reference"]
EDGE = 8.0  # A


class AnalyticPotential:
    """Stands for SE3Potential and knows water only."""

    weights = "a" * 64

    def __init__(self, model: str, **asked: str) -> None:
        self.config = small_config()
        self.metadata = {"name": "analytic", "weights_sha256": self.weights}
        self.model = SimpleNamespace(domain=Compositions(("H2O",)), n_members=1)
        self.backend = "torchforce"
        self.implementation = "torchscript"

    def estimate_memory(
        self, positions: np.ndarray, box: np.ndarray | None
    ) -> tuple[float, float]:
        return 0.25, 16.0

    def createSystem(self, topology: app.Topology) -> openmm.System:
        symbols = {atom.element.symbol for atom in topology.atoms()}
        if symbols != {"H", "O"}:
            raise ValueError("the model does not know it")
        box = topology.getUnitCellDimensions()
        edge = None if box is None else box[0].value_in_unit(unit.angstrom)
        return harmonic_water(topology.getNumAtoms() // 3, edge)[0]


@pytest.fixture(autouse=True)
def analytic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openmm_se3, "SE3Potential", AnalyticPotential, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """PDB file of two water molecules."""
    path = tmp_path / "two waters.pdb"
    with open(path, "w") as file:
        app.PDBFile.writeFile(
            water_topology(2), water_positions(2, 1) * unit.angstrom, file
        )
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *(str(word) for word in arguments)])


def test_it_runs_records_and_says_where(two: Path) -> None:
    result = call(two, "--model", "water", *SHORT, "--frame-interval", 5)
    assert result.exit_code == 0, result.output
    assert "Completed after 0.1 ps" in result.output
    assert "Memory: about 0.25 GB of 16 GB" in result.output
    assert "openmm-se3 analyze 'two waters-run'" in result.output
    assert "left" in result.output
    out = Path("two waters-run")
    facts = json.loads((out / names.RUN).read_text())
    assert facts["status"] == "completed"
    assert facts["structure"] == "two waters.pdb"
    assert facts["command"].startswith("openmm-se3 run 'two waters.pdb' --model water")
    page = html.unescape(read_page(out / names.PAGE))
    assert "COMPLETED: 0.1 ps" in page and facts["command"] in page
    assert facts["weights_sha256"] == "a" * 64
    assert (facts["steps"], facts["frame_interval"]) == (200, 10)
    assert np.load(out / names.VELOCITIES).shape == (20, 6, 3)
    measured = CliRunner().invoke(main, ["analyze", str(out)])
    assert measured.exit_code == 0, measured.output
    assert "STABLE for 0.1 ps" in measured.output
    page = html.unescape(read_page(out / names.PAGE))
    assert "STABLE for 0.1 ps" in page and facts["command"] in page
    again = call(two, "--model", "water", *SHORT, "--frame-interval", 5)
    assert again.exit_code == 2
    assert "--resume goes on with it, --overwrite replaces" in again.output


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_npt_of_a_box_from_the_file(tmp_path: Path, suffix: str) -> None:
    topology = water_topology(8)
    topology.setUnitCellDimensions(openmm.Vec3(EDGE, EDGE, EDGE) * unit.angstrom)
    grid = np.stack(np.meshgrid(*[[0.0, EDGE / 2]] * 3), axis=-1).reshape(8, 1, 3)
    start = (grid + water_positions(1)).reshape(-1, 3)
    writer = app.PDBFile if suffix == "pdb" else app.PDBxFile
    with open(f"box.{suffix}", "w") as file:
        writer.writeFile(topology, start % EDGE * unit.angstrom, file)
    options = ["--ensemble", "npt", "--pressure", 500, "--thermostat", "nose-hoover"]
    command = [f"box.{suffix}", "--model", "water", *options, *SHORT]
    result = call(*command, "--trajectory", "xtc", "--frame-interval", 5)
    assert result.exit_code == 0, result.output
    measured = CliRunner().invoke(main, ["analyze", "box-run"])
    assert "STABLE for 0.1 ps" in measured.output
    assert Path("box-run", names.TRAJECTORY_XTC).exists()


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "openmm-se3: interrupted (Ctrl-C)"),
        (signal.SIGTERM, 143, "openmm-se3: terminated by SIGTERM"),
        (signal.SIGUSR1, 138, "openmm-se3: terminated by SIGUSR1"),
    ],
)
def test_a_signal_ends_it_with_a_hint(
    two: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, line: str
) -> None:
    sent = []

    def send(self: object, simulation: app.Simulation, state: object) -> None:
        if not sent and simulation.currentStep == 100:
            sent.append(number)
            signal.raise_signal(number)

    command = [two, "--model", "water", *SHORT, "--equilibration", 0]
    command += ["--frame-interval", 5, "--out", "a"]
    with monkeypatch.context() as patch:
        patch.setattr(ProgressReporter, "report", send)
        result = call(*command)
    assert result.exit_code == code, result.output
    assert "what there is: openmm-se3 analyze a" in result.output
    assert "To go on, give the same command with --resume." in result.output
    assert line in result.output
    result = call(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert "Going on from step 1" in result.output
    assert len(np.load(Path("a", names.VELOCITIES))) == 20
    result = call(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert "The run in a is complete: 200 steps." in result.output


def test_other_weights_are_refused(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [two, "--model", "water", *SHORT]
    assert call(*command).exit_code == 0
    monkeypatch.setattr(AnalyticPotential, "weights", "b" * 64)
    result = call(*command, "--resume")
    assert result.exit_code == 2
    difference = "weights_sha256: aaaaaaaaaaaa in the checkpoint, bbbbbbbbbbbb now"
    assert difference in result.output


def test_too_little_memory_is_one_line(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate_memory(*_: object) -> tuple[float, float]:
        raise NotEnoughMemoryError("need about 12.0 GB")

    monkeypatch.setattr(AnalyticPotential, "estimate_memory", estimate_memory)
    result = call(two, "--model", "water", *SHORT)
    assert (result.exit_code, result.output) == (2, "Error: need about 12.0 GB\n")
    assert not Path("two waters-run").exists()


def test_a_stopped_run_ends_with_code_1(two: Path) -> None:
    result = call(two, "--model", "water", *SHORT, "--dt", 4)
    assert result.exit_code == 1, result.output
    assert "Reason: " in result.output
    assert "a time step too long (4 fs" in result.output
    assert "0.5 fs is recommended" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--length", "-1"], "-1.0 is not in the range x>0"),
        (["--length", "inf"], "--length and --dt must be finite numbers"),
        (["--dt", "nan"], "--length and --dt must be finite"),
        (["--dt", "0"], "0.0 is not in the range"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--temperature", "-300"], "not in the range x>0"),
        (["--equilibration", "-1"], "not in the range x>=0"),
        (["--frame-interval", "0"], "not in the range x>0"),
        (["--seed", "0"], "0 is not in the range"),
        (["--ensemble", "npt"], "NPT needs a periodic box"),
        (["--ensemble", "nph"], "'nph' is not one of 'nve', 'nvt', 'npt'"),
        (["--pressure", "2"], "--pressure is for --ensemble npt"),
        (["--thermostat", "langevin"], "--thermostat is for --ensemble nvt or npt"),
        (["--platform", "Abacus"], "no platform 'Abacus' here; choose from"),
        (["--overwrite", "--resume"], "overwrite and resume exclude each other"),
    ],
)
def test_bad_options_are_one_line(two: Path, words: list[str], message: str) -> None:
    result = call(two, "--model", "water", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not Path("two waters-run").exists()


def test_bad_structures_and_models_are_one_line(two: Path, tmp_path: Path) -> None:
    result = call("none.pdb", "--model", "water")
    assert (result.exit_code, result.output) == (
        2,
        "Error: there is no structure file none.pdb\n",
    )
    (tmp_path / "co.pdb").write_text(
        "HETATM    1  C   UNL A   1       0.000   0.000   0.000  1.00  0.00"
        "           C\nEND\n"
    )
    result = call("co.pdb", "--model", "water")
    assert (result.exit_code, result.output) == (
        2,
        "Error: the model does not know it\n",
    )


def test_the_guide_names_what_there_is() -> None:
    guide = (Path(__file__).parents[2] / "docs/running.md").read_text()
    known = call("--help").output
    for option in re.findall(r"--[a-z][a-z-]+", guide):
        assert option in known or option in ("--help", "--signal")  # SLURM's
    for name in names.RESULTS:
        assert name in guide


def test_the_function_for_scripts_is_the_same(two: Path) -> None:
    assert (
        call(two, "--model", "water", *SHORT, "--seed", 3, "--out", "a").exit_code == 0
    )
    options: dict[str, Any] = {"platform": "Reference", "equilibration_ps": 0.02}
    record = run_structure(two, ModelRunOptions(steps=200, seed=3, out="b", **options))
    assert (record.status, record.steps, record.folder) == ("completed", 200, Path("b"))
    same = [Path(out, names.VELOCITIES).read_bytes() for out in "ab"]
    assert same[0] == same[1]


def test_every_backend_can_be_chosen() -> None:
    """The command has the names of its own, so that help imports nothing slow."""
    assert run_command.BACKENDS == ("auto", *backends.BACKENDS)

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from openmm_se3 import cli
from openmm_se3.version import __version__

RUN = [sys.executable, "-c", "from openmm_se3.cli import main; main()"]
ROOT = Path(cli.__file__).parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a verb "water" that does what the test wants."""

    def run(body: Callable[[], None], *arguments: str) -> Result:
        @click.command()
        @click.option("--steps", type=int)
        def command(steps: int | None) -> None:
            body()

        module = type(sys)("openmm_se3.cli.water")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "openmm_se3.cli.water", module)
        return CliRunner().invoke(cli.main, arguments)

    return run


def fail_with(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def test_help_lists_every_verb() -> None:
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    for verb, help_line in cli.VERBS.items():
        assert f"  {verb} " in result.output
        assert help_line in result.output, "too long for one line"


SLOW = {"torch", "openmm", "numpy", "scipy", "mdtraj", "matplotlib", "ase", "rich"}


def imported_by(code: str) -> set[str]:
    """Return what of the slow packages a fresh process has imported after the code."""
    code += "\nimport sys\nprint('\\nmodules:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return SLOW.intersection(done.stdout.split("modules:")[1].split())


@pytest.mark.parametrize(
    "arguments", [[], *([verb] for verb in cli.VERBS), ["data", "inspect"]]
)
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    code = (
        "from openmm_se3.cli import main\n"
        f"main({[*arguments, '--help']}, standalone_mode=False)"
    )
    assert imported_by(code) == set()


def test_tab_completion_imports_nothing_slow() -> None:
    code = (
        "from click.shell_completion import BashComplete\n"
        "from openmm_se3.cli import VERBS, main\n"
        "completion = BashComplete(main, {}, 'openmm-se3', '_OPENMM_SE3_COMPLETE')\n"
        "for verb in VERBS:\n"
        "    options = completion.get_completions([verb], '--')\n"
        "    assert '--debug' in [option.value for option in options], verb"
    )
    assert imported_by(code) == set()


def test_tab_completion_of_the_installed_command() -> None:
    variables = {
        "_OPENMM_SE3_COMPLETE": "bash_complete",
        "COMP_WORDS": "openmm-se3 run --ens",
        "COMP_CWORD": "2",
    }
    script = Path(sys.executable).with_name("openmm-se3")
    done = subprocess.run(
        [script], env={**environment(), **variables}, capture_output=True, text=True
    )
    assert done.stdout == "plain,--ensemble\n", done.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_a_command_with_help(verb: str) -> None:
    module = importlib.import_module(f"openmm_se3.cli.{verb}")
    assert isinstance(module.command, click.Command)
    result = CliRunner().invoke(cli.main, [verb, "--help"])
    assert result.exit_code == 0
    assert "--debug" in result.output


def test_version() -> None:
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.output.strip() == f"openmm-se3, version {__version__}"


def test_unknown_verb_names_the_nearest() -> None:
    result = CliRunner().invoke(cli.main, ["watr"])
    assert result.exit_code == 2
    assert "there is no verb 'watr'; did you mean 'water'?" in result.output


def test_unknown_verb_without_a_near_one_lists_all() -> None:
    result = CliRunner().invoke(cli.main, ["xyz"])
    assert result.exit_code == 2
    assert "verbs: learn, water, run" in result.output


def test_unknown_option_names_the_nearest(invoke: Callable[..., Result]) -> None:
    result = invoke(lambda: None, "water", "--step", "3", "--setps", "4")
    assert result.exit_code == 2
    assert "--steps" in result.output.split("Error:")[1]


class OwnError(ValueError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        FileNotFoundError("bad"),
        FileExistsError("bad"),
        RuntimeError("bad"),
        OwnError("bad"),
    ],
)
def test_expected_error_is_one_line(
    invoke: Callable[..., Result], error: Exception
) -> None:
    result = invoke(fail_with(error), "water")
    assert result.exit_code == 2
    assert result.output == "Error: bad\n"


def test_message_of_several_lines_is_shown_as_one(
    invoke: Callable[..., Result],
) -> None:
    text = "no box\n  Exception raised from forward at model.cpp:1\nframe #0: f"
    result = invoke(fail_with(RuntimeError(text)), "water")
    assert result.output == "Error: no box\n"


def test_unexpected_error_names_its_type(invoke: Callable[..., Result]) -> None:
    result = invoke(fail_with(KeyError("mass")), "water")
    assert result.exit_code == 1
    assert result.output == "Error: KeyError: 'mass' (--debug shows where)\n"


def test_a_warning_is_one_line_and_shows_its_place_with_debug(
    invoke: Callable[..., Result],
) -> None:
    def body() -> None:
        warnings.warn("look at the card", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert invoke(body, "water").output == "Warning: look at the card\n"
    with pytest.warns(UserWarning, match="look at the card"):
        assert invoke(body, "--debug", "water").output == ""


@pytest.mark.parametrize("arguments", [("--debug", "water"), ("water", "--debug")])
def test_debug_shows_the_traceback(
    invoke: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    result = invoke(fail_with(ValueError("bad")), *arguments)
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.output
    assert result.output.endswith("Error: bad\n")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'dgl'")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    result = CliRunner().invoke(cli.main, ["train"])
    assert result.exit_code == 2
    assert "No module named 'dgl'" in result.output
    assert 'pip install "openmm-se3[train]"' in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "openmm-se3: interrupted (Ctrl-C)"),
        (signal.SIGTERM, 143, "openmm-se3: terminated by SIGTERM"),
        (signal.SIGHUP, 129, "openmm-se3: terminated by SIGHUP"),
        (signal.SIGUSR2, 140, "openmm-se3: terminated by SIGUSR2"),
        (signal.SIGXCPU, 152, "openmm-se3: terminated by SIGXCPU"),
    ],
)
def test_signals_end_in_one_line(
    number: signal.Signals, code: int, line: str, tmp_path: Path
) -> None:
    program = (
        "import pathlib, sys, time, types, click\n"
        "from openmm_se3 import cli\n"
        "@click.command()\n"
        "def command():\n"
        "    pathlib.Path('started').touch()\n"
        "    time.sleep(60)\n"
        "module = types.ModuleType('openmm_se3.cli.water')\n"
        "module.command = command\n"
        "sys.modules[module.__name__] = module\n"
        "cli.main(['water'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == f"{line}\n"

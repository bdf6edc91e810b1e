"""A run that was killed or stopped resumes as if it had not been."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import app
from resumed_runs import KINDS, STEPS, assert_same, content, run, stop_at
from rich.console import Console

from openmm_se3.signals import Terminated
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.ensemble import EQUILIBRATION
from openmm_se3.simulation.reporters import VelocityReporter


def newest_facts(folder: Path) -> dict[str, Any]:
    path = sorted((folder / names.CHECKPOINTS).glob("*.json"))[-1]
    return json.loads(path.read_text())


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint of the production; -1 without one."""
    found = (folder / names.CHECKPOINTS).glob("production-*.json")
    return max((int(path.stem.partition("-")[2]) for path in found), default=-1)


def running(child: int) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, flags) is None


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments_it_records_the_same(
    tmp_path: Path, kind: str, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    whole = uninterrupted(kind)["seconds"]
    moments, out = random.Random(kind), tmp_path / "run"
    steps = [newest_step(out)]
    for kill in (True, True, True, True, False):
        child = os.fork()
        if child == 0:
            try:
                run(out, resume=True, **KINDS[kind])
                os._exit(0)
            except BaseException:
                os._exit(1)
        if kill:
            # Not before a checkpoint more than the last time, however slow it is.
            while newest_step(out) == steps[-1] and running(child):
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.1) * whole)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        steps.append(newest_step(out))
    assert len(set(steps)) > 2, "no kill came in the middle"
    assert_same(content(out), uninterrupted(kind))


def test_without_a_seed_each_run_has_its_own_which_is_kept(tmp_path: Path) -> None:
    printed = io.StringIO()
    seeds = []
    common = {"steps": 200, "equilibration_ps": 0.05, "checkpoint_ps": 0.05}
    for name in ("a", "b"):
        console = Console(file=printed, width=80)
        run(tmp_path / name, console=console, seed=None, **common)
        facts = json.loads((tmp_path / name / names.RUN).read_text())
        seeds.append(facts["options"]["seed"])
        assert f"Seed {seeds[-1]}\n" in printed.getvalue()
    assert seeds[0] != seeds[1]
    a, b = (content(tmp_path / name)["velocities"] for name in ("a", "b"))
    assert not np.array_equal(a, b)
    # Given, it gives the same run.
    run(tmp_path / "c", seed=seeds[0], **common)
    assert np.array_equal(a, content(tmp_path / "c")["velocities"])
    # A resumed run keeps it.
    run(tmp_path / "b", seed=None, resume=True, **{**common, "steps": 300})
    facts = json.loads((tmp_path / "b" / names.RUN).read_text())
    assert (facts["options"]["seed"], facts["steps"]) == (seeds[1], 300)
    assert np.array_equal(content(tmp_path / "b")["velocities"][: len(b)], b)


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_give_other_trajectories(
    tmp_path: Path, kind: str, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    # The control: what is compared does depend on the random numbers.
    run(tmp_path / "a", seed=2, **KINDS[kind])
    found, expected = content(tmp_path / "a"), uninterrupted(kind)
    for name in ("positions", "velocities", "log", "final state"):
        assert not np.array_equal(found[name], expected[name]), name


@pytest.mark.parametrize("log_fs", [2.0, 4.0, 50.0])
@pytest.mark.parametrize("step", [5, 46, 47, 48, 49, 50, 51])
def test_a_checkpoint_of_a_signal_loses_no_row(
    tmp_path: Path, step: int, log_fs: float
) -> None:
    changes = {"steps": 120, "equilibration_ps": 0.0, "log_fs": log_fs}
    changes |= {"frame_fs": 1.0, "checkpoint_ps": 1.0}
    run(tmp_path / "whole", **changes)
    report = VelocityReporter.report

    def send(
        self: VelocityReporter, simulation: app.Simulation, state: openmm.State
    ) -> None:
        if simulation.currentStep in (step, step + 1):
            signal.raise_signal(signal.SIGINT)
        report(self, simulation, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VelocityReporter, "report", send)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", **changes)
    assert 0 < newest_facts(tmp_path / "a")["step"] < step + 25
    run(tmp_path / "a", resume=True, **changes)
    assert_same(content(tmp_path / "a"), content(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (signal.SIGINT, KeyboardInterrupt, "Ctrl-C"),
        (signal.SIGTERM, Terminated, "terminated by SIGTERM"),
        (signal.SIGHUP, Terminated, "terminated by SIGHUP"),
        (signal.SIGUSR1, Terminated, "terminated by SIGUSR1"),
        (signal.SIGXCPU, Terminated, "terminated by SIGXCPU"),
    ],
)
@pytest.mark.parametrize("kind", ["nve", "npt"])
def test_a_signal_leaves_a_checkpoint(
    tmp_path: Path,
    kind: str,
    number: signal.Signals,
    error: type[BaseException],
    reason: str,
    uninterrupted: Callable[[str], dict[str, Any]],
) -> None:
    out, step = tmp_path / "a", 1010
    before = signal.getsignal(number)
    with pytest.raises(error):
        stop_at(step, number, out, **KINDS[kind])
    assert signal.getsignal(number) == before
    facts = json.loads((out / names.RUN).read_text())
    assert (facts["status"], facts["reason"]) == ("interrupted", reason)
    # Soon after; in NPT at the last regular one, 192 steps apart.
    limit = 192 if kind == "npt" else 25
    assert abs(newest_facts(out)["step"] - step) <= limit
    run(out, resume=True, **KINDS[kind])
    assert_same(content(out), uninterrupted(kind))


def test_a_signal_in_the_equilibration_leaves_a_checkpoint(
    tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_at(50, signal.SIGINT, tmp_path / "a", phase=EQUILIBRATION)
    assert newest_facts(tmp_path / "a")["phase"] == "equilibration"
    run(tmp_path / "a", resume=True)
    assert_same(content(tmp_path / "a"), uninterrupted("nve"))


def test_a_longer_run_goes_on_where_the_shorter_ended(
    tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    run(tmp_path / "a", steps=STEPS // 2)
    short = len(np.load(tmp_path / "a" / names.VELOCITIES))
    run(tmp_path / "a", resume=True)
    assert len(np.load(tmp_path / "a" / names.VELOCITIES)) == 2 * short
    assert_same(content(tmp_path / "a"), uninterrupted("nve"))


def test_a_run_shorter_than_a_row_of_its_log_can_be_extended(
    tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    run(tmp_path / "a", steps=3)
    facts = json.loads((tmp_path / "a" / names.RUN).read_text())
    assert facts["log_interval"] == 3
    run(tmp_path / "a", resume=True)
    assert_same(content(tmp_path / "a"), uninterrupted("nve"))


def test_a_run_that_is_longer_than_asked_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        stop_at(STEPS // 2, signal.SIGINT, out)
    run(out, steps=STEPS // 4, resume=True, console=Console(width=200))
    told = f"steps already, more than the {STEPS // 4} that are asked for"
    assert told in capsys.readouterr().out


def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(tmp_path: Path) -> None:
    seeds = []
    for steps in (STEPS // 4, STEPS // 2):
        run(tmp_path / "a", steps=steps, seed=None, resume=steps > STEPS // 4)
        facts = json.loads((tmp_path / "a" / names.RUN).read_text())
        assert facts["status"] == "completed" and facts["steps"] == steps
        seeds.append(facts["options"]["seed"])
    assert seeds[0] == seeds[1]
    run(tmp_path / "b", steps=STEPS // 4, seed=None)
    other = json.loads((tmp_path / "b" / names.RUN).read_text())
    assert other["options"]["seed"] != seeds[0]


def test_a_complete_run_stays_as_it_is(tmp_path: Path) -> None:
    first = run(tmp_path / "a", steps=100)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("a/*.*")}
    again = run(tmp_path / "a", steps=100, resume=True)
    assert again == first
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("a/*.*")}

"""A run that was killed, stopped or damaged goes on as if it had not been."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from openmm import app
from rich.console import Console

from openmm_se3.analysis.read import read_log
from openmm_se3.signals import Terminated
from openmm_se3.simulation import (
    FolderInUseError,
    RunOptions,
    RunRecord,
    run_dynamics,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.ensemble import EQUILIBRATION, PRODUCTION
from openmm_se3.simulation.folder import RunFolder
from openmm_se3.simulation.progress import ProgressReporter
from openmm_se3.simulation.reporters import VelocityReporter

STEPS = 2000
EDGE = 8.0  # A, of the box of eight molecules
KINDS: dict[str, dict[str, Any]] = {
    "nve": {},
    "nvt": {"ensemble": "nvt", "trajectory": "xtc"},
    "nose-hoover": {"ensemble": "nvt", "thermostat": "nose-hoover"},
    "npt": {"ensemble": "npt", "pressure_bar": 1000.0},
}


def run(
    out: Path,
    about: dict[str, Any] | None = None,
    console: Console | None = None,
    **changes: Any,
) -> RunRecord:
    """Run harmonic water: two molecules, or eight in a box for NPT."""
    settings: dict[str, Any] = {
        "steps": STEPS,
        "platform": "Reference",
        "equilibration_ps": 0.2,
        "frame_fs": 2.0,
        "checkpoint_ps": 0.1,
        "seed": 1,
        **changes,
    }
    if settings.get("ensemble") == "npt":
        system, topology = harmonic_water(8, EDGE)
        corners = np.stack(np.meshgrid(*[[0.0, EDGE / 2]] * 3), axis=-1).reshape(
            8, 1, 3
        )
        start = (water_positions(1) + corners).reshape(-1, 3)
    else:
        system, topology = harmonic_water(2)
        start = water_positions(2, 1)
    return run_dynamics(
        system, topology, start, RunOptions(out=out, **settings), about, console
    )


def content(folder: Path) -> dict[str, Any]:
    """Return what a run recorded, and how long it took."""
    facts = json.loads((folder / names.RUN).read_text())
    path = folder / names.trajectory_name(facts)
    frames = mdtraj.load(str(path), top=str(folder / names.TOPOLOGY))
    return {
        "status": facts["status"],
        "positions": frames.xyz,
        "times": frames.time,
        "box": frames.unitcell_vectors,
        "velocities": np.load(folder / names.VELOCITIES),
        "log": (folder / names.LOG).read_text(),
        "final state": (folder / names.FINAL_STATE).read_text(),
        "frames counted": frames_counted(path),
        "seconds": facts["seconds"],
    }


def frames_counted(path: Path) -> int:
    """Return the number of frames that the header of a DCD says; 0 of an XTC."""
    return struct.unpack_from("<i", path.read_bytes(), 8)[0] * (path.suffix == ".dcd")


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in found.keys() - {"seconds"}:
        assert np.array_equal(found[name], expected[name]), name


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], dict[str, Any]]:
    """Return what a run of a kind records that nothing interrupts."""
    known: dict[str, dict[str, Any]] = {}

    def find(kind: str) -> dict[str, Any]:
        if kind not in known:
            out = tmp_path_factory.mktemp("whole") / kind
            run(out, **KINDS[kind])
            known[kind] = content(out)
        return known[kind]

    return find


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an NVE run that was stopped half way; to be copied."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(KeyboardInterrupt):
        stop_at(STEPS // 2, signal.SIGINT, out)
    return out


def stop_at(
    step: int,
    number: signal.Signals,
    out: Path,
    phase: int = PRODUCTION,
    **changes: Any,
) -> None:
    """Run until a signal comes at a step of a phase."""
    report = ProgressReporter.report

    def send(
        self: ProgressReporter, simulation: app.Simulation, state: openmm.State
    ) -> None:
        now = simulation.integrator.getCurrentIntegrator()
        if now == phase and 0 <= simulation.currentStep - step < self.interval:
            signal.raise_signal(number)
        report(self, simulation, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressReporter, "report", send)
        run(out, **changes)


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


# The same trajectory


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


# What does not fit


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"temperature": 310.0}, ["temperature: 300.0 in the checkpoint, 310.0 now"]),
        ({"dt_fs": 0.25}, ["dt_fs: 0.5 in", "frame_interval: 4 in the checkpoint, 8"]),
        ({"seed": 7}, ["seed: 1 in the checkpoint, 7 now"]),
        ({"ensemble": "nvt"}, ["ensemble: nve in the checkpoint, nvt now"]),
        ({"ensemble": "npt"}, ["atoms: 6 in the checkpoint, 24", "elements: H4 O2 in"]),
        (
            {"about": {"weights_sha256": "b"}},
            ["weights_sha256: a in the checkpoint, b"],
        ),
        (
            {"about": {"weights_sha256": "b", "level": "other"}},
            ["in the folder: the model is another one; undo"],
        ),
    ],
)
def test_another_run_is_refused_and_the_difference_named(
    tmp_path: Path, half: Path, changes: dict[str, Any], differences: list[str]
) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        stop_at(100, signal.SIGINT, out, steps=200, about={"weights_sha256": "a"})
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(ValueError, match="this is another run") as caught:
        run(out, **{"resume": True, "about": {"weights_sha256": "a"}, **changes})
    for text in differences:
        assert text in str(caught.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


def test_another_force_or_start_is_refused(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    options = RunOptions(
        seed=1,
        out=out,
        steps=STEPS,
        platform="Reference",
        equilibration_ps=0.2,
        frame_fs=2.0,
        checkpoint_ps=0.1,
        resume=True,
    )
    system, topology = harmonic_water(2)
    system.getForce(0).setBondParameters(0, 0, 1, 0.1, 1000.0)
    with pytest.raises(ValueError, match=r"system.sha256: \w+ in the checkpoint"):
        run_dynamics(system, topology, water_positions(2, 1), options)
    system, topology = harmonic_water(2)
    with pytest.raises(ValueError, match=r"system.start_sha256: \w+ in the checkpoint"):
        run_dynamics(system, topology, water_positions(2, 2), options)


def test_on_another_platform_it_goes_on_from_the_state_and_says_so(
    tmp_path: Path, half: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    with pytest.warns(UserWarning, match="platform: Reference in .* not bit-identical"):
        run(out, resume=True, platform="CPU")
    (resumed,) = json.loads((out / names.RUN).read_text())["resumed"]
    assert not resumed["bit_identical"]
    found, expected = content(out), uninterrupted("nve")
    for name in ("positions", "velocities", "times"):
        assert found[name].shape == expected[name].shape
    first = resumed["step"] // 4
    assert_same({"x": found["positions"][:first]}, {"x": expected["positions"][:first]})
    # Positions, velocities and step are those of the checkpoint; chaos comes later.
    for name, limit in (("positions", 1e-4), ("velocities", 1e-4)):
        next_frames = slice(first, first + 5)
        apart = np.abs(found[name][next_frames] - expected[name][next_frames]).max()
        assert 0.0 < apart < limit
    steps = read_log(out / names.LOG)["step"]
    assert (np.diff(steps) == steps[0]).all()


def test_other_random_numbers_follow_a_state(tmp_path: Path) -> None:
    # With the seed of the start, the noise of the first steps would come once more.
    out, changes = tmp_path / "a", {"ensemble": "nvt", "equilibration_ps": 0.0}
    with pytest.raises(KeyboardInterrupt):
        stop_at(500, signal.SIGINT, out, **changes)
    seeds = []
    for seed in (1, None):
        copy = shutil.copytree(out, tmp_path / str(seed))
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            where = "openmm_se3.simulation.run.environment"
            patch.setattr(where, lambda *_: {"platform": "Reference", "openmm": "9"})
            if seed is not None:
                where = "openmm_se3.simulation.checkpoint.set_seed"
                patch.setattr(where, lambda *_: None)
            run(copy, resume=True, **changes)
        seeds.append(content(copy)["velocities"])
    assert not np.array_equal(*seeds)


# Damage


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("suffix", [".chk", ".xml", ".json"])
@pytest.mark.parametrize("how", ["truncated", "one bit", "missing"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    tmp_path: Path,
    half: Path,
    suffix: str,
    how: str,
    uninterrupted: Callable[[str], dict[str, Any]],
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    older, newer = sorted((out / names.CHECKPOINTS).glob(f"*{suffix}"))
    damage(newer, how)
    if (suffix, how) == (".json", "missing"):
        # As if the kill had come before it was written.
        run(out, resume=True)
    else:
        with pytest.warns(UserWarning, match=f"{newer.stem} is damaged.*{older.stem}"):
            run(out, resume=True)
    (resumed,) = json.loads((out / names.RUN).read_text())["resumed"]
    assert f"production-{resumed['step']:012d}" == older.stem
    assert_same(content(out), uninterrupted("nve"))


def test_without_a_whole_checkpoint_it_is_refused(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    for path in (out / names.CHECKPOINTS).glob("*.chk"):
        damage(path, "truncated")
    with pytest.raises(ValueError, match=r"is damaged: .*; .* is damaged.*--overwrite"):
        run(out, resume=True)
    shutil.rmtree(out / names.CHECKPOINTS)
    with pytest.raises(ValueError, match="but no checkpoint to go on from"):
        run(out, resume=True)
    assert (out / names.TRAJECTORY).exists()


@pytest.mark.parametrize("name", [names.TRAJECTORY, names.VELOCITIES, names.LOG])
def test_a_record_that_lost_something_is_refused(
    tmp_path: Path, half: Path, name: str
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    damage(out / name, "truncated")
    with pytest.raises(ValueError, match=f"{name} has .* bytes, at the checkpoint"):
        run(out, resume=True)


def test_a_frame_cut_in_the_middle_is_written_again(
    tmp_path: Path, half: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    # What a kill leaves: OpenMM counts a DCD frame before it writes it.
    out = shutil.copytree(half, tmp_path / "a")
    for name, rest in ((names.TRAJECTORY, 60), (names.VELOCITIES, 30), (names.LOG, 9)):
        with open(out / name, "ab") as file:
            file.write(b"7" * rest)
    with open(out / names.TRAJECTORY, "r+b") as file:
        file.seek(8)
        count = int.from_bytes(file.read(4), "little")
        file.seek(8)
        file.write((count + 1).to_bytes(4, "little"))
    run(out, resume=True)
    assert_same(content(out), uninterrupted("nve"))


def test_only_two_checkpoints_and_nothing_half_written_are_kept(
    tmp_path: Path, half: Path
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    (out / names.CHECKPOINTS / ".production-000000000002.x1y2.chk").touch()
    run(out, resume=True)
    found = sorted(path.name for path in (out / names.CHECKPOINTS).iterdir())
    stems = {name.partition(".")[0] for name in found}
    assert len(stems) == 2
    assert found == sorted(f"{s}.{x}" for s in stems for x in ("chk", "json", "xml"))


# Folders


def test_resuming_what_is_not_there_starts_at_the_beginning(
    tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    run(tmp_path / "a", resume=True)
    assert_same(content(tmp_path / "a"), uninterrupted("nve"))


def test_two_sittings_cannot_share_a_folder(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    with RunFolder(out, results_allowed=True):
        with pytest.raises(FolderInUseError, match="another run"):
            run(out, resume=True)
    with pytest.raises(FolderInUseError, match="--resume goes on with it"):
        run(out)

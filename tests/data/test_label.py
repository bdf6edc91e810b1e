"""Labeling resumes, keeps results and sets failed frames aside."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cheap_labels import CHEAP, ROOT, WATER, Serial, waters, write_xyz
from click.testing import CliRunner
from distributed import LocalCluster
from worker_tasks import divide, square_or_die

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Frame, Structure
from openmm_se3.data.labeling import executors as executor
from openmm_se3.data.labeling import label as labeling
from openmm_se3.data.labeling.dft import (
    Label,
    LabelError,
    label_frame,
)
from openmm_se3.data.labeling.executors import (
    DaskExecutor,
    LocalExecutor,
    WorkerDiedError,
)
from openmm_se3.data.labeling.journal import Journal
from openmm_se3.data.labeling.label import label
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.files import LockedError, run_lock


def test_frame_that_does_not_converge_is_set_aside(tmp_path: Path) -> None:
    hydrogen = Structure(np.array([1, 1]), np.diag([0.0, 0.0, 0.74])[1:])
    level = dataclasses.replace(CHEAP, max_cycles=3)
    output = tmp_path / "out.h5"
    dataset, failures = label([hydrogen, *waters(1)], output, level, Serial())
    assert failures == [(1, "SCF not converged in 3 cycles")]
    assert json.loads((tmp_path / "out.h5.failed.json").read_text()) == [
        [1, "SCF not converged in 3 cycles"]
    ]
    assert [len(frame.numbers) for frame in read_hdf5(output).frames] == [2]
    with pytest.raises(LabelError, match="not converged in 1 cycles"):
        label_frame(
            WATER, waters(1)[0].positions, dataclasses.replace(CHEAP, max_cycles=1)
        )


def test_atoms_on_top_of_each_other_are_set_aside() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [0.96, 0.0, 0.01]])
    with pytest.raises(LabelError, match="atoms 1 and 2 are 0.010 A apart"):
        label_frame(WATER, positions, CHEAP)


def test_all_frames_fail(tmp_path: Path) -> None:
    level = dataclasses.replace(CHEAP, max_cycles=1)
    with pytest.raises(RuntimeError, match="no frame could be labeled"):
        label(waters(1), tmp_path / "out.h5", level, Serial())
    assert not (tmp_path / "out.h5").exists()


@pytest.fixture
def free_labels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the DFT by a number; returns a list that counts the calls."""
    calls: list[int] = []

    def fake(numbers: np.ndarray, positions: np.ndarray, _: LevelOfTheory) -> Label:
        calls.append(len(numbers))
        return Label(-2060.0 - float(positions[1, 0]), positions * 0.1)

    monkeypatch.setattr(labeling, "label_frame", fake)
    monkeypatch.setattr(labeling, "isolated_atom_energy", lambda z, _: -206.0 * z)
    monkeypatch.setattr(labeling, "check_level", lambda *_: None)
    return calls


def test_repeated_structure_is_computed_once(
    tmp_path: Path, free_labels: list[int]
) -> None:
    first, second = waters(2)
    dataset, _ = label([first, second, first], tmp_path / "out.h5", CHEAP, Serial())
    assert len(free_labels) == 2
    assert len(dataset.frames) == 3
    assert dataset.frames[0].energy == dataset.frames[2].energy


def test_existing_output_is_kept(tmp_path: Path, free_labels: list[int]) -> None:
    output = tmp_path / "out.h5"
    label(waters(2), output, CHEAP, Serial())
    before = output.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        label(waters(3), output, CHEAP, Serial())
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    label(waters(3), output, CHEAP, Serial(), overwrite=True)
    assert len(read_hdf5(output).frames) == 3


def test_killed_between_output_and_end_of_journal(
    tmp_path: Path, free_labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda _: None)
        label(waters(3), output, CHEAP, Serial())
    assert (tmp_path / "out.h5.journal").exists()
    label(waters(3), output, CHEAP, Serial())
    assert len(free_labels) == 3
    assert not (tmp_path / "out.h5.journal").exists()


def test_full_disk_loses_nothing(
    tmp_path: Path, free_labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(labeling, "write_hdf5", full)
        with pytest.raises(OSError, match="No space"):
            label(waters(3), output, CHEAP, Serial())
    found = []
    label(waters(3), output, CHEAP, Serial(), resumed=lambda *n: found.append(n))
    assert found == [(3, 3)]
    assert len(free_labels) == 3


def test_second_run_on_the_same_output_is_refused(
    tmp_path: Path, free_labels: list[int]
) -> None:
    output = tmp_path / "out.h5"
    lock = tmp_path / "out.h5.lock"
    with run_lock(lock):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            label(waters(1), output, CHEAP, Serial())
    assert not lock.exists()
    lock.write_text("process 1 on another machine")  # what a killed run leaves
    label(waters(1), output, CHEAP, Serial())
    assert not lock.exists()


def test_wrong_charge_names_the_frame(tmp_path: Path) -> None:
    level = dataclasses.replace(CHEAP, charge=1)
    with pytest.raises(ValueError, match="structure 0.*9 electrons"):
        label(waters(1), tmp_path / "out.h5", level, Serial())


def test_output_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        label(waters(1), tmp_path / "none/out.h5", CHEAP, Serial())


# The journal


def test_journal_drops_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.append("a", {"energy": 1.0})
        journal.append("b", {"energy": 0.1 + 0.2})
    content = path.read_bytes()
    for cut in range(len(content.splitlines(keepends=True)[0]), len(content)):
        path.write_bytes(content[:cut])
        with Journal(path) as journal:
            assert list(journal.records) == ["a"]
            journal.append("b", {"energy": 0.1 + 0.2})
        with Journal(path) as journal:
            assert journal.records["b"]["energy"] == 0.1 + 0.2
        assert path.read_bytes() == content


def test_foreign_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"key": "a"}\nhello\n')
    with pytest.raises(ValueError, match="line 2 is not a label record"):
        Journal(path)
    assert path.read_text() == '{"key": "a"}\nhello\n'


def test_killed_worker_is_an_error_that_keeps_results() -> None:
    results = []
    with pytest.raises(WorkerDiedError, match="memory"):
        for result in LocalExecutor(1).run(square_or_die, range(5)):
            results.append(result)
    assert results == [(0, 0), (1, 1), (2, 4)]
    assert "OPENBLAS_NUM_THREADS" not in os.environ


WAITING = """
import signal, time
from openmm_se3.data.labeling.executors import LocalExecutor
if __name__ == "__main__":
    signal.siginterrupt(signal.SIGINT, False)  # as RDKit leaves it
    print("waiting", flush=True)
    for _ in LocalExecutor(1).run(time.sleep, [60.0]):
        pass
"""


def test_ctrl_c_ends_a_wait_for_workers(tmp_path: Path) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(5.0)  # the worker has started
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20.0)  # of 55 that are left
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in errors


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalExecutor(0)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from openmm_se3.cli import main; main(prog_name='openmm-se3')",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def label_command(xyz: Path, output: Path) -> subprocess.Popen[str]:
    settings = ["--method", "pbe", "--basis", "sto-3g", "--grid-level", 0]
    return start("label", xyz, "-o", output, *settings, "--workers", 1)


def wait_for_lines(process: subprocess.Popen[str], journal: Path, lines: int) -> None:
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found


def wait_for_end(processes: set[int]) -> None:
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in processes):
            return
        time.sleep(0.02)
    raise AssertionError("workers outlive a killed run")


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.level == other.level
    assert one.self_energies == other.self_energies
    assert one.provenance == other.provenance
    assert len(one.frames) == len(other.frames)
    for a, b in zip(one.frames, other.frames, strict=True):
        for field in dataclasses.fields(Frame):
            left, right = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_array_equal(left, right, field.name)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_label_command_resumes_to_the_same_data(tmp_path: Path) -> None:
    xyz = write_xyz(tmp_path / "in.xyz", waters(12))
    whole, output = tmp_path / "whole/data.h5", tmp_path / "killed/data.h5"
    whole.parent.mkdir()
    output.parent.mkdir()
    process = label_command(xyz, whole)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "12 labels with pbe/sto-3g" in text

    journal = output.with_name("data.h5.journal")
    rng = random.Random(7)
    for lines in (0, rng.randint(3, 6)):
        process = label_command(xyz, output)
        wait_for_lines(process, journal, lines)
        time.sleep(rng.uniform(0.0, 0.2))
        workers = children(process.pid)
        process.kill()
        process.communicate()
        wait_for_end(workers)
        assert not output.exists()
    content = journal.read_bytes()
    journal.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 40])

    before = journal.read_bytes().count(b"\n")
    process = label_command(xyz, output)
    wait_for_lines(process, journal, before + 1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    assert process.returncode == 130, text
    assert "the same command goes on" in text
    assert "Traceback" not in text
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert before < len(keys) == len(set(keys)) < 12

    process = label_command(xyz, output)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert f"found {len(keys)} finished labels, {12 - len(keys)} to do" in text
    assert_same(read_hdf5(output), read_hdf5(whole))
    assert [path.name for path in output.parent.iterdir()] == ["data.h5"]
    stored = read_hdf5(output).provenance["label"]
    assert stored == (
        "openmm-se3 label in.xyz -o data.h5 --method pbe --basis sto-3g --grid-level 0"
    )


def test_labels_from_the_workers_of_a_dask_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xyz = write_xyz(tmp_path / "in.xyz", waters(4))
    settings = ["--method", "pbe", "--basis", "sto-3g", "--grid-level", "0"]
    here, there = tmp_path / "here.h5", tmp_path / "there.h5"
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        remote = ["--scheduler", cluster.scheduler_address]
        for output, where in ((here, ["--workers", "1"]), (there, remote)):
            command = ["label", str(xyz), "-o", str(output), *settings, *where]
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
        address = cluster.scheduler_address
        with pytest.raises(ZeroDivisionError):
            list(DaskExecutor(address).run(divide, [1, 0]))
        (tmp_path / "only_here.py").write_text("def double(x):\n    return 2 * x\n")
        monkeypatch.syspath_prepend(tmp_path)
        from only_here import double

        with pytest.raises(WorkerDiedError, match="only_here"):
            list(DaskExecutor(address).run(double, [1]))
    one, other = read_hdf5(here), read_hdf5(there)
    assert one.self_energies == pytest.approx(other.self_energies, abs=1e-9)
    for a, b in zip(one.frames, other.frames, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-8)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)
    monkeypatch.setattr(executor, "CONNECT_SECONDS", 1)
    with pytest.raises(WorkerDiedError, match="no Dask scheduler with workers at"):
        list(DaskExecutor("tcp://127.0.0.1:1").run(divide, [1]))

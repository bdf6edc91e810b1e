"""The script for GPUs, run without one."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

FOLDER = Path(__file__).parents[2] / "benchmarks/speed"
# Last: benchmarks/accuracy has a compare.py too, which other tests import.
sys.path += [str(FOLDER), str(FOLDER.parent), str(FOLDER.parent / "accuracy")]

import environments  # noqa: E402
import gpu  # noqa: E402
import gpu_routes  # noqa: E402
import job  # noqa: E402
from worker_process import WorkerError  # noqa: E402


@dataclasses.dataclass
class Peer:
    """A worker whose step takes 2 s, or that lacks its package."""

    name: str

    def answer(self) -> dict[str, Any]:
        if self.name == "tensornet":
            raise WorkerError("no such package")
        return {"network": "a network", "platform": "Reference", "steps": 1}

    def round(self) -> dict[str, Any]:
        return {"seconds": 2.0, "cpu_seconds": 2.0, "peak_memory_mib": 100.0}

    def end(self) -> None:
        pass


def test_the_script_for_gpus_runs_without_one(
    tmp_path: Path, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of it: forces, times, training, others."""
    monkeypatch.setattr(gpu, "MATRIX", 256)
    peers_folder = tmp_path / "peers"
    for name in ("mace", "tensornet"):
        (peers_folder / name).mkdir(parents=True)
    asked: list[dict[str, Any]] = []

    def start(_: Path, __: Path, what: job.Job, *___: object, **places: Any) -> Peer:
        asked.append({"platform": what.platform, **places})
        return Peer(what.contender)

    monkeypatch.setattr(gpu, "start_worker", start)
    out = tmp_path / "gpu.json"
    arguments = ["--model", str(smallest_model), "--out", str(out)]
    absent = CliRunner().invoke(gpu.main, [*arguments, "--platform", "OpenCM"])
    assert absent.exit_code == 1
    assert "there is no platform 'OpenCM' here" in absent.output
    options = ["--dry-run", "--peers", str(peers_folder)]
    done = CliRunner().invoke(gpu.main, [*arguments, *options])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    rows = {row["route"]: row for row in found["rows"]}
    kernels = {name: row for name, row in rows.items() if "triton" in name}
    assert len(kernels) == 2
    assert all("NVIDIA" in row["problem"] for row in kernels.values())
    for name in ("torchforce, torchscript", "pythonforce, torchscript"):
        row = rows[name]
        assert name in done.output
        assert row["fastest"] <= row["seconds"] <= row["slowest"]
        assert 0.0 < row["force_error"] < 1e-3
        assert row["share"] > 0.0 and row["expected"] > 0.0
        assert row["kernels"] > 50  # operations of the recorded graph
        assert len(row["kernel_table"]) == gpu_routes.LISTED
    assert [row["route"] for row in found["forces"]] == [*rows][:4]
    assert rows["MACE-OFF23-small"]["seconds"] == 2.0
    assert "no such package" in rows["TensorNet 128x2"]["problem"]
    assert asked[0] == {
        "platform": "Reference",
        "gpu": False,
        "packages": peers_folder / "mace",
    }
    ways = [(row["precision"], row["way"]) for row in found["training"]]
    assert ways == [("double", "PyTorch"), ("single", "PyTorch")]


def test_a_route_that_fails_stops_no_other(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = gpu_routes.prepare(str(smallest_model), 3, "Reference")
    broken, sound = (e for e in entries if e.route.implementation == "torchscript")

    def step(steps: int) -> None:
        raise RuntimeError("an illegal memory access")

    assert broken.stepper is not None
    monkeypatch.setattr(broken.stepper, "step", step)
    gpu_routes.measure(entries, rounds=1, seconds=0.0, cuda=False)
    assert broken.row["problem"] == "an illegal memory access"
    assert "seconds" not in broken.row and sound.row["seconds"] > 0.0


def test_what_was_found_is_kept_when_the_script_ends_early(
    tmp_path: Path, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MATRIX", 256)

    def measure(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measure", measure)
    out = tmp_path / "gpu.json"
    arguments = ["--model", str(smallest_model), "--dry-run", "--out", str(out)]
    assert CliRunner().invoke(gpu.main, arguments).exit_code == 1
    assert len(json.loads(out.read_text())["forces"]) == 4
    late = CliRunner().invoke(gpu.main, [*arguments, "--minutes", "0"])
    assert late.exit_code == 0, late.output
    left_out = json.loads(out.read_text())["left out"]
    assert [one["what"] for one in left_out] == [
        "forces of 3 atoms",
        "steps of 3 atoms",
        "training",
    ]


def test_wrong_forces_are_an_error(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MATRIX", 256)
    exact = gpu_routes.exact_forces
    monkeypatch.setattr(gpu_routes, "exact_forces", lambda *a: exact(*a) + 0.01)
    done = CliRunner().invoke(gpu.main, ["--model", str(smallest_model), "--dry-run"])
    assert done.exit_code == 1
    assert "are wrong" in done.output


def test_packages_of_a_peer_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/site")
    own = environments.variables(1, gpu=True, packages=tmp_path)
    root = str(environments.ROOT)
    assert own["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), root, "/site"]
    assert environments.variables(1)["PYTHONPATH"] == root


def test_arithmetic_of_a_network_grows_with_its_edges(smallest_model: Path) -> None:
    three, six = (
        gpu.arithmetic(str(smallest_model), *gpu.structure(atoms)) for atoms in (3, 6)
    )
    assert 6 / 3 < six / three <= (6 * 5) / (3 * 2)


def test_a_route_that_is_too_slow_misses_its_goal() -> None:
    row = {"atoms": 3, "route": "torchforce", "seconds": 5e-4, "fastest": 4e-4}
    row |= {"slowest": 6e-4, "kernels": 80.0, "share": 0.01, "force_error": 1e-5}
    broken = {"atoms": 3, "route": "pythonforce", "problem": "no plugin"}
    console = Console(record=True, width=gpu.WIDTH, file=io.StringIO())
    console.print(gpu.table([row, broken]))
    text = console.export_text()
    assert "0.3 missed" in text
    assert gpu.problem_lines([row, broken]) == ["3 atoms, pythonforce: no plugin"]

"""The benchmarks of training's throughput and of splits."""

from __future__ import annotations

import json
from pathlib import Path

import frames
import networks
import numpy as np
import pytest
import throughput
from click.testing import CliRunner

OURS = ("compiled", "pytorch", "full")


@pytest.mark.parametrize("task", throughput.TASKS)
def test_training_steps_of_our_networks(task: str) -> None:
    batch = networks.read_batch(2, 3)
    assert batch.graph.batch_num_nodes().tolist() == [9, 9]
    for name in OURS:
        job = networks.Job(name, task, 2, 3, 0.0, "")
        network, predict = networks.NETWORKS[name].make(batch, job)
        energies, forces = predict()
        assert energies.shape == batch.energies.shape
        assert (forces is None) == (task == "energy")
        networks.training_step(network, predict, batch)
        assert network.embedding.weight.grad.abs().sum() > 0.0


def test_throughput_of_our_networks(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    arguments = ["--batch", "2", "--molecules", "1", "--rounds", "1", "--seconds", "0"]
    arguments += ["--task", "forces", "--network", "pytorch", "--network", "full"]
    folder = ["--environments", str(tmp_path / "environments")]
    done = CliRunner().invoke(throughput.main, [*arguments, *folder, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "ours, full kernels" in done.output
    result = json.loads(out.read_text())
    assert [row["network"] for row in result["rows"]] == ["pytorch", "full"]
    for row in result["rows"]:
        assert row["frames_per_second"] == pytest.approx(2 / row["cpu_seconds"])
        assert row["times"] is None
    assert result["failed"] == []


def test_ratios_of_throughput_are_to_nvidia() -> None:
    rows = throughput.finished_rows(
        {
            "compiled": {"cpu_seconds": 0.5, "peak_memory_mib": 100.0},
            "nvidia": {"cpu_seconds": 2.0, "peak_memory_mib": 400.0},
        },
        "forces",
        batch=8,
    )
    assert [row["frames_per_second"] for row in rows] == [16.0, 4.0]
    assert [row["times"] for row in rows] == [4.0, 1.0]
    assert [row["memory_ratio"] for row in rows] == [0.25, 1.0]


def test_too_large_a_batch_is_named() -> None:
    with pytest.raises(ValueError, match="water6.h5 holds 243 frames only"):
        networks.read_batch(244, 6)


@pytest.mark.skipif(
    not frames.SHARED.is_dir(), reason="no ../shared/data on this machine"
)
def test_splits_of_the_shared_data() -> None:
    liquid = frames.read_liquid_water(frames.SHARED).frames
    groups: dict[str, set[str]] = {}
    for frame in liquid:
        groups.setdefault(frame.trajectory, set()).add(frame.split)
    assert all(len(splits) == 1 for splits in groups.values())
    counts = np.bincount(liquid.column("split"))
    assert counts.sum() == 281 and counts.min() >= 20
    dipeptides = frames.read_dipeptides(frames.SHARED).frames
    assert np.bincount(dipeptides.column("split")).tolist() == [445, 50, 55]
    sources = np.array([dipeptides.blocks[b].source for b in dipeptides.block])
    assert set(sources[dipeptides.column("split") == 2]) == {"val.xyz"}
    assert set(sources[dipeptides.column("split") != 2]) == {"train.xyz"}

"""Steps between frames, log rows and checkpoints of a run."""

from __future__ import annotations

import pytest

from openmm_se3.simulation import RunOptions


@pytest.mark.parametrize(
    ("options", "frame", "log", "checkpoint"),
    [
        ({"dt_fs": 0.5, "frame_fs": 2.0, "log_fs": 12.0}, 4, 24, 192),
        # Never further apart than asked for; the log follows the frames.
        ({"dt_fs": 0.4, "frame_fs": 2.1, "log_fs": 12.0}, 5, 30, 240),
        ({"dt_fs": 0.1, "frame_fs": 0.3, "log_fs": 0.3}, 3, 3, 999),
        ({"dt_fs": 1.0, "frame_fs": 0.5, "log_fs": 7.0}, 1, 7, 98),
        ({"dt_fs": 0.5, "frame_fs": 5.0, "log_fs": 1.0}, 10, 10, 200),
        # Of a short run there is one of each.
        ({"steps": 7, "dt_fs": 0.5, "frame_fs": 50.0, "log_fs": 90.0}, 7, 7, 203),
    ],
    ids=str,
)
def test_intervals(
    options: dict[str, float], frame: int, log: int, checkpoint: int
) -> None:
    made = RunOptions(**{"steps": 100_000, "checkpoint_ps": 0.1, **options})  # type: ignore[arg-type]
    assert made.frame_interval == frame
    assert made.log_interval == log
    assert made.checkpoint_interval == checkpoint
    assert log % frame == 0 and checkpoint % log == 0
    assert frame * made.dt_fs <= options["frame_fs"] + 1e-9 or frame == 1


def test_steps_of_the_equilibration() -> None:
    assert RunOptions(equilibration_ps=0.3, dt_fs=0.1).equilibration_steps == 3000
    assert RunOptions(equilibration_ps=0.0).equilibration_steps == 0

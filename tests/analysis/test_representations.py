"""What notebooks and the interpreter show of objects: a line, not arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recordings import WATER, recording
from rich.console import Console

from openmm_se3 import SE3Potential
from openmm_se3.analysis import analyze
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.training.progress import TrainingProgress


def test_objects_show_what_they_are_in_a_line(smallest_model: Path) -> None:
    potential = SE3Potential(str(smallest_model))
    frame = Frame(np.array([8, 1, 1]), WATER, 0.0, np.zeros((3, 3)), "run")
    given = recording(np.repeat(WATER[None], 3, axis=0))
    shown = {
        repr(potential): ("SE3Potential", "smallest", "single", "H, O"),
        repr(potential.model): ("ModelFile", "smallest", "weights"),
        repr(Frames.of([frame] * 5)): ("5 frames", "3"),
        repr(given): ("Recording", "3 frames", "times"),
        repr(analyze(given)): ("Analysis", "STABLE", "geometry"),
    }
    assert len(shown) == 5
    for text, words in shown.items():
        assert len(text) < 200 and "array" not in text and "\n" not in text
        for word in words:
            assert word in text, text


def test_a_notebook_gets_no_bar() -> None:
    assert TrainingProgress(Console(force_jupyter=True)).bar.disable
    assert not TrainingProgress(Console(force_terminal=True)).bar.disable

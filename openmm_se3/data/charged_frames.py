"""Frames with a charge or unpaired electrons, which a model here cannot tell apart."""

from __future__ import annotations

import numpy as np

from openmm_se3.data.dataset import formula
from openmm_se3.data.frames import Frames

CHARGED = ("refuse", "drop", "keep")  # what can be done with them


def is_charged(frames: Frames) -> np.ndarray:
    """Tell which frames have a charge or unpaired electrons [n_frames]."""
    return (frames.column("charge") != 0) | (frames.column("spin") != 0)


def refuse_charged(path: str, frames: Frames) -> None:
    """Refuse frames with a charge or unpaired electrons.

    Raises:
        ValueError: Names the first of them.
    """
    charged = np.flatnonzero(is_charged(frames))
    if not len(charged):
        return
    first = frames[int(charged[0])]
    raise ValueError(
        f"{path}: {len(charged)} of {len(frames)} frames have a charge or unpaired "
        f"electrons, the first {first.trajectory} ({formula(first.numbers)}, charge "
        f"{first.charge:+d}, {first.spin} unpaired); the model knows neither. "
        "charged: drop (--charged drop) leaves them out, charged: keep trains on them "
        "as if they were neutral, which is right only if no composition has two charges"
    )

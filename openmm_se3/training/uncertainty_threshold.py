"""From which deviation on the frames of a committee are not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from openmm_se3.data.frames import Frames
from openmm_se3.data.load import read_sources
from openmm_se3.data.splits import TRAIN, VALIDATION
from openmm_se3.deviation import Deviation
from openmm_se3.model_file import ModelFile
from openmm_se3.nn.committee import members_of
from openmm_se3.torch_state import usual_torch
from openmm_se3.training.batches import FrameGraphs
from openmm_se3.training.checkpoint import identity
from openmm_se3.training.config_file import read_config
from openmm_se3.training.metrics import predict

CONFIG, SPLIT = "config.yaml", "split.npy"  # of a run
# The threshold is FACTOR times the deviation that this part of the frames stays below.
PART, FACTOR = 0.99, 2.0
MOST_FRAMES = 1000  # that a threshold is measured on


@usual_torch()
def deviations(
    model: ModelFile, frames: Frames, dtype: torch.dtype = torch.float32
) -> np.ndarray:
    """Return the largest force deviation of an atom in each frame [n_frames], eV/A.

    Args:
        model: A committee.
        frames: Frames; they need no labels.
        dtype: Precision of the networks.

    Raises:
        ValueError: There are no frames, or they hold an element that the model lacks.
    """
    if not len(frames):
        raise ValueError("there are no frames to measure deviations on")
    graphs = FrameGraphs(
        frames,
        model.config.elements,
        model.config.cutoff,
        model.self_energies,
        np.ones(len(frames)),
    )
    members = members_of(model.network(dtype))
    forces = [predict(member, graphs).forces for member in members]
    of_atoms = Deviation.of([0.0] * len(forces), forces).forces_std
    ends = np.cumsum(graphs.n_atoms)
    return np.array([part.max() for part in np.split(of_atoms, ends[:-1])])


def uncertainty_threshold(model: ModelFile, frames: Frames) -> float:
    """Return the deviation above which frames are not trusted, eV/A.

    It is twice the deviation that 99 percent of held-out frames stay below.

    Args:
        model: A committee.
        frames: Frames like those of its training that no member was trained on.
    """
    if len(frames) > MOST_FRAMES:
        chosen = np.random.default_rng(0).permutation(len(frames))[:MOST_FRAMES]
        frames = frames[np.sort(chosen)]
    return FACTOR * float(np.quantile(deviations(model, frames), PART))


def validation_frames(runs: Sequence[Path]) -> Frames | None:
    """Return frames that the runs of a committee validated on and none trained on.

    Args:
        runs: Folders of training runs.

    Returns:
        The frames; None where the runs had different data, where their files are not
        there any more or have changed, or where there are no such frames.
    """
    try:
        configs = [read_config(run / CONFIG) for run in runs]
        data = {identity(config)["data"]["sha256"] for config in configs}
        splits = np.stack([np.load(run / SPLIT) for run in runs])
        frames = read_sources(configs[0].data.files, for_model=True).frames
    except (OSError, ValueError):
        return None
    if len(data) > 1 or splits.shape[1] != len(frames):
        return None
    held_out = (splits != TRAIN).all(axis=0) & (splits == VALIDATION).any(axis=0)
    return frames[np.flatnonzero(held_out)] if held_out.any() else None

"""Errors of a finished model on any labelled frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from openmm_se3.files import atomic_write
from openmm_se3.modelfile import ModelFile
from openmm_se3.reference.frames import Frames
from openmm_se3.training.data import FrameGraphs
from openmm_se3.training.metrics import (
    Predictions,
    error_table,
    frame_groups,
    predict,
)
from openmm_se3.training.report import error_report, plot_parity, write_errors


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's predictions for labelled frames, and their errors by group."""

    graphs: FrameGraphs
    predictions: Predictions
    errors: dict[str, dict[str, float]]


def evaluate_model(
    model: ModelFile, frames: Frames, dtype: torch.dtype = torch.float32
) -> Evaluation:
    """Return the errors of a model.

    Args:
        model: The model.
        frames: Labelled frames.
        dtype: Precision of the network.

    Raises:
        ValueError: There are no frames, or they hold an element that the model lacks.
    """
    if not len(frames):
        raise ValueError("there are no frames to evaluate on")
    graphs = FrameGraphs(
        frames,
        model.config.elements,
        model.config.cutoff,
        model.self_energies,
        np.ones(len(frames)),
    )
    predictions = predict(model.network(dtype), graphs)
    return Evaluation(
        graphs, predictions, error_table(graphs, predictions, frame_groups(frames))
    )


def write_evaluation(folder: Path, name: str, evaluation: Evaluation) -> None:
    """Write errors, report and parity plot into a folder.

    Args:
        folder: The folder; made if missing.
        name: Name of the frames in the report.
        evaluation: What to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = {name: evaluation.errors}
    write_errors(folder / "errors.json", errors)
    with atomic_write(folder / "report.md") as temporary:
        temporary.write_text(error_report(errors))
    plot_parity(folder / "parity.png", evaluation.graphs, evaluation.predictions)

"""Errors of a finished model on any labeled frames."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_se3.config import from_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frames
from openmm_se3.data.load import Source, hash_source, read_sources
from openmm_se3.data.splits import SplitConfig
from openmm_se3.files import atomic_write
from openmm_se3.model_file import ModelFile
from openmm_se3.torch_state import usual_torch
from openmm_se3.training.batches import FrameGraphs
from openmm_se3.training.metrics import (
    Predictions,
    error_table,
    frame_groups,
    predict,
)
from openmm_se3.training.prepare import divide
from openmm_se3.training.report import error_report, plot_parity, write_errors

# Options that do not change what is read.
NAMES_ONLY = {"format", "level"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model's predictions for labeled frames, and their errors by group."""

    graphs: FrameGraphs
    predictions: Predictions
    errors: dict[str, dict[str, float]]


def read_as_trained(model: ModelFile, sources: Sequence[Source]) -> Dataset:
    """Return data read and divided as a model's run did it.

    A run may make its own splits instead of keeping those of the files: a test frame
    of a file may then be one that the model has learned.  Files that the run did not
    have are read as they are.

    Args:
        model: The model.
        sources: Files, and how to read them.  Options of the run that are not given are
            added: which split a file is in, units, whether its energies count.  Only
            the file of groups has to be named again.

    Raises:
        ValueError: A file is to be read in another way than in the run, or some of the
            files were divided by the run together with files that are not given here.
    """
    trained, name = model.metadata["training_data"], model.metadata["name"]
    before = [digest for _, digest in trained["files"]]
    given = [hash_source(Path(source.path)) for source in sources]
    # Models of older versions do not say it.
    options = dict(zip(before, trained.get("options", []), strict=False))
    if trained.get("differ") and not set(before).isdisjoint(given):
        raise ValueError(
            f"the members of {name!r} were trained on different frames of these files, "
            "so that they hold out none in common: give frames that no member has "
            "seen, or --split all"
        )
    dataset = read_sources(
        [
            _as_trained(source, options[digest], name) if digest in options else source
            for source, digest in zip(sources, given, strict=True)
        ],
        for_model=True,
    )
    rule = trained.get("split")
    # A file that was put into one split as a whole is in it whatever else is given.
    whole = {digest for digest in before if "split" in options.get(digest, {})}
    divided = [digest for digest in before if digest not in whole]
    if rule is None or rule["by"] == "source" or set(divided).isdisjoint(given):
        return dataset
    if [digest for digest in given if digest not in whole] != divided:
        names = ", ".join(
            file for file, digest in trained["files"] if digest in divided
        )
        raise ValueError(
            f"the model {name!r} was trained on some of these frames, divided by "
            f"{rule['by']} over all of {names}; give these files, in this order, or "
            "--split all"
        )
    # Runs of older versions did not stratify.
    rule = {"stratify": False, **rule}
    return divide(dataset, from_dict(SplitConfig, rule, "split"))


def _as_trained(source: Source, then: dict[str, Any], name: str) -> Source:
    """Return a source with the options that a model's run read it with."""
    now = source.options()
    for key in now.keys() - NAMES_ONLY:
        if then.get(key) != now[key]:
            raise ValueError(
                f"the model {name!r} was trained on {source.path} with {key} "
                f"{then.get(key, 'not given')}, not {now[key]}; its splits are of "
                "frames read like that"
            )
    if "groups" in then and "groups" not in now:
        raise ValueError(
            f"the model {name!r} was trained on {source.path} with a file of groups; "
            "name it with --groups, or use --split all"
        )
    missing = {key: then[key] for key in then.keys() - now.keys()}
    return dataclasses.replace(source, **missing)


@usual_torch()
def evaluate_model(
    model: ModelFile, frames: Frames, dtype: torch.dtype = torch.float32
) -> Evaluation:
    """Return the errors of a model.

    Args:
        model: The model.
        frames: Labeled frames.
        dtype: Precision of the network.

    Raises:
        ValueError: There are no frames, or they hold an element that the model lacks.
    """
    if not len(frames):
        raise ValueError("there are no frames to evaluate on")
    without_box = np.array([block.box is None for block in frames.blocks])
    free = int(without_box[frames.block].sum())
    if free and model.boxes_only:
        warnings.warn(
            f"the model {model.metadata['name']!r} has seen periodic boxes only, and "
            f"{free:,} of these frames have none: they are outside its data",
            stacklevel=2,
        )
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
    plot_parity(folder / "parity.png", evaluation.graphs, evaluation.predictions, name)

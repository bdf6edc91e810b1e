"""Errors of a finished model on any labelled frames."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from openmm_se3.config import from_dict
from openmm_se3.files import atomic_write
from openmm_se3.modelfile import ModelFile
from openmm_se3.reference.dataset import Dataset
from openmm_se3.reference.frames import Frames
from openmm_se3.reference.sources import Source, hash_source
from openmm_se3.reference.splits import SplitConfig
from openmm_se3.training.data import FrameGraphs
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
    """A model's predictions for labelled frames, and their errors by group."""

    graphs: FrameGraphs
    predictions: Predictions
    errors: dict[str, dict[str, float]]


def sources_of_run(model: ModelFile, sources: Sequence[Source]) -> list[Source]:
    """Return sources read as a model's run read them.

    Options of the run that are not given are added: which split a file is in, units,
    whether its energies count.  Only the file of groups has to be named again.

    Args:
        model: The model.
        sources: Files, and how to read them.

    Raises:
        ValueError: A file is to be read in another way than in the run.
    """
    trained = model.metadata["training_data"]
    digests = [digest for _, digest in trained["files"]]
    # Models of older versions do not say it.
    known = dict(zip(digests, trained.get("options", []), strict=False))
    as_trained = []
    for source in sources:
        then, now = known.get(hash_source(Path(source.path))), source.options()
        if then is None:
            as_trained.append(source)
            continue
        for key in now.keys() - NAMES_ONLY:
            if then.get(key) != now[key]:
                raise ValueError(
                    f"the model {model.metadata['name']!r} was trained on "
                    f"{source.path} with {key} {then.get(key, 'not given')}, not "
                    f"{now[key]}; its splits are of frames read like that"
                )
        if "groups" in then and "groups" not in now:
            raise ValueError(
                f"the model {model.metadata['name']!r} was trained on {source.path} "
                "with a file of groups; name it with --groups, or use --split all"
            )
        missing = {key: then[key] for key in then.keys() - now.keys()}
        as_trained.append(dataclasses.replace(source, **missing))
    return as_trained


def with_splits_of_run(
    dataset: Dataset, model: ModelFile, files: Sequence[Path]
) -> Dataset:
    """Return data with the splits that a model was trained with.

    A run may make its own splits instead of keeping those of the files: a test frame
    of a file may then be one that the model has learned.

    Args:
        dataset: The data.
        model: The model.
        files: Where the data are from, in order.

    Raises:
        ValueError: Some of the files were divided in another way by the model's run,
            together with files that are not given here.
    """
    trained = model.metadata["training_data"]
    rule = trained.get("split")
    if rule is None or rule["by"] == "source":
        return dataset
    before = [digest for _, digest in trained["files"]]
    given = [hash_source(path) for path in files]
    if set(before).isdisjoint(given):
        return dataset
    if given != before:
        names = ", ".join(name for name, _ in trained["files"])
        raise ValueError(
            f"the model {model.metadata['name']!r} was trained on some of these "
            f"frames, divided by {rule['by']} over all of {names}; give these files, "
            "in this order, or --split all"
        )
    return divide(dataset, from_dict(SplitConfig, rule))


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
    plot_parity(folder / "parity.png", evaluation.graphs, evaluation.predictions)

"""Errors of a model on held-out labels: what the other checks do not look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.model_file import ModelFile
from openmm_se3.units import EV_TO_KCAL_PER_MOL
from openmm_se3.validation.check import Check

if TYPE_CHECKING:
    from openmm_se3.data.frames import Frames
    from openmm_se3.data.load import Source

GROUP = "accuracy"
SHOWN = {
    "force_mae": ("force error, mean absolute", "kcal/mol/A"),
    "force_rmse": ("force error, root mean square", "kcal/mol/A"),
    "force_mae_worst": ("force error of the worst frame", "kcal/mol/A"),
    "energy_mae_centered": ("energy error, mean removed", "kcal/mol"),
}


def held_out(model: ModelFile, sources: Sequence[Source]) -> tuple[Frames, str]:
    """Return the frames that a model was not trained on, and what they are.

    Args:
        model: The model.
        sources: Files of labels.  Of those that its run had, the test frames are held
            out; of each other, those that the file calls test, or all.

    Raises:
        ValueError: There are none.
    """
    from openmm_se3.data.frames import SPLITS
    from openmm_se3.data.load import hash_source
    from openmm_se3.training.evaluation import read_as_trained

    dataset = read_as_trained(model, sources)
    frames = dataset.frames
    test = frames.column("split") == SPLITS.index("test")
    file = np.array([block.source for block in frames.blocks])[frames.block]
    seen = {digest for _, digest in model.metadata["training_data"]["files"]}
    chosen = test.copy()
    for source in sources:
        path = Path(source.path)
        own = file == path.name
        if hash_source(path) not in seen and not test[own].any():
            chosen |= own
    if not chosen.any():
        raise ValueError(
            "the model was trained on these labels, which hold no test frames: give a "
            "file of frames that it has not seen"
        )
    if test[chosen].all():
        return frames[chosen], "test frames"
    of_others = "test frames and frames of other files" if test.any() else "frames"
    return frames[chosen], of_others


def accuracy_checks(
    model: ModelFile, frames: Frames, what: str, limit: float | None
) -> list[Check]:
    """Compare a model with labels.

    Args:
        model: The model.
        frames: Labeled frames that it has not seen.
        what: What they are, for the notes.
        limit: Largest mean absolute error of force components that passes, kcal/mol/A;
            None takes that of a model without forces.
    """
    from openmm_se3.training.evaluation import evaluate_model
    from openmm_se3.training.metrics import reference_forces

    evaluation = evaluate_model(model, frames)
    errors = evaluation.errors["all"]
    forces = reference_forces(evaluation.graphs)
    usual = float(np.nanmean(np.abs(forces))) * EV_TO_KCAL_PER_MOL
    checks = []
    for key, (name, unit) in SHOWN.items():
        if key not in errors:
            continue
        is_limited = key == "force_mae"
        note = f"{len(frames)} {what}"
        if is_limited:
            note += f"; force components are {usual:.3g} on average"
        checks.append(
            Check(
                GROUP,
                name,
                errors[key],
                unit,
                high=(usual if limit is None else limit) if is_limited else None,
                note=note,
            )
        )
    return checks


def without_labels() -> Check:
    """Return what stands in the report where no labels were given."""
    return Check(
        GROUP, "held-out labels", None, note="give --labels FILE, or --relabel"
    )

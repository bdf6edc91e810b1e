"""``report.html`` of a training run: errors, learning curves, parity, settings."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.config import to_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.elements import symbols_of
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.report.page import (
    Page,
    caption,
    figure,
    repeat,
    table,
    viewer,
)
from openmm_se3.training.batches import FrameGraphs
from openmm_se3.training.config import RunConfig
from openmm_se3.training.metrics import Predictions, reference_forces
from openmm_se3.training.prepare import count_splits, list_energies
from openmm_se3.training.report import (
    HISTORY,
    Errors,
    draw_history,
    draw_parity,
    error_rows,
)
from openmm_se3.units import EV_TO_KCAL_PER_MOL
from openmm_se3.version import __version__

WORST = 12  # frames shown


def write_page(
    path: Path,
    config: RunConfig,
    dataset: Dataset,
    checkpoint: Mapping[str, Any],
    errors: Errors,
    shown: tuple[FrameGraphs, Predictions, str],
) -> None:
    """Write the page of a run that is finished.

    Args:
        path: The file, in the folder of the run.
        config: The run.
        dataset: Its data.
        checkpoint: Its best weights, which were measured.
        errors: Their errors by split and group.
        shown: Labels and predictions of some frames, and what to call these.
    """
    folder = path.parent
    history = _history(folder / HISTORY)
    page = Page(f"Training of {folder.resolve().name}", f"openmm-se3 {__version__}")
    _banner(page, config, checkpoint, history, errors)
    page.section("Learning curves", figure(draw_history(history)))
    page.section(f"Errors of {shown[2]}", figure(draw_parity(*shown)))
    page.section("Worst frames", *_worst(*shown), columns=True)
    explained, (header, *rows) = error_rows(errors)
    page.section("All errors", table(header, rows), caption(explained))
    page.section("What was trained", table(["", ""], _facts(config, dataset, history)))
    command = shlex.join(
        ["openmm-se3", "train", f"{folder.resolve().name}/config.yaml"]
    )
    note = f"Seed: {config.training.seed}."
    page.section("Repeat it", *repeat(command, checkpoint["versions"], note))
    page.write(path)


def _banner(
    page: Page,
    config: RunConfig,
    checkpoint: Mapping[str, Any],
    history: list[dict[str, float]],
    errors: Errors,
) -> None:
    split = list(errors)[-1]  # test, if there is one
    values = errors[split]["all"]
    told = [
        f"{name} {values[key]:.3g} {unit}"
        for key, name, unit in (
            ("force_mae", "force MAE", "kcal/mol/Å"),
            ("energy_mae", "energy MAE", "kcal/mol"),
        )
        if key in values
    ]
    steps = config.training.steps
    last = int(history[-1]["step"])
    lines = [f"{split.capitalize()} frames: {int(values['frames']):,}"]
    lines.append(
        f"best validation after {checkpoint['step']:,} of {steps:,} steps"
        + ("" if last >= steps else f"; stopped early after {last:,}")
    )
    if split != "test":
        lines.append("there are no test frames: these chose the weights")
    skipped = int(history[-1]["skipped"])
    if skipped:
        lines.append(f"{skipped} steps were skipped, their loss was not finite")
    page.banner(", ".join(told) or "Trained", lines, "warn" if skipped else "")


def _worst(graphs: FrameGraphs, predictions: Predictions, name: str) -> list[str]:
    """Return the frames with the largest force errors, of the composition of most."""
    difference = np.abs(predictions.forces - reference_forces(graphs)).mean(axis=1)
    ends = np.cumsum(graphs.n_atoms)
    error = np.array(
        [
            EV_TO_KCAL_PER_MOL * difference[end - n : end].mean()
            for n, end in zip(graphs.n_atoms, ends, strict=True)
        ]
    )
    if not np.isfinite(error).any():
        return []
    order = np.argsort(-np.nan_to_num(error, nan=-1.0))
    first = graphs.frames[int(order[0])]
    alike = [
        int(index)
        for index in order
        if np.array_equal(graphs.frames[int(index)].numbers, first.numbers)
        and np.isfinite(error[index])
    ][:WORST]
    symbols = symbols_of(first.numbers)
    names = [graphs.frames[index].trajectory for index in alike]
    movie = viewer(
        symbols,
        bonds_by_distance(symbols, first.positions, first.box),
        np.stack([graphs.frames[index].positions for index in alike]),
        [f"{rank + 1}: {error[index]:.2f}" for rank, index in enumerate(alike)],
        align=first.box is None,
    )
    rows = [
        [str(rank + 1), f"{error[index]:.2f}", each]
        for rank, (index, each) in enumerate(zip(alike, names, strict=True))
    ]
    return [
        movie + caption("Drag to turn, wheel to zoom."),
        table(["", "force MAE, kcal/mol/Å", "frame"], rows)
        + caption(f"The worst of the {name}, and the next of the same atoms."),
    ]


def _facts(
    config: RunConfig, dataset: Dataset, history: list[dict[str, float]]
) -> list[tuple[str, str]]:
    training, model = config.training, config.model
    files = ", ".join(Path(source.path).name for source in config.data.files)
    minutes = history[-1]["seconds"] / 60.0
    rows = [
        ("data", files),
        ("level of theory", str(dataset.level)),
        ("frames", f"{count_splits(dataset.frames)}; by {config.data.split.by}"),
        ("isolated atoms, eV", list_energies(dataset.self_energies)),
        ("elements", ", ".join(model.elements)),
        (
            "network",
            f"{model.layers} layers, {model.channels} channels, degrees 0 to "
            f"{model.lmax}, {model.heads} heads, cutoff {model.cutoff:g} Å",
        ),
        (
            "training",
            f"{training.steps:,} steps of {training.batch_size:,} "
            f"{training.batch_unit}, {minutes:.1f} min",
        ),
    ]
    if training.initial is not None:
        rows.append(("initial weights", "/".join(Path(training.initial).parts[-2:])))
    default = to_dict(type(training)())
    # Fields added later are in neither where they have their default.
    changed = {k: v for k, v in to_dict(training).items() if v != default.get(k)}
    changed.pop("initial", None)
    if changed:
        listed = ", ".join(f"{key}: {value}" for key, value in changed.items())
        rows.append(("other settings", listed))
    return rows


def _history(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]

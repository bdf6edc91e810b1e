"""What a run leaves behind: history, error table and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.data.dataset import Dataset
from openmm_se3.files import atomic_write
from openmm_se3.training.batches import FrameGraphs
from openmm_se3.training.config import RunConfig
from openmm_se3.training.metrics import (
    DIRECT_UNITS,
    UNITS,
    Predictions,
    reference_forces,
)
from openmm_se3.training.prepare import count_splits, list_energies
from openmm_se3.units import EV_TO_KCAL_PER_MOL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Errors = Mapping[str, Mapping[str, Mapping[str, float]]]

CONFIG, HISTORY = "config.yaml", "history.csv"
CURVE, PARITY = "learning-curve.png", "parity.png"

CAPTION = (
    "Energies in kcal/mol (centered: the group's mean error removed, which a few "
    "frames far out may make worse), forces in kcal/mol/A (worst: the frame with the "
    "largest MAE)."
)
DIRECT_CAPTION = (
    "  Direct forces stand beside the conservative ones; estimate: rank correlation, "
    "over atoms, of the difference of the two with the error of the latter."
)
COLUMNS = {
    "energy_mae": "E MAE",
    "energy_mae_centered": "centered",
    "energy_mae_per_atom": "per atom",
    "energy_rmse": "E RMSE",
    "force_mae": "F MAE",
    "force_rmse": "F RMSE",
    "force_mae_worst": "worst F",
    "direct_force_mae": "direct F MAE",
    "direct_force_rmse": "direct F RMSE",
    "estimate_correlation": "estimate",
}
# Panels of the learning curves: label, and quantities of the history with their names.
PANELS = {
    "loss (eV²/Å² and eV²)": {
        "train_loss": "training",
        "validation_loss": "validation",
    },
    "energy error (kcal/mol)": {"energy_mae": "MAE", "energy_rmse": "RMSE"},
    "force error (kcal/mol/Å)": {
        "force_mae": "MAE",
        "force_rmse": "RMSE",
        "direct_force_mae": "direct MAE",
    },
}


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the history as CSV, one row a validation."""
    if not history:
        return
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def write_errors(path: Path, errors: Errors) -> None:
    """Write the errors by split and group as JSON, with their units."""
    content = {"units": {**UNITS, **DIRECT_UNITS}, **errors}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def run_report(
    config: RunConfig,
    dataset: Dataset,
    errors: dict[str, dict[str, dict[str, float]]],
) -> str:
    """Return what was trained, on what, and its errors, in Markdown."""
    training = config.training
    files = ", ".join(Path(source.path).name for source in config.data.files)
    averaged = "averaged weights" if training.ema_decay else "weights"
    return f"""# Training report

| | |
|---|---|
| data | {files} |
| level of theory | {dataset.level} |
| frames | {count_splits(dataset.frames)}; divided by {config.data.split.by} |
| isolated atoms, eV | {list_energies(dataset.self_energies)} |
| training | {training.steps:,} steps of {training.batch_size:,} {training.batch_unit} |
| settings | [{CONFIG}]({CONFIG}) |

## Errors

Of the {averaged} of the best validation.  {error_report(errors)}
![Learning curves]({CURVE})

![Predicted against reference values of the last of these splits]({PARITY})
"""


def error_report(errors: Errors, groups: bool = True) -> str:
    """Return the errors by split and group as a table in Markdown, aligned.

    Args:
        errors: Errors by split and group.
        groups: Show all groups, not only "all".
    """
    caption, table = error_rows(errors, groups)
    return f"{caption}\n\n{markdown(table, left=2)}"


def error_rows(errors: Errors, groups: bool = True) -> tuple[str, list[list[str]]]:
    """Return what the columns of a table of errors are, and its rows, headings first.

    Args:
        errors: Errors by split and group.
        groups: Show all groups, not only "all".
    """
    rows = [
        (split, name, row)
        for split, by_group in errors.items()
        for name, row in by_group.items()
        if groups or name == "all"
    ]
    columns = {k: c for k, c in COLUMNS.items() if any(k in row for *_, row in rows)}
    direct = DIRECT_CAPTION if "direct_force_mae" in columns else ""
    table = [["split", "group", "frames", *columns.values()]]
    for split, name, row in rows:
        numbers = [f"{row[key]:.4f}" if key in row else "" for key in columns]
        table.append([split, name, f"{row['frames']:.0f}", *numbers])
    return f"{CAPTION}{direct}", table


def markdown(table: Sequence[Sequence[str]], left: int) -> str:
    """Return a table in Markdown whose columns are aligned also as plain text.

    Args:
        table: Rows of cells, the headings first.
        left: How many columns are texts, on the left.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for row in [table[0], rule, *table[1:]]:
        cells = [f"{cell:<{w}}" for cell, w in zip(row[:left], widths, strict=False)]
        cells += [
            f"{cell:>{w}}" for cell, w in zip(row[left:], widths[left:], strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def plot_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the figure of the learning curves."""
    from openmm_se3.plot_style import save

    save(path, draw_history(history))


def draw_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss, energy errors and force errors over the steps."""
    import matplotlib
    from matplotlib.figure import Figure

    from openmm_se3.plot_style import STYLE, few_ticks, legend_above, logarithmic

    steps = [row["step"] for row in history]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        for axes, (label, curves) in zip(
            figure.subplots(1, len(PANELS)), PANELS.items(), strict=True
        ):
            shown = {name: key for key, name in curves.items() if key in history[0]}
            values = {n: [row[key] for row in history] for n, key in shown.items()}
            for name, curve in values.items():
                axes.plot(steps, curve, ".-", markersize=3, linewidth=1.2, label=name)
            axes.set(xlabel="step", ylabel=label, xlim=(0, None))
            few_ticks(axes.xaxis)
            # The first mean of the training loss holds the random start.
            limits = (c[1:] if name == "training" else c for name, c in values.items())
            logarithmic(axes, (value for curve in limits for value in curve))
            legend_above(axes, len(values))
    return figure


def plot_parity(
    path: Path, graphs: FrameGraphs, predictions: Predictions, name: str = ""
) -> None:
    """Write the figure of predicted against reference values."""
    from openmm_se3.plot_style import save

    save(path, draw_parity(graphs, predictions, name))


def draw_parity(
    graphs: FrameGraphs, predictions: Predictions, name: str = ""
) -> Figure:
    """Draw predicted against reference energies and force components.

    Args:
        graphs: The labels.
        predictions: Predictions for the same frames.
        name: What to call the frames.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from openmm_se3.plot_style import STYLE

    labels = reference_forces(graphs)
    pairs = [
        (
            "energy against isolated atoms",
            "kcal/mol per atom",
            graphs.energies.numpy() / graphs.n_atoms,
            predictions.energies / graphs.n_atoms,
        ),
        ("force component", "kcal/mol/Å", labels, predictions.forces),
    ]
    if predictions.direct_forces is not None:
        forces = labels, predictions.direct_forces
        pairs.append(("component of the direct force", "kcal/mol/Å", *forces))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(pairs), 4.4), layout="constrained")
        for axes, pair in zip(figure.subplots(1, len(pairs)), pairs, strict=True):
            _parity(axes, *pair)
        figure.suptitle(name)
    return figure


def _parity(
    axes: Axes, quantity: str, unit: str, reference: np.ndarray, predicted: np.ndarray
) -> None:
    """Draw one panel: the same scale on both axes, and the line of no error."""
    from openmm_se3.plot_style import BLUE, GRAY, few_ticks

    known = np.isfinite(reference)
    x, y = EV_TO_KCAL_PER_MOL * reference[known], EV_TO_KCAL_PER_MOL * predicted[known]
    axes.set(xlabel=f"reference ({unit})", ylabel=f"model ({unit})", title=quantity)
    axes.set_aspect("equal")
    if not len(x):
        axes.text(0.5, 0.5, "no labels", ha="center", transform=axes.transAxes)
        return
    axes.plot(x, y, ".", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.04 * (high - low) or 1.0
    limits = low - margin, high + margin
    axes.plot(limits, limits, color=GRAY, linewidth=0.8, zorder=0)
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        few_ticks(axis)
    axes.text(
        0.03,
        0.97,
        f"MAE {np.abs(x - y).mean():.3g} {unit}",
        transform=axes.transAxes,
        va="top",
        fontsize=9,
    )

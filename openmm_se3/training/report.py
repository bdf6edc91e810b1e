"""What a run leaves behind: history, error table and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.files import atomic_write
from openmm_se3.training.data import FrameGraphs
from openmm_se3.training.metrics import (
    DIRECT_UNITS,
    UNITS,
    Predictions,
    reference_forces,
)
from openmm_se3.units import EV_TO_KCAL_PER_MOL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Errors = Mapping[str, Mapping[str, Mapping[str, float]]]

HISTORY = "history.csv"

CAPTION = (
    "Energies in kcal/mol (centred: the group's mean error removed, which a few frames "
    "far out may make worse), forces in kcal/mol/A (worst: the frame with the largest "
    "MAE)."
)
DIRECT_CAPTION = (
    "  Direct forces stand beside the conservative ones; estimate: rank correlation, "
    "over atoms, of the difference of the two with the error of the latter."
)
TRAINED = "Errors of the averaged weights of the best validation.  "
COLUMNS = {
    "energy_mae": "E MAE",
    "energy_mae_centred": "centred",
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
    "loss (eV²/Å²)": {"train_loss": "training", "validation_loss": "validation"},
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


def error_report(errors: Errors, introduction: str = "") -> str:
    """Return the errors by split and group as a table in Markdown."""
    rows = [row for groups in errors.values() for row in groups.values()]
    columns = {k: name for k, name in COLUMNS.items() if any(k in row for row in rows)}
    direct = DIRECT_CAPTION if "direct_force_mae" in columns else ""
    lines = [
        introduction + CAPTION + direct,
        "",
        "| split | group | frames | " + " | ".join(columns.values()) + " |",
        "|---|---|--:|" + "--:|" * len(columns),
    ]
    for split, groups in errors.items():
        for group, row in groups.items():
            numbers = " | ".join(
                f"{row[key]:.4f}" if key in row else "" for key in columns
            )
            lines.append(f"| {split} | {group} | {row['frames']:.0f} | {numbers} |")
    return "\n".join(lines) + "\n"


def plot_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw loss, energy errors and force errors over the steps."""
    import matplotlib
    from matplotlib.figure import Figure

    from openmm_se3.plot_style import STYLE, few_ticks, legend_above, logarithmic, save

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
        save(path, figure)


def plot_parity(path: Path, graphs: FrameGraphs, predictions: Predictions) -> None:
    """Draw predicted against reference energies and force components."""
    import matplotlib
    from matplotlib.figure import Figure

    from openmm_se3.plot_style import STYLE, save

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
        save(path, figure)


def _parity(
    axes: Axes, quantity: str, unit: str, reference: np.ndarray, predicted: np.ndarray
) -> None:
    """Draw one panel: the same scale on both axes, and the line of no error."""
    from openmm_se3.plot_style import BLUE, GREY, few_ticks

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
    axes.plot(limits, limits, color=GREY, linewidth=0.8, zorder=0)
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

"""What a run leaves behind: history, error table and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from openmm_se3.files import atomic_write
from openmm_se3.training.data import FrameGraphs
from openmm_se3.training.metrics import UNITS, Predictions, reference_forces
from openmm_se3.units import EV_TO_KCAL_PER_MOL

Errors = Mapping[str, Mapping[str, Mapping[str, float]]]

HISTORY = "history.csv"

CAPTION = (
    "Energies in kcal/mol (centred: the group's mean error removed), forces in "
    "kcal/mol/A (worst: the frame with the largest MAE)."
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
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"units": UNITS, **errors}, indent=1) + "\n")


def error_report(errors: Errors, introduction: str = "") -> str:
    """Return the errors by split and group as a table in Markdown."""
    lines = [
        introduction + CAPTION,
        "",
        "| split | group | frames | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|--:|" + "--:|" * len(COLUMNS),
    ]
    for split, groups in errors.items():
        for group, row in groups.items():
            numbers = " | ".join(
                f"{row[key]:.4f}" if key in row else "" for key in COLUMNS
            )
            lines.append(f"| {split} | {group} | {row['frames']:.0f} | {numbers} |")
    return "\n".join(lines) + "\n"


def plot_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw losses, errors and the learning rate over the steps."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in history]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    for key, label in (("train_loss", "training"), ("validation_loss", "validation")):
        losses.plot(steps, [row[key] for row in history], label=label)
    losses.set(xlabel="step", ylabel="loss, equation (3.2)", yscale="log")
    losses.legend()
    for key, label in (
        ("energy_mae", "energy MAE, kcal/mol"),
        ("force_mae", "force MAE, kcal/mol/Å"),
        ("force_rmse", "force RMSE, kcal/mol/Å"),
    ):
        errors.plot(steps, [row[key] for row in history], label=label)
    errors.set(xlabel="step", ylabel="validation error", yscale="log")
    errors.legend()
    _save(path, figure)


def plot_parity(path: Path, graphs: FrameGraphs, predictions: Predictions) -> None:
    """Draw predicted against reference energies and force components."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    pairs = (
        (
            graphs.energies.numpy() / graphs.n_atoms,
            predictions.energies / graphs.n_atoms,
            "interaction energy, kcal/mol per atom",
        ),
        (
            reference_forces(graphs).ravel(),
            predictions.forces.ravel(),
            "force component, kcal/mol/Å",
        ),
    )
    for axes, (reference, predicted, label) in zip(
        figure.subplots(1, 2), pairs, strict=True
    ):
        x, y = reference * EV_TO_KCAL_PER_MOL, predicted * EV_TO_KCAL_PER_MOL
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color="0.6", linewidth=1)
        axes.plot(x, y, ".", markersize=3, alpha=0.5)
        mae = np.abs(x - y).mean()
        axes.set(xlabel=f"reference {label}", ylabel="model", title=f"MAE {mae:.3g}")
    _save(path, figure)


def _save(path: Path, figure: object) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)  # type: ignore[attr-defined]

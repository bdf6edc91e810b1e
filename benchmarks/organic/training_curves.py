"""Validation errors during training runs of the organic network, as a figure.

    python benchmarks/organic/training_curves.py adam=runs/organic-a muon=runs/organic \
        --figure docs/images/organic_training.png --out curves.json

Reads the `history.csv` of each run.  A run that goes on from another one is given as
NAME=FIRST+SECOND: its steps follow those of the first.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np

from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, GREEN, ORANGE, STYLE, logarithmic, save

COLUMNS = {"force_mae": "force MAE, kcal/mol/A", "energy_mae": "energy MAE, kcal/mol"}


def read_runs(folders: str) -> dict[str, list[float]]:
    """Return steps and errors of runs that follow each other."""
    found: dict[str, list[float]] = {"step": [], **{name: [] for name in COLUMNS}}
    begin = 0.0
    for folder in folders.split("+"):
        with open(Path(folder) / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        found["step"] += [begin + float(row["step"]) for row in rows]
        for name in COLUMNS:
            found[name] += [float(row[name]) for row in rows]
        begin = found["step"][-1]
    return found


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("--figure", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(runs: tuple[str, ...], figure: Path, out: Path | None) -> None:
    """Draw the errors of all runs, and write them."""
    curves = {}
    for run in runs:
        name, equals, folders = run.partition("=")
        if not equals:
            raise click.UsageError(f"{run!r} is not NAME=FOLDER")
        curves[name] = read_runs(folders)
    draw(curves, figure)
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(curves, indent=1) + "\n")


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw errors against steps."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        page = Figure(figsize=(6.8, 2.9), layout="constrained")
        for axes, (key, title) in zip(
            page.subplots(1, 2), COLUMNS.items(), strict=True
        ):
            for (name, curve), color in zip(
                curves.items(), (GRAY, BLUE, ORANGE, GREEN), strict=False
            ):
                steps = np.array(curve["step"]) / 1000.0
                axes.plot(steps, curve[key], color=color, label=name)
                axes.plot(steps[-1], curve[key][-1], "o", ms=4, color=color)
                axes.annotate(
                    f"{curve[key][-1]:.2f}",
                    (steps[-1], curve[key][-1]),
                    (4, 3),
                    textcoords="offset points",
                    color=color,
                    fontsize=8.5,
                )
            axes.set_title(title)
            axes.set_xlabel("steps of 16 frames, thousands")
            axes.set_xlim(0.0, 1.12 * max(c["step"][-1] for c in curves.values()) / 1e3)
            logarithmic(axes, [error for c in curves.values() for error in c[key]])
        axes.legend()
        save(path, page)


if __name__ == "__main__":
    main()

"""Tables and the figure of finished runs, by set of frames: one row a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib
from environments import ENVIRONMENTS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table

from openmm_se3.files import atomic_write
from openmm_se3.plot_style import STYLE, logarithmic, save

COLUMNS = {
    "key": "network",
    "seeds": "seeds",
    "parameters": "parameters",
    "ms_per_step": "ms a step",
    "frames_per_second": "frames/s",
    "peak_memory_mib": "MiB",
    "force_mae": "force MAE",
    "force_rmse": "force RMSE",
    "energy_mae": "energy MAE",
}
ERRORS = ("force_mae", "force_rmse", "energy_mae")
LABELS = {
    "ours": "ours",
    "mace": "MACE",
    "nequip": "NequIP",
    "tensornet": "TensorNet",
    "nvidia": "NVIDIA's SE(3)-Transformer",
}
UNITS = (
    "Forces in kcal/mol/A, over components; energies in kcal/mol per molecule after "
    "the mean error of each composition is taken off; test frames.  MiB: peak above "
    "the memory before the first step.  Means over seeds, with the lowest and highest "
    "error in brackets."
)


def by_network(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each network: its seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["key"], []).append(row)
    return groups


def format_runs(runs: list[dict[str, Any]]) -> list[str]:
    """Return the cells of a network, in the order of ``COLUMNS``: means over seeds.

    Errors of several seeds have the lowest and the highest in brackets.
    """
    formats = {
        "parameters": "{:,}",
        "ms_per_step": "{:.0f}",
        "frames_per_second": "{:.1f}",
        "peak_memory_mib": "{:.0f}",
    }
    cells = []
    for key in COLUMNS:
        if key == "key":
            cells.append(runs[0][key])
            continue
        if key == "seeds":
            cells.append(str(len(runs)))
            continue
        shown = formats.get(key, "{:.3f}")
        values = [run[key] for run in runs]
        mean = sum(values) / len(values)
        cell = shown.format(round(mean) if key == "parameters" else mean)
        if key in ERRORS and len(runs) > 1:
            cell += f" ({shown.format(min(values))} to {shown.format(max(values))})"
        cells.append(cell)
    return cells


def title(name: str, rows: list[dict[str, Any]]) -> str:
    """Return what the rows of one set have in common."""
    settings = rows[0]["settings"]
    return (
        f"{name}: {settings['seconds'] / 60.0:g} min of {rows[0]['device']}, cutoff "
        f"{settings['cutoff']:g} A, batches of up to {settings['batch_atoms']} atoms, "
        f"{rows[0]['test_frames']} test frames"
    )


def networks(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return one line a network: its shape and the versions of its packages."""
    lines = {}
    for rows in results.values():
        for row in rows:
            versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
            lines[row["key"]] = f"{row['key']}: {row['network']} ({versions})"
    return list(lines.values())


def print_tables(results: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """Print one table a set."""
    for name, rows in results.items():
        table = Table(title=title(name, rows), title_justify="left", box=None)
        for key, heading in COLUMNS.items():
            table.add_column(heading, justify="left" if key == "key" else "right")
        for runs in by_network(rows).values():
            table.add_row(*format_runs(runs))
        console.print(table)
    console.print("\n".join([UNITS, *networks(results)]), highlight=False)


def write_tables(folder: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Write accuracy.csv and accuracy.md."""
    with atomic_write(folder / "accuracy.csv") as temporary:
        with open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            keys = ["key", *(key for key in COLUMNS if key not in ("key", "seeds"))]
            writer.writerow(["set", "seed", *keys])
            for name, rows in results.items():
                for row in rows:
                    seed = row["settings"]["seed"]
                    writer.writerow([name, seed, *(row[key] for key in keys)])
    lines = ["# Networks on the same frames", "", UNITS]
    for name, rows in results.items():
        lines += ["", f"## {title(name, rows)}", ""]
        lines.append("| " + " | ".join(COLUMNS.values()) + " |")
        lines.append("|---|" + "---:|" * (len(COLUMNS) - 1))
        lines += [
            "| " + " | ".join(format_runs(runs)) + " |"
            for runs in by_network(rows).values()
        ]
    lines += ["", *(f"- {line}" for line in networks(results))]
    with atomic_write(folder / "accuracy.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def plot(path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Draw validation errors against training time, a panel for each set."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(results), 3.6), layout="constrained")
        panels = figure.subplots(1, len(results), squeeze=False)[0]
        lines: dict[str, Line2D] = {}
        for axes, (name, rows) in zip(panels, results.items(), strict=True):
            for row in rows:
                minutes = [point["seconds"] / 60.0 for point in row["curve"]]
                values = [point["force_mae"] for point in row["curve"]]
                color = f"C{list(ENVIRONMENTS).index(row['key'])}"
                (lines[row["key"]],) = axes.plot(
                    minutes, values, color=color, marker=".", label=LABELS[row["key"]]
                )
            axes.set(title=name, xlabel="training time (minutes)", xlim=(0.0, None))
            logarithmic(axes, (p["force_mae"] for row in rows for p in row["curve"]))
        panels[0].set_ylabel("validation force MAE (kcal/mol/Å)")
        named = [lines[key] for key in ENVIRONMENTS if key in lines]
        figure.legend(handles=named, loc="outside upper center", ncols=len(named))
        save(path, figure)

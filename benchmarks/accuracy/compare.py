"""Our network and its peers on the same frames, in the same time.

    python benchmarks/accuracy/compare.py --minutes 60

MACE, NequIP, TensorNet (TorchMD-Net) and NVIDIA's SE(3)-Transformer, each in its own
package, beside ours: every pair of a network and a set of frames (frames.py) is one
training run of ``--minutes`` of one core's time or, with ``--device cuda``, of a GPU's
(budget.py).  Errors on the test frames are measured here, by the same arithmetic for
all (errors.py).  A finished run is a JSON file in ``--out`` and is not repeated; one
that was stopped starts again.

Written to ``--out``: accuracy.csv, accuracy.md and accuracy.png (validation errors
against time), and for each run its frames, predictions and log.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from budget import PREDICTIONS, RUN, SPLITS, Job
from devices import device_of
from environments import (
    ENVIRONMENTS,
    REQUIREMENTS,
    environments_option,
    nvidia_option,
    nvidia_source,
    python_of,
    variables,
)
from errors import errors
from frames import SETS, SHARED, export
from labels import Labels
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openmm_se3.benchmark import machine
from openmm_se3.files import atomic_write, sha256
from openmm_se3.plot_style import STYLE, logarithmic, save

HERE = Path(__file__).parent

CURVE_POINTS = 10
SHORT_MINUTES, SHORT_CURVE_POINTS, SHORT_TEST_ATOMS = 0.1, 2, 400
COLUMNS = {
    "key": "network",
    "parameters": "parameters",
    "ms_per_step": "ms a step",
    "frames_per_second": "frames/s",
    "peak_memory_mib": "MiB",
    "force_mae": "force MAE",
    "force_rmse": "force RMSE",
    "energy_mae": "energy MAE",
}
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
    "the memory before the first step."
)


def code_of(network: str) -> list[Path]:
    """Return the files whose code decides what a network learns, our package's too."""
    folders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    if network == "ours":
        folders, others = ("compiled", "model", "training"), ("graphs.py",)
    elif network == "nvidia":  # it has our graphs and our loss
        folders, others = ("training",), ("graphs.py", "nvidia_network.py")
    package = [
        path
        for folder in folders
        for path in sorted((HERE.parents[1] / "openmm_se3" / folder).rglob("*"))
        if path.suffix in (".py", ".h", ".cpp")
    ]
    own = ("budget.py", "devices.py", f"train_{network}.py", *others)
    return [*(HERE / name for name in own), *package]


def settings(network: str, job: Job) -> dict[str, Any]:
    """Return what decides the outcome of a job, frames and code, as plain values."""
    values = dataclasses.asdict(job)
    for name in ("data", "out", "source"):
        del values[name]
    digests = {split: sha256(job.data / f"{split}.xyz") for split in SPLITS}
    code = "".join(sha256(path) for path in code_of(network))
    return {
        **values,
        "elements": list(job.elements),
        "sha256": digests,
        "code": hashlib.sha256(code.encode()).hexdigest(),
        "requirements": list(REQUIREMENTS.get(ENVIRONMENTS[network] or "", ())),
    }


def run_job(network: str, job: Job, python: Path) -> None:
    """Train in a process of its own; its output goes to a log file.

    Raises:
        subprocess.CalledProcessError: The process failed.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    for name in (RUN, PREDICTIONS):
        (job.out / name).unlink(missing_ok=True)
    job.write(job.out / "job.json")
    command = [str(python), str(HERE / f"train_{network}.py")]
    with open(job.out / "log.txt", "w") as log:
        subprocess.run(
            [*command, str(job.out / "job.json")],
            check=True,
            env=variables(threads=1, gpu=job.device != "cpu"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def result(network: str, job: Job, molecule_atoms: int | None) -> dict[str, Any]:
    """Return facts and errors of a job that has run."""
    facts = json.loads((job.out / RUN).read_text())
    labels = {split: Labels.load(job.data / f"{split}.npz") for split in SPLITS}
    with np.load(job.out / PREDICTIONS, allow_pickle=False) as arrays:
        predicted = dict(arrays)
    tested = labels["test"].take(predicted["test_frames"])
    validated = labels["validation"].take(predicted["curve_frames"])
    curve = [
        {
            "seconds": float(seconds),
            **vars(errors(energies, forces, validated, molecule_atoms)),
        }
        for seconds, energies, forces in zip(
            predicted["curve_seconds"],
            predicted["curve_energies"],
            predicted["curve_forces"],
            strict=True,
        )
    ]
    found = errors(
        predicted["test_energies"], predicted["test_forces"], tested, molecule_atoms
    )
    return {
        **facts,
        "ms_per_step": 1000.0 * facts["training_seconds"] / facts["steps"],
        "frames_per_second": facts["frames"] / facts["training_seconds"],
        "test_frames": len(tested),
        "settings": settings(network, job),
        **vars(found),
        "curve": curve,
        "machine": machine.describe(),
    }


def finished(path: Path, network: str, job: Job) -> dict[str, Any] | None:
    """Return the kept result of a job; None if there is none.

    Raises:
        click.ClickException: It was made with other settings, frames or code.
    """
    if not path.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    wanted = settings(network, job)
    differing = [key for key in wanted if kept["settings"].get(key) != wanted[key]]
    if differing:
        raise click.ClickException(
            f"{path} was made with other {', '.join(differing)}; remove it or name "
            "another --out"
        )
    return kept


def format_row(row: dict[str, Any]) -> list[str]:
    """Return the cells of a result, in the order of ``COLUMNS``."""
    formats = {
        "key": "{}",
        "parameters": "{:,}",
        "ms_per_step": "{:.0f}",
        "frames_per_second": "{:.1f}",
        "peak_memory_mib": "{:.0f}",
    }
    return [formats.get(key, "{:.3f}").format(row[key]) for key in COLUMNS]


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
        for row in rows:
            table.add_row(*format_row(row))
        console.print(table)
    console.print("\n".join([UNITS, *networks(results)]), highlight=False)


def write_tables(folder: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """Write accuracy.csv and accuracy.md."""
    with atomic_write(folder / "accuracy.csv") as temporary:
        with open(temporary, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["set", *COLUMNS])
            for name, rows in results.items():
                writer.writerows([name, *(row[k] for k in COLUMNS)] for row in rows)
    lines = ["# Networks on the same frames", "", UNITS]
    for name, rows in results.items():
        lines += ["", f"## {title(name, rows)}", ""]
        lines.append("| " + " | ".join(COLUMNS.values()) + " |")
        lines.append("|---|" + "---:|" * (len(COLUMNS) - 1))
        lines += ["| " + " | ".join(format_row(row)) + " |" for row in rows]
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
                colour = f"C{list(ENVIRONMENTS).index(row['key'])}"
                (lines[row["key"]],) = axes.plot(
                    minutes, values, color=colour, marker=".", label=LABELS[row["key"]]
                )
            axes.set(title=name, xlabel="training time (minutes)", xlim=(0.0, None))
            logarithmic(axes, (p["force_mae"] for row in rows for p in row["curve"]))
        panels[0].set_ylabel("validation force MAE (kcal/mol/Å)")
        named = [lines[key] for key in ENVIRONMENTS if key in lines]
        figure.legend(handles=named, loc="outside upper center", ncols=len(named))
        save(path, figure)


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60.0)
@click.option("--set", "sets", multiple=True, type=click.Choice(list(SETS)))
@click.option("--network", "chosen", multiple=True, type=click.Choice(ENVIRONMENTS))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--short", is_flag=True, help="Seconds and few frames, to try it out.")
@click.option("--seed", default=0, show_default=True)
@environments_option
@nvidia_option
@click.option(
    "--shared",
    type=click.Path(path_type=Path),
    default=SHARED,
    show_default="../shared/data",
    help="Folder of the data that are not in the repository.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs.")
def main(
    minutes: float,
    sets: tuple[str, ...],
    chosen: tuple[str, ...],
    device: str,
    short: bool,
    seed: int,
    environments: Path,
    nvidia_repository: str,
    shared: Path,
    out: Path | None,
) -> None:
    """Train ours and four other networks on the same frames for the same time.

    What is finished is not repeated.  Prints errors, sizes, times and memory.
    """
    console = Console()
    try:
        device_of(device)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if short:
        minutes = SHORT_MINUTES
    default = Path("peers-run") / f"{minutes:g}-minutes-{device}"
    folder = (out or default).resolve()
    results: dict[str, list[dict[str, Any]]] = {}
    failed = []
    for name in sets or SETS:
        frame_set = SETS[name]
        data = folder / name / "frames"
        try:
            export(frame_set.read(shared), data)
        except FileNotFoundError as error:
            raise click.ClickException(f"{error}; --shared names its folder") from error
        for network in chosen or ENVIRONMENTS:
            job = Job(
                data=data,
                out=folder / name / network,
                elements=frame_set.elements,
                cutoff=frame_set.cutoff,
                batch_atoms=frame_set.batch_atoms,
                seconds=60.0 * minutes,
                curve_points=SHORT_CURVE_POINTS if short else CURVE_POINTS,
                test_atoms=SHORT_TEST_ATOMS if short else None,
                seed=seed,
                source=None,
                device=device,
            )
            path = folder / f"{name}-{network}.json"
            row = finished(path, network, job)
            if row is None:
                console.rule(f"{name}: {network}")
                python = python_of(network, environments)
                if network == "nvidia":
                    source = nvidia_source(environments, nvidia_repository)
                    job = dataclasses.replace(job, source=source)
                try:
                    run_job(network, job, python)
                except subprocess.CalledProcessError:
                    log = job.out / "log.txt"
                    said = log.read_text(errors="replace").strip().splitlines()
                    last = escape(said[-1]) if said else ""
                    console.print(f"[red]failed[/]: {last}; see {log}")
                    failed.append(path.stem)
                    continue
                row = {
                    "key": network,
                    **result(network, job, frame_set.molecule_atoms),
                }
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(row, indent=1) + "\n")
            results.setdefault(name, []).append(row)
    if results:
        print_tables(results, console)
        write_tables(folder, results)
        plot(folder / "accuracy.png", results)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""Training throughput and memory of our network and others of its width and order.

    python benchmarks/training/throughput.py --out throughput.json

32 channels and degrees 0 to 2 on the same batch of water clusters, with one thread and
the same loss and optimizer:

* ours, three layers and 8 heads, with its default kernels (depthwise), compiled and
  with PyTorch, and with the full kernels of the paper: one radial function for each
  path and pair of channels, all harmonics, no mirror symmetry;
* NVIDIA's (accuracy/nvidia_network.py), three layers and 8 heads, whose kernels are
  full; keys and values have half of the channels, as by default; and with its
  ``--low_memory``, which can be trained on energies only;
* MACE, two layers, harmonics up to degree 2, correlation 3.

| task   | forward                   | backward                                     |
|--------|---------------------------|----------------------------------------------|
| energy | energies of the molecules | of the squared error to all weights          |
| forces | energies and F = -dE/dx   | of both squared errors, through the gradient |

"energy" is what NVIDIA's own script trains; its basis is computed once and before, as
by its ``--precompute_bases``, while ours is part of the step.  Ours, compiled, computes
forces there too, which nobody asks for.  A step of Adam is
included; edges are known before, as in training.

Each network has a process of its own (step_worker.py), which keeps its memory from step
to step as our trainer does: where all of them together need more than the machine has,
``--network`` takes some at a time.  "MiB" is what the peak is above the memory before
the first step.  The processes take turns for several rounds, and medians of processor
time are compared.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path += [str(HERE), *(str(HERE.parent / name) for name in ("accuracy", "speed"))]

from environments import (  # noqa: E402
    environments_option,
    nvidia_option,
    nvidia_source,
    python_of,
)
from networks import NETWORKS, TASKS, Job  # noqa: E402
from turns import start_worker, workers_take_turns  # noqa: E402
from worker_process import Limits, Worker  # noqa: E402

from openmm_se3.benchmark import machine  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402

REFERENCE = "nvidia"  # ratios are to it
WIDTH = 100  # of the table, in characters


def start(job: Job, environments: Path, logs: Path, limits: Limits) -> Worker:
    """Start the process of a job; what it prints is kept in a folder."""
    python = python_of(NETWORKS[job.network].environment, environments)
    log = logs / f"{job.task}-{job.network}.log"
    return start_worker(python, HERE / "step_worker.py", job, 1, log, limits)


def finished_rows(
    rows: dict[str, dict[str, Any]], task: str, batch: int
) -> list[dict[str, Any]]:
    """Return what was measured for a task, with frames/s and ratios."""
    for row in rows.values():
        row["frames_per_second"] = batch / row["cpu_seconds"]
    reference = rows.get(REFERENCE)
    for row in rows.values():
        row["times"] = row["memory_ratio"] = None
        if reference is not None:
            row["times"] = reference["cpu_seconds"] / row["cpu_seconds"]
            row["memory_ratio"] = row["peak_memory_mib"] / reference["peak_memory_mib"]
    return [{"task": task, "network": name, **row} for name, row in rows.items()]


def print_table(rows: list[dict[str, Any]], title: str, console: Console) -> None:
    """Print one line a task and network."""
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("task", "network"):
        table.add_column(heading, no_wrap=True)
    times = f"times {NETWORKS[REFERENCE].label}"
    for heading in ("parameters", "ms/step", "frames/s", times, "MiB", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        ratios = row["times"], row["memory_ratio"]
        shown = ["" if ratio is None else f"{ratio:.3g}" for ratio in ratios]
        table.add_row(
            row["task"],
            NETWORKS[row["network"]].label,
            f"{row['parameters']:,}",
            f"{1e3 * row['cpu_seconds']:.0f}",
            f"{row['frames_per_second']:.1f}",
            shown[0],
            f"{row['peak_memory_mib']:.0f}",
            shown[1],
        )
    console.print(table)


@click.command()
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--molecules",
    type=click.IntRange(1, 6),
    default=6,
    show_default=True,
    help="Water molecules of a frame.",
)
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS))
@click.option("--network", "chosen", multiple=True, type=click.Choice([*NETWORKS]))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=2.0,
    show_default=True,
    help="About how long a round lasts; at least one step.",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0.0, min_open=True),
    default=16.0,
    show_default=True,
    help="GB that a process may take.",
)
@environments_option
@nvidia_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False))
def main(
    batch: int,
    molecules: int,
    tasks: tuple[str, ...],
    chosen: tuple[str, ...],
    rounds: int,
    seconds: float,
    memory: float,
    environments: Path,
    nvidia_repository: str,
    out: Path | None,
) -> None:
    """Time training steps of ours, NVIDIA's network and MACE, and their memory."""
    console = Console(width=WIDTH)
    names = [name for name in NETWORKS if name in (chosen or NETWORKS)]
    source = ""
    if any(NETWORKS[name].environment == "nvidia" for name in names):
        source = str(nvidia_source(environments, nvidia_repository))
    logs = environments.resolve().parent / "throughput-logs"
    limits = Limits(1800.0, memory)
    facts = machine.describe()
    rows, failed = [], []
    for task in tasks or TASKS:
        starts = {}
        for name in [name for name in names if task in NETWORKS[name].tasks]:
            job = Job(name, task, batch, molecules, seconds, source)
            starts[name] = partial(start, job, environments, logs, limits)
        measured, errors = workers_take_turns(starts, rounds)
        rows += finished_rows(measured, task, batch)
        failed += [
            f"{task}, {NETWORKS[name].label}: {error}" for name, error in errors.items()
        ]
    atoms = 3 * molecules
    title = f"training on batches of {batch} water clusters of {atoms} atoms"
    print_table(rows, title, console)
    console.print(
        f"medians of up to {rounds} rounds in turns, processor time, one thread of an "
        f"{facts['processor']}, torch {facts['torch']}, load average "
        f"{facts['load_average']}",
        highlight=False,
    )
    for line in failed:
        console.print(line, highlight=False, markup=False)
    if out is not None:
        result = {
            "machine": facts,
            "batch": batch,
            "molecules": molecules,
            "limits": dataclasses.asdict(limits),
            "rows": rows,
            "failed": failed,
        }
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Time per MD step, OpenMM included: backends, engines, platforms, precisions, sizes.

    python benchmarks/step_time.py --out step_time.json

Every configuration is warmed up, then all of them take turns for several rounds, so
that a busy moment of the machine hits all alike.  The median round is printed, with the
fastest and the slowest, and the processor time beside it: on a busy machine that is the
better measure of what a step costs.  "No force" is what OpenMM itself needs.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import machine
import torch
from openmm import OpenMMException
from rich.console import Console
from rich.table import Table
from water_timing import DT_FS, Stepper

from openmm_se3.compiled.library import CompileError
from openmm_se3.files import atomic_write
from openmm_se3.force.backends import BACKENDS
from openmm_se3.simulation.platforms import platform_names

WARM_UP_STEPS = 100
SECONDS_PER_DAY = 86400.0
WIDTH = 110  # of the table, in characters
ENGINES = ("compiled", "torchscript")


def steppers(
    model: str,
    molecules: tuple[int, ...],
    precisions: tuple[str, ...],
    engines: tuple[str, ...],
    scale: str | None,
    console: Console,
) -> list[tuple[dict[str, Any], Stepper]]:
    """Return every configuration that runs here; say which do not, and why."""
    found = []
    for n, platform in itertools.product(molecules, platform_names()):
        options: list[tuple[str | None, str, str, str, str | None]]
        options = [(None, "no force", "auto", "single", None)]
        for key, backend in BACKENDS.items():
            if backend.problem() is None:
                options += [
                    (model, key, engine, precision, parameter)
                    for engine in engines
                    for precision in precisions
                    for parameter in dict.fromkeys((None, scale))
                ]
        for name, key, engine, precision, parameter in options:
            facts = {
                "molecules": n,
                "backend": key,
                "engine": engine if name else "",
                "platform": platform,
                "precision": precision if name else "",
                "scale": parameter or "",
            }
            try:
                stepper = Stepper(name, n, key, platform, precision, parameter, engine)
                found.append((facts, stepper))
            except (OpenMMException, CompileError) as error:
                console.print(f"[yellow]left out[/]: {facts}: {error}", highlight=False)
    for backend in BACKENDS.values():
        problem = backend.problem()
        if problem is not None:
            console.print(f"[yellow]left out[/]: {problem}", highlight=False)
    return found


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--molecules", "-n", multiple=True, type=int, default=(1, 2, 6))
@click.option(
    "--precision",
    multiple=True,
    type=str,
    default=("single", "double"),
    show_default=True,
)
@click.option("--engine", multiple=True, type=str, default=ENGINES, show_default=True)
@click.option("--scale", help="Run also with a parameter of this name as scale.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: str,
    molecules: tuple[int, ...],
    precision: tuple[str, ...],
    engine: tuple[str, ...],
    scale: str | None,
    rounds: int,
    steps: int,
    threads: int,
    out: Path | None,
) -> None:
    """Time steps of molecular dynamics."""
    console = Console(width=max(Console().width, WIDTH))
    torch.set_num_threads(threads)
    configurations = steppers(model, molecules, precision, engine, scale, console)
    times: list[list[float]] = [[] for _ in configurations]
    cpu_times: list[list[float]] = [[] for _ in configurations]
    for _, stepper in configurations:
        stepper.step(WARM_UP_STEPS)
    for _ in range(rounds):
        for index, (_, stepper) in enumerate(configurations):
            start, cpu_start = time.perf_counter(), time.process_time()
            stepper.step(steps)
            times[index].append((time.perf_counter() - start) / steps)
            cpu_times[index].append((time.process_time() - cpu_start) / steps)
    rows = [
        {
            **facts,
            "seconds_per_step": statistics.median(own),
            "cpu_seconds_per_step": statistics.median(cpu),
            "rounds": own,
        }
        for (facts, _), own, cpu in zip(configurations, times, cpu_times, strict=True)
    ]
    title = f"time per step of {DT_FS} fs, model {model}"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("n", "backend", "engine", "platform", "precision", "scale"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms/step", "fastest", "slowest", "CPU ms", "ns/day"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda r: (r["molecules"], r["seconds_per_step"])):
        median = row["seconds_per_step"]
        table.add_row(
            str(row["molecules"]),
            row["backend"],
            row["engine"],
            row["platform"],
            row["precision"],
            row["scale"],
            f"{median * 1e3:.3f}",
            f"{min(row['rounds']) * 1e3:.3f}",
            f"{max(row['rounds']) * 1e3:.3f}",
            f"{row['cpu_seconds_per_step'] * 1e3:.3f}",
            f"{SECONDS_PER_DAY / median * DT_FS * 1e-6:.2f}",
        )
    console.print(table)
    console.print(
        f"medians of {rounds} interleaved rounds of {steps} steps, "
        f"{threads} thread(s); {machine.describe_line()}",
        highlight=False,
    )
    if out is not None:
        result = {"machine": machine.describe(), "threads": threads, "rows": rows}
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

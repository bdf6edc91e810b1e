"""DFT time over model time, same machine and same run, for n water molecules.

    python benchmarks/dft_vs_model.py --out dft_vs_model.json

DFT: energy and gradient with PySCF at the level of theory of the labels.  Model: energy
and forces through OpenMM as dynamics gets them, on the faster of the platforms
present.  Both use the same number of threads.  Rounds of the two are interleaved;
medians are printed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from openmm import unit
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from water_geometry import rattle, water_grid

from openmm_se3.benchmark import machine
from openmm_se3.benchmark.timing import Stepper
from openmm_se3.files import atomic_write
from openmm_se3.force import SE3Potential
from openmm_se3.reference.dft import label_frame
from openmm_se3.reference.level import LevelOfTheory
from openmm_se3.simulation import water_topology

MODEL_CALLS = 200  # of one round
WARM_UP = 50


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def evaluate(stepper: Stepper, positions: np.ndarray, calls: int) -> None:
    """Get energy and forces for positions [n_atoms, 3] (A), several times."""
    for _ in range(calls):
        stepper.context.setPositions(positions * unit.angstrom)
        stepper.context.getState(energy=True, forces=True)


def measure(n_molecules: int, rounds: int, model: str) -> dict[str, Any]:
    """Return the median times of one size, s."""
    numbers, grid = water_grid(n_molecules)
    potential = SE3Potential(model)
    stepper = Stepper(potential.createSystem(water_topology(n_molecules)), grid)
    evaluate(stepper, grid, WARM_UP)
    rng = np.random.default_rng(n_molecules)
    level = LevelOfTheory()
    dft_times, model_times = [], []
    for _ in range(rounds):
        positions = rattle(grid, rng)
        dft_times.append(seconds(label_frame, numbers, positions, level))
        call = seconds(evaluate, stepper, positions, MODEL_CALLS)
        model_times.append(call / MODEL_CALLS)
    dft, fast = statistics.median(dft_times), statistics.median(model_times)
    return {
        "molecules": n_molecules,
        "atoms": len(numbers),
        "dft_seconds": dft,
        "model_seconds": fast,
        "ratio": dft / fast,
        "backend": potential.backend,
        "engine": potential.engine,
        "platform": stepper.platform,
        "dft_times": dft_times,
        "model_times": model_times,
    }


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--molecules", "-n", multiple=True, type=int, default=(1, 2, 4, 8))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: str, molecules: tuple[int, ...], rounds: int, threads: int, out: Path | None
) -> None:
    """Time DFT (PySCF) against the model for a few molecules of water."""
    console = Console()
    torch.set_num_threads(threads)
    rows = []
    with threadpool_limits(threads):
        for n in molecules:
            with console.status(f"{n} molecules"):
                rows.append(measure(n, rounds, model))
    level = LevelOfTheory()
    title = f"energy and forces: {level} with PySCF against model {model}"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("molecules", "DFT, s", "model, ms", "DFT / model", "through"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["molecules"]),
            f"{row['dft_seconds']:.2f}",
            f"{row['model_seconds'] * 1e3:.2f}",
            f"{row['ratio']:.0f}",
            f"{row['backend']}, {row['platform']}",
        )
    console.print(table)
    console.print(
        f"medians of {rounds} rounds, {threads} thread(s) each; "
        f"{machine.describe_line()}",
        highlight=False,
    )
    if out is not None:
        result = {"machine": machine.describe(), "threads": threads, "rows": rows}
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

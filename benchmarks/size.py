"""Time and memory of a step against the number of atoms: is the cost linear?

    python benchmarks/size.py --out size

Boxes of liquid water of ordinary density, 64 to 4,096 molecules, in OpenMM.  Each size
and implementation runs in a process of its own.  The peak memory of that process, less
that of a box of one molecule, is compared with ``SE3Potential.estimate_memory``.
Implementations that would need more than ``--memory`` GB, judged by the size before,
are left out.  Writes a table, ``size.json`` and ``size.png`` with the slope of log time
against log atoms, 1 where the cost is linear.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from water_geometry import water_box

from openmm_se3.benchmark import machine
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, legend_above, save
from openmm_se3.simulation.progress import ns_per_day

MOLECULES = (64, 216, 512, 1728, 4096)
IMPLEMENTATIONS = ("compiled", "torchscript")
DT_FS = 0.5
SECONDS = 5.0  # of a measurement at least; never fewer than three steps
LARGE_ATOMS = 600  # the slope is that from here on: small boxes see less than a cutoff
HIDDEN_GB = 0.1  # less than that may fit into memory that the process has already


def measure(
    n_molecules: int, implementation: str, model: str, threads: int
) -> dict[str, Any]:
    """Return seconds per step, peak memory of this process and its estimate, GB."""
    import torch
    from openmm import Context, Platform, VerletIntegrator, unit

    from openmm_se3.force import SE3Potential

    torch.set_num_threads(threads)
    box = water_box(n_molecules)
    potential = SE3Potential(model, implementation=implementation)
    integrator = VerletIntegrator(DT_FS * unit.femtosecond)
    platform = Platform.getPlatformByName("Reference")
    context = Context(potential.createSystem(box.topology), integrator, platform)
    context.setPositions(box.positions)
    integrator.step(2)
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        integrator.step(1)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9
    rows = box.topology.getPeriodicBoxVectors().value_in_unit(unit.angstrom)
    positions = np.array(box.positions.value_in_unit(unit.angstrom))
    needed, _ = potential.estimate_memory(positions, np.array(rows))
    return {
        "seconds": statistics.median(times),
        "memory_gb": peak,
        "estimate_gb": needed,
    }


def in_process(n: int, implementation: str, model: str, threads: int) -> dict[str, Any]:
    """Return :func:`measure` of another process."""
    arguments = [
        "--only",
        str(n),
        implementation,
        "--model",
        model,
        "--threads",
        str(threads),
    ]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"{n} molecules, {implementation}: {done.stderr.strip()[-500:]}"
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measurable(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return the rows whose value is one: memory that is not hidden, or any time."""
    return [row for row in rows if key != "extra_gb" or row[key] > HIDDEN_GB]


def slope(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return the slope of log(key) against log(atoms) of the large boxes, if any."""
    large = [row for row in measurable(rows, key) if row["atoms"] >= LARGE_ATOMS]
    if len(large) < 2:
        return None
    atoms = np.log([row["atoms"] for row in large])
    return float(np.polyfit(atoms, np.log([row[key] for row in large]), 1)[0])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory against the number of atoms."""
    with matplotlib.rc_context(STYLE):
        save(path, panels(rows))


def panels(rows: list[dict[str, Any]]) -> Figure:
    """Return the figure of time and memory."""
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for implementation, color in zip(IMPLEMENTATIONS, (BLUE, GRAY), strict=True):
        own = [row for row in rows if row["implementation"] == implementation]
        if not own:
            continue
        for axis, (key, factor) in zip(
            axes, (("seconds", 1e3), ("extra_gb", 1.0)), strict=True
        ):
            steepness = slope(own, key)
            text = (
                implementation
                if steepness is None
                else f"{implementation}, slope {steepness:.2f}"
            )
            shown = measurable(own, key)
            atoms = [row["atoms"] for row in shown]
            values = [factor * row[key] for row in shown]
            axis.loglog(atoms, values, "o-", color=color, label=text)
    axes[0].set_ylabel("time of a step, ms")
    axes[1].set_ylabel(f"memory, GB, where above {HIDDEN_GB:g}")
    for axis in axes:
        axis.set_xlabel("atoms")
        axis.set_xlim(axes[0].get_xlim())
        axis.grid(alpha=0.3)
        legend_above(axis, len(IMPLEMENTATIONS))
    return figure


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--molecules", "-n", multiple=True, type=int, default=MOLECULES)
@click.option("--implementation", multiple=True, default=IMPLEMENTATIONS)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--memory", type=float, default=16.0, show_default=True, help="GB.")
@click.option("--only", nargs=2, type=(int, str), hidden=True)
@click.option("--out", type=click.Path(path_type=Path), default="size")
def main(
    model: str,
    molecules: tuple[int, ...],
    implementation: tuple[str, ...],
    threads: int,
    memory: float,
    only: tuple[int, str] | None,
    out: Path,
) -> None:
    """Print time and memory of a step for boxes of more and more molecules."""
    if only is not None:
        click.echo(json.dumps(measure(*only, model, threads)))
        return
    console = Console()
    rows: list[dict[str, Any]] = []
    for kind in implementation:
        base = in_process(1, kind, model, threads)["memory_gb"]
        last: dict[str, Any] | None = None
        for n in sorted(molecules):
            if last and base + last["extra_gb"] * n / last["molecules"] > memory:
                console.print(f"{kind}, {n} molecules: left out, over {memory:g} GB")
                continue
            found = in_process(n, kind, model, threads)
            extra = max(found["memory_gb"] - base, 1e-3)
            last = {
                "molecules": n,
                "atoms": 3 * n,
                "implementation": kind,
                "extra_gb": extra,
                **found,
            }
            rows.append(last)
            milliseconds = 1e3 * last["seconds"]
            console.print(
                f"{kind}, {n} molecules: {milliseconds:.1f} ms, {extra:.2f} GB"
            )
    table = Table(title=f"cost of a step, model {model}, {threads} threads", box=None)
    for heading in (
        "molecules",
        "atoms",
        "implementation",
        "ms",
        "us/atom",
        "GB",
        "estimate",
        "ns/day",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["molecules"]),
            str(row["atoms"]),
            row["implementation"],
            f"{1e3 * row['seconds']:.1f}",
            f"{1e6 * row['seconds'] / row['atoms']:.1f}",
            f"{row['extra_gb']:.2f}",
            f"{row['estimate_gb']:.2f}",
            f"{ns_per_day(1, DT_FS, row['seconds']):.3f}",
        )
    console.print(table)
    slopes = {
        kind: slope([row for row in rows if row["implementation"] == kind], "seconds")
        for kind in implementation
    }
    for kind, value in slopes.items():
        if value is not None:
            text = f"{kind}: time grows as atoms^{value:.2f} from {LARGE_ATOMS} on"
            console.print(text)
    out.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine.describe(), "rows": rows, "slopes": slopes}
    with atomic_write(out / "size.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, out / "size.png")


if __name__ == "__main__":
    main()

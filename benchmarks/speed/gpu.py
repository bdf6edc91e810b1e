"""Every check of the force on a GPU, in one table.

    python benchmarks/speed/gpu.py

At 3 and 24 atoms without a box and 192 to 20,000 in one, by every route: time per MD
step with OpenMM included beside the goal on an H100 or H200, kernels a step, the share
of it that the arithmetic of the network alone would take, and the largest difference
from forces in double precision on the Reference platform.
Routes take turns, so that a busy moment hits all alike.

``--platform Reference`` tries the script itself on a machine without a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import openmm
import torch
from openmm import app
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent)]

from sizes import cluster, liquid  # noqa: E402

from openmm_se3 import SE3Potential  # noqa: E402
from openmm_se3.benchmark import machine  # noqa: E402
from openmm_se3.benchmark.timing import Stepper, interleave, summary  # noqa: E402
from openmm_se3.compiled.library import CompileError  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402
from openmm_se3.force.backends import BACKENDS  # noqa: E402
from openmm_se3.force.memory import NotEnoughMemoryError  # noqa: E402
from openmm_se3.geometry import box_of  # noqa: E402
from openmm_se3.model_file import load_model  # noqa: E402
from openmm_se3.neighbors import all_pairs, neighbor_pairs  # noqa: E402
from openmm_se3.nn.force_field import ForceField  # noqa: E402
from openmm_se3.simulation.platforms import named_platform  # noqa: E402
from openmm_se3.torchscript.self_check import ExportError  # noqa: E402
from openmm_se3.validation.contexts import energy_and_forces_of  # noqa: E402

SIZES = (3, 24, 192, 648, 1536, 3000, 5184, 20_000)  # atoms
BOXES = (192, 648, 1536, 3000, 5184, 20_000)
# ms a step, on an H100 or H200.
GOALS = {3: 0.3, 24: 0.3, 192: 0.7, 3000: 4.0}
# What keeps a route from a size.
PROBLEMS = (
    ValueError,
    CompileError,
    ExportError,
    NotEnoughMemoryError,
    openmm.OpenMMException,
)
PROFILED_STEPS = 10
WIDTH = 130  # characters of the table
MATRIX = 4096  # rows, of the product that measures what the device can do


@dataclasses.dataclass(frozen=True)
class Route:
    """A way for OpenMM to call the model."""

    backend: str
    implementation: str
    graphs: bool = False

    def __str__(self) -> str:
        """Name it as in the table."""
        name = f"{self.backend}, {self.implementation}"
        return f"{name}, CUDA graphs" if self.graphs else name


ROUTES = (
    Route("torchforce", "triton", graphs=True),
    Route("torchforce", "triton"),
    Route("pythonforce", "triton", graphs=True),
    Route("pythonforce", "triton"),
    Route("torchforce", "torchscript", graphs=True),
    Route("torchforce", "torchscript"),
    Route("pythonforce", "torchscript"),  # which stays on the processor
)


def structure(atoms: int) -> tuple[app.Topology, np.ndarray]:
    """Return topology and positions [n_atoms, 3], A."""
    return liquid(atoms) if atoms in BOXES else cluster(atoms)


def arithmetic(model: str, topology: app.Topology, positions: np.ndarray) -> int:
    """Return the floating-point operations of the network's matrix products.

    Forces are included.  Code compiled for a processor needs fewer, because it
    leaves zeros out and takes radial functions from a table.
    """
    network = load_model(model).network(torch.float32)
    elements = network.config.elements
    species = torch.tensor([elements.index(a.element.symbol) for a in topology.atoms()])
    x = torch.from_numpy(positions).float()
    box = box_of(topology)
    edges = all_pairs(len(x))
    if box is not None:
        edges = neighbor_pairs(x, network.config.cutoff, torch.from_numpy(box))
    x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        energy = ForceField(network).energies(x, species, edges)
        torch.autograd.grad(energy.sum(), x)
    return int(counter.get_total_flops())


def matrix_speed(device: str) -> float:
    """Return the operations a second of a large product in float32, without TF32."""
    rows = MATRIX if device == "cuda" else MATRIX // 4
    a = torch.rand(rows, rows, device=device)

    def multiply(times: int) -> None:
        for _ in range(times):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()

    (rounds,) = interleave([multiply], rounds=5, seconds=0.2)
    return float(2 * rows**3 / summary(rounds)["seconds"])


def kernels(stepper: Stepper, device: str) -> float:
    """Return kernels a step; on a processor, operations of PyTorch."""
    cuda = device == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        stepper.step(PROFILED_STEPS)
    found = [e for e in profiled.events() if cuda or not e.cpu_children]
    return len(found) / PROFILED_STEPS


def steppers(
    model: str, topology: app.Topology, positions: np.ndarray, platform: str
) -> Iterator[tuple[Route, Stepper | str]]:
    """Yield each route ready to step, or why it cannot."""
    for route in ROUTES:
        problem = BACKENDS[route.backend].problem()
        if problem is not None:
            yield route, problem
            continue
        if route.graphs and platform != "CUDA":
            continue
        try:
            potential = SE3Potential(
                model,
                backend=route.backend,
                implementation=route.implementation,
                cudaGraphs=route.graphs,
            )
            yield route, Stepper(potential.createSystem(topology), positions, platform)
        except PROBLEMS as error:
            yield route, " ".join(str(error).split())


def measure(
    model: str, atoms: int, platform: str, speed: float, rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each route at one size.

    Args:
        model: Name or path of a model.
        atoms: One of ``SIZES``.
        platform: OpenMM platform.
        speed: What :func:`matrix_speed` gives.
        rounds: Rounds of each route.
        seconds: About how long a round lasts, s.
    """
    device = "cuda" if platform == "CUDA" else "cpu"
    topology, positions = structure(atoms)
    try:  # takes a hundredth of the memory
        exact = SE3Potential(model, precision="double", implementation="compiled")
    except CompileError:
        exact = SE3Potential(model, precision="double", implementation="torchscript")
    system = exact.createSystem(topology)
    _, reference = energy_and_forces_of(
        Stepper(system, positions, "Reference", "double").context
    )
    # Operations grow with the number of molecules, and so would memory here.
    counted = atoms if atoms not in BOXES else min(BOXES)
    flops = arithmetic(model, *structure(counted)) * atoms / counted
    ready: list[tuple[Route, Stepper]] = []
    for route, made in steppers(model, topology, positions, platform):
        if isinstance(made, str):
            yield {"atoms": atoms, "route": str(route), "problem": made}
        else:
            ready.append((route, made))
    error = [
        abs(energy_and_forces_of(stepper.context)[1] - reference).max()
        for _, stepper in ready
    ]
    times = interleave([s.step for _, s in ready], rounds, seconds)
    for (route, stepper), off, own in zip(ready, error, times, strict=True):
        measured = summary(own)
        yield {
            "atoms": atoms,
            "route": str(route),
            **measured,
            "kernels": kernels(stepper, device),
            "share": flops / speed / measured["seconds"],
            "force_error": float(off),
        }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table, and at each size whether the goals are met."""
    shown = Table(box=None)
    shown.add_column("atoms", justify="right")
    widest = max(len(str(route)) for route in ROUTES)
    shown.add_column("route", no_wrap=True, min_width=widest)
    for heading in ("ms/step", "fastest", "slowest", "kernels", "arithmetic"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("error, eV/A", justify="right", no_wrap=True)
    shown.add_column("goal, ms", no_wrap=True)
    for row in rows:
        if "problem" in row:
            shown.add_row(f"{row['atoms']:,}", row["route"], row["problem"])
            continue
        times = [1e3 * row[key] for key in ("seconds", "fastest", "slowest")]
        goal = GOALS.get(row["atoms"])
        met = goal is not None and times[0] <= goal
        shown.add_row(
            f"{row['atoms']:,}",
            row["route"],
            *(f"{time:.3f}" for time in times),
            f"{row['kernels']:.0f}",
            f"{100.0 * row['share']:.3g} %",
            f"{row['force_error']:.1e}",
            "" if goal is None else f"{goal:g} {'met' if met else 'missed'}",
        )
    return shown


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--platform", default="CUDA", show_default=True)
@click.option(
    "--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Atoms."
)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="A round.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    model: str,
    platform: str,
    sizes: str,
    rounds: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Print one table of every check of the force on a GPU."""
    wanted = [int(word) for word in sizes.split(",")]
    unknown = [atoms for atoms in wanted if atoms not in SIZES]
    if unknown:
        raise click.UsageError(f"sizes are {SIZES}, got {unknown[0]}")
    try:
        named_platform(platform)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    torch.backends.cuda.matmul.allow_tf32 = False
    speed = matrix_speed("cuda" if platform == "CUDA" else "cpu")
    console = Console(width=WIDTH)
    console.print(
        f"{machine.describe_line()}; products of matrices: {speed / 1e12:.3g} TFLOP/s "
        "in float32",
        highlight=False,
    )
    rows: list[dict[str, Any]] = []
    for atoms in wanted:
        rows += measure(model, atoms, platform, speed, rounds, seconds)
    console.print(table(rows))
    if out is not None:
        with atomic_write(out) as temporary:
            content = {"machine": machine.describe(), "rows": rows}
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

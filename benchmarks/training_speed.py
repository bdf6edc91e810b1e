"""Training throughput and memory of our network and NVIDIA's at equal size.

    python benchmarks/training_speed.py --out training_speed.json

Three layers, 32 channels, 8 heads, degrees 0 to 2, on the same batch of water hexamers
(18 atoms), with one thread and the same loss and optimiser:

* ours with its default kernels (depthwise), compiled and with PyTorch, and with the
  full kernels of the paper, one radial function for each path and pair of channels,
  all harmonics, no mirror symmetry;
* NVIDIA's (accuracy/nvidia_network.py), whose kernels are full; keys and values have
  half of the channels, as by default.

| task   | forward                   | backward                                     |
|--------|---------------------------|----------------------------------------------|
| energy | energies of the molecules | of the squared error to all weights          |
| forces | energies and F = -dE/dx   | of both squared errors, through the gradient |

"energy" is what NVIDIA's own script trains; its basis is computed once and before, as
by its ``--precompute_bases``, while ours is part of the step.  A step of Adam is
included.

Each network has a process of its own, since importing NVIDIA's changes TorchScript for
a whole process, and so that peak memories are separate: "step MiB" is what the peak is
above the memory before the first step.  The processes take turns for several rounds,
and medians of processor time are compared.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

HERE = Path(__file__).parent
sys.path.append(str(HERE / "accuracy"))

from environments import environments_option, nvidia_option, nvidia_source  # noqa: E402
from graphs import batch as batch_graphs  # noqa: E402
from nvidia_network import ForceField  # noqa: E402

from openmm_se3.benchmark import machine  # noqa: E402
from openmm_se3.benchmark.memory import (  # noqa: E402
    peak_memory,
    reset_peak_memory,
)
from openmm_se3.compiled.training import CompiledBatches  # noqa: E402
from openmm_se3.config import ModelConfig  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402
from openmm_se3.model.transformer import SE3Transformer  # noqa: E402
from openmm_se3.reference.hdf5 import read_hdf5  # noqa: E402
from openmm_se3.training.data import FrameGraphs, graph_tensors  # noqa: E402
from openmm_se3.training.memory import keep_freed_memory  # noqa: E402
from openmm_se3.training.module import energies_only  # noqa: E402

DATA = HERE.parent / "models/water/data/water6.h5"
ELEMENTS, CUTOFF = ("H", "O"), 6.0
LAYERS, CHANNELS, HEADS, DEGREES = 3, 32, 8, 3
COMPILED = "ours, default kernels, compiled"
OURS: dict[str, dict[str, Any]] = {
    COMPILED: {"jmax": 2},
    "ours, default kernels": {"jmax": 2},
    "ours, full kernels": {"kernel": "full", "mirror": False},
}
NVIDIA = "NVIDIA"
TASKS = ("energy", "forces")
WARM_UP_STEPS = 2

Predict = Callable[[], tuple[Tensor, Tensor | None]]


def read_batch(size: int) -> tuple[Any, Tensor]:
    """Return hexamers as one graph, and their energies (eV)."""
    dataset = read_hdf5(DATA)
    frames = dataset.frames[:size]
    if len(frames) < size:
        raise click.UsageError(f"{DATA.name} holds {len(frames)} frames only")
    graphs = FrameGraphs(frames, ELEMENTS, CUTOFF, dataset.self_energies, np.ones(size))
    graph, labels = batch_graphs(graphs, np.arange(size))
    return graph, labels["energy"]


def ours(name: str, task: str, graph: Any) -> tuple[torch.nn.Module, Predict]:
    """Return one of our networks and what it predicts for the batch."""
    config = ModelConfig(
        elements=ELEMENTS,
        cutoff=CUTOFF,
        layers=LAYERS,
        channels=CHANNELS,
        key_channels=CHANNELS // 2,
        heads=HEADS,
        lmax=DEGREES - 1,
        **OURS[name],
    )
    network = SE3Transformer(config).float()
    tensors = graph_tensors(graph)
    if name == COMPILED:
        compiled = CompiledBatches(network)

        def predict() -> tuple[Tensor, Tensor | None]:
            energies, forces = compiled.energy_and_forces(network, **vars(tensors))
            return energies, None if task == "energy" else forces

        return network, predict
    if task == "energy":
        return network, lambda: (energies_only(network, tensors), None)
    return network, lambda: network.energy_and_forces(
        **vars(tensors), create_graph=True, paired=True
    )


def nvidia(source: Path, task: str, graph: Any) -> tuple[torch.nn.Module, Predict]:
    """Return NVIDIA's network and what it predicts for the batch."""
    network = ForceField(source, len(ELEMENTS), LAYERS, CHANNELS, DEGREES, HEADS)
    if task == "energy":
        vectors = network.edge_vectors(graph)
        basis = network.basis(vectors)
        return network, lambda: (
            network.molecule_energies(graph, vectors, basis),
            None,
        )
    return network, lambda: network.energy_and_forces(graph, create_graph=True)


def serve(pipe: Connection, name: str, task: str, size: int, source: Path) -> None:
    """Make steps when asked to.

    Args:
        pipe: Brings numbers of steps; takes processor and wall time of a step (s),
            memory (MiB) and number of weights.
        name: The network.
        task: "energy" or "forces".
        size: Molecules of the batch.
        source: Folder of NVIDIA's files.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    graph, reference = read_batch(size)
    if name == NVIDIA:
        network, predict = nvidia(source, task, graph)
    else:
        network, predict = ours(name, task, graph)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    before = reset_peak_memory()
    while steps := pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(steps):
            energies, forces = predict()
            loss = (energies - reference).square().mean()
            if forces is not None:
                difference = forces - graph.ndata["forces"]
                loss = loss + difference.square().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pipe.send(
            {
                "processor_seconds": (time.process_time() - processor) / steps,
                "wall_seconds": (time.perf_counter() - wall) / steps,
                "step_memory_mib": peak_memory() - before,
                "peak_memory_mib": peak_memory(),
                "parameters": sum(p.numel() for p in network.parameters()),
            }
        )


def measure(
    task: str, size: int, rounds: int, steps: int, source: Path
) -> list[dict[str, Any]]:
    """Return one row a network for a task."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    processes = []
    for name in (*OURS, NVIDIA):
        pipes[name], other = context.Pipe()
        arguments = (other, name, task, size, source)
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        other.close()  # so that an end of the process is noticed here
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
    for count in [WARM_UP_STEPS, *[steps] * rounds]:
        for name, pipe in pipes.items():
            pipe.send(count)
            taken[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()
    rows = []
    for name, measured in taken.items():
        own = [row["processor_seconds"] for row in measured[1:]]
        rows.append(
            {
                "task": task,
                "network": name,
                "parameters": int(measured[-1]["parameters"]),
                "processor_seconds": statistics.median(own),
                "wall_seconds": statistics.median(
                    row["wall_seconds"] for row in measured[1:]
                ),
                "molecules_per_second": size / statistics.median(own),
                "step_memory_mib": measured[-1]["step_memory_mib"],
                "peak_memory_mib": measured[-1]["peak_memory_mib"],
                "rounds": own,
            }
        )
    for row in rows:
        row["times_nvidia"] = rows[-1]["processor_seconds"] / row["processor_seconds"]
    return rows


def print_table(rows: list[dict[str, Any]], size: int, console: Console) -> None:
    """Print one line a task and network."""
    title = f"training on batches of {size} water hexamers"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("task", "network"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "parameters",
        "ms/step",
        "molecules/s",
        "times NVIDIA",
        "step MiB",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["task"],
            row["network"],
            f"{row['parameters']:,}",
            f"{1e3 * row['processor_seconds']:.0f}",
            f"{row['molecules_per_second']:.1f}",
            f"{row['times_nvidia']:.1f}",
            f"{row['step_memory_mib']:.0f}",
        )
    console.print(table)


@click.command()
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True)
@environments_option
@nvidia_option
@click.option("--out", type=click.Path(path_type=Path))
def main(
    batch: int,
    rounds: int,
    steps: int,
    environments: Path,
    nvidia_repository: str,
    out: Path | None,
) -> None:
    """Time training steps."""
    console = Console()
    source = nvidia_source(environments, nvidia_repository)
    rows = []
    for task in TASKS:
        rows += measure(task, batch, rounds, steps, source)
    print_table(rows, batch, console)
    console.print(
        f"medians of {rounds} interleaved rounds of {steps} steps, processor time, one "
        f"thread; {machine.describe_line()}",
        highlight=False,
    )
    if out is not None:
        result = {"machine": machine.describe(), "batch": batch, "rows": rows}
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

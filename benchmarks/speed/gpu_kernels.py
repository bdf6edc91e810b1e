"""The Triton kernels on an NVIDIA GPU, by themselves: right, and how fast?

    python benchmarks/speed/gpu_kernels.py

Needs torch with Triton and a GPU, and neither OpenMM's CUDA platform nor its plugin.
First forces are compared with those of the network, in both precisions, without a box
and in one.  Then a step is timed at 3 to 50,000 atoms of the density of water, launch
by launch and as a CUDA graph, beside what ``roofline.py`` reckons, and its kernels are
listed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.append(str(Path(__file__).parent))
import roofline  # noqa: E402

from openmm_se3.model_file import PRECISIONS, load_model  # noqa: E402
from openmm_se3.neighbors import default_room, neighbor_pairs  # noqa: E402
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer  # noqa: E402
from openmm_se3.triton import kernels  # noqa: E402
from openmm_se3.triton.force import triton_force  # noqa: E402
from openmm_se3.units import (  # noqa: E402
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

SPACING = roofline.DENSITY ** (-1.0 / 3.0)  # A
COMPARED = (3, 24, 192)
LIMITS = {"single": 5e-5, "double": 1e-9}  # eV/A and eV an atom
WARM_UP, CAPTURED_AFTER = 5, 3  # steps
SECONDS = 0.5  # of one measurement

Step = Callable[[], tuple[Tensor, Tensor]]


def structure(n_atoms: int, boxed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return species [n_atoms], positions [n_atoms, 3] and the box, A, float64."""
    side = 1
    while side**3 < n_atoms:
        side += 1
    generator = torch.Generator().manual_seed(n_atoms)
    places = torch.randperm(side**3, generator=generator)[:n_atoms].sort().values
    grid = torch.stack([places % side, places // side % side, places // side**2], dim=1)
    jitter = torch.rand(grid.shape, generator=generator, dtype=torch.float64)
    spacing = SPACING * (n_atoms / side**3) ** (1.0 / 3.0) if boxed else SPACING
    positions = spacing * (grid + 0.3 * jitter)
    species = (torch.arange(n_atoms) % 3 == 0).long()  # O H H, as [H, O] counts them
    box = side * spacing * torch.eye(3, dtype=torch.float64)
    return species, positions, box if boxed else None


def step_of(
    network: SE3Transformer, precision: str, n_atoms: int, boxed: bool, device: str
) -> Step:
    """Return what computes energy and forces once."""
    species, positions, box = structure(n_atoms, boxed)
    room = default_room(network.config.cutoff)
    room = room if boxed else min(room, max(n_atoms - 1, 1))
    module = triton_force(network, precision, room)
    module.set_atoms(species, torch.arange(n_atoms), 0.0)
    dtype = PRECISIONS[precision]
    x = (positions / NM_TO_ANGSTROM).to(device, dtype)
    cell = None if box is None else (box / NM_TO_ANGSTROM).to(device, dtype)
    return lambda: module(x, cell)


def difference(
    network: SE3Transformer, precision: str, n_atoms: int, boxed: bool, device: str
) -> float:
    """Return the largest difference to the network: eV an atom, or eV/A."""
    species, positions, box = structure(n_atoms, boxed)
    # The positions that the GPU gets.
    x = positions / NM_TO_ANGSTROM
    x = x.to(PRECISIONS[precision]).double() * NM_TO_ANGSTROM
    if box is not None:
        box = (box / NM_TO_ANGSTROM).to(PRECISIONS[precision]).double() * NM_TO_ANGSTROM
    edges = neighbor_pairs(x, network.config.cutoff, box)
    energy, forces = ForceField(network)(x, species, edges)
    found, found_forces = step_of(network, precision, n_atoms, boxed, device)()
    off = abs(float(found) / EV_TO_KJ_PER_MOL - float(energy)) / n_atoms
    found_forces = found_forces.cpu().double() / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
    return max(off, float((found_forces - forces).abs().max()))


def seconds_of(step: Callable[[], Any]) -> float:
    """Return the time of a step, s: of many, one behind the other."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    count, taken = 1, 0.0
    while taken < SECONDS:
        count *= 2
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        taken = time.perf_counter() - start
    return taken / count


def recorded(step: Step) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
    """Return a step as a CUDA graph, and the tensors that it writes to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CAPTURED_AFTER):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


def kernel_table(step: Callable[[], Any]) -> list[tuple[str, int, float]]:
    """Return name, launches and time (s) of each kernel in a step, longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    rows = [
        (event.key, event.count, 1e-6 * event.device_time_total)
        for event in profiled.key_averages()
    ]
    return sorted(rows, key=lambda row: -row[2])


def measure(network: SE3Transformer, n_atoms: int, gpu: roofline.GPU) -> dict[str, Any]:
    """Return the times of one size, s, its memory, bytes, and its kernels."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = step_of(network, "single", n_atoms, n_atoms >= roofline.BOXES, "cuda")
    _, forces = step()
    expected = forces.clone()
    replay, (_, recorded_forces) = recorded(step)
    replay()
    busy, waiting = roofline.times_of(
        network.config, roofline.work_of(network.config), gpu, n_atoms
    )
    return {
        "atoms": n_atoms,
        "launched": seconds_of(step),
        "graph": seconds_of(replay),
        "same": bool(torch.equal(recorded_forces, expected)),
        "busy": busy,
        "waiting": waiting,
        "memory": torch.cuda.max_memory_allocated() - before,
        "kernels": kernel_table(replay),
    }


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--sizes", default=",".join(map(str, roofline.SIZES)), show_default=True)
@click.option("--gpu", type=click.Choice(list(roofline.GPUS)), default="H200")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(model: str, sizes: str, gpu: str, out: Path | None) -> None:
    """Print whether the kernels are right, and how fast."""
    problem = kernels.problem()
    if problem is not None:
        raise click.ClickException(problem)
    torch.backends.cuda.matmul.allow_tf32 = False
    network = load_model(model).network(torch.float64)
    name = torch.cuda.get_device_name()
    click.echo(f"{name}, torch {torch.__version__}; model {model}")
    wrong = []
    for precision, limit in LIMITS.items():
        for n_atoms in COMPARED:
            for boxed in (False, True):
                off = difference(network, precision, n_atoms, boxed, "cuda")
                place = "in a box" if boxed else "free"
                click.echo(f"{precision}, {n_atoms} atoms {place}: {off:.1e}")
                if not off < limit:
                    wrong.append((precision, n_atoms, place, off))
    rows = []
    click.echo("atoms: ms launched, ms as a graph (reckoned busy, waiting), MB, same")
    for n_atoms in map(int, sizes.split(",")):
        row = measure(network, n_atoms, roofline.GPUS[gpu])
        rows.append(row)
        times = [1e3 * row[key] for key in ("launched", "graph", "busy", "waiting")]
        click.echo(
            f"{n_atoms:,}: {times[0]:.3f}, {times[1]:.3f} ({times[2]:.3f}, "
            f"{times[3]:.3f}), {row['memory'] / 1e6:.0f}, {row['same']}"
        )
        for kernel, count, seconds in row["kernels"][:8]:
            click.echo(f"    {1e3 * seconds:8.3f} ms {count:3d} x {kernel[:70]}")
    if out is not None:
        content = {"gpu": name, "torch": torch.__version__, "model": model}
        out.write_text(json.dumps({**content, "wrong": wrong, "rows": rows}, indent=1))
    if wrong:
        raise click.ClickException(f"forces differ from the network's: {wrong}")


if __name__ == "__main__":
    main()

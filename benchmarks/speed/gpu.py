"""Every check of the force on a GPU, in one run of about ten minutes.

    python benchmarks/speed/gpu.py --peers peers --out gpu.json

In this order, and the file is written after each row:

1. forces of every route (gpu_routes.py) at 3, 24 and 192 atoms beside those in double
   precision on a processor;
2. time per MD step, OpenMM included, at 3 and 24 atoms without a box and 192 to 20,000
   in one, beside the goal on an H100 or H200 and what roofline.py expects, with the
   kernels of a step, and the share of it that the arithmetic would take at the speed of
   a large matrix product; routes take turns;
3. training steps (training/gpu_step.py);
4. the same time of MACE and TensorNet, whose packages are in folders of their own:
   ``pip install --target peers/mace mace-torch openmmml`` and
   ``--target peers/tensornet torchmd-net openmmml``.

What fails is listed as a problem, and the rest goes on.  After ``--minutes`` nothing
new is started.  The exit code is 1 where forces or gradients are wrong.

``--dry-run`` goes the same way on a machine without a GPU, with three atoms.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from openmm import app
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent)]
sys.path += [str(HERE.parent / "accuracy"), str(HERE.parent / "training")]

import gpu_step  # noqa: E402
import roofline  # noqa: E402
from gpu_routes import BOXES, ROUTES, Entry, measure, prepare, structure  # noqa: E402
from job import Job  # noqa: E402
from turns import start_worker, workers_take_turns  # noqa: E402
from worker_process import Limits  # noqa: E402

from openmm_se3.benchmark import machine  # noqa: E402
from openmm_se3.benchmark.timing import interleave, summary  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402
from openmm_se3.geometry import box_of  # noqa: E402
from openmm_se3.model_file import load_model  # noqa: E402
from openmm_se3.neighbors import all_pairs, neighbor_pairs  # noqa: E402
from openmm_se3.nn.force_field import ForceField  # noqa: E402
from openmm_se3.simulation.platforms import named_platform  # noqa: E402

SIZES = (3, 24, 192, 648, 1536, 3000, 5184, 20_000)  # atoms
COMPARED_FIRST = 192
FORCE_LIMIT = 1e-3  # eV/A; OpenMM's GPU platforms have forces in single precision
# ms a step, on an H100 or H200.
GOALS = {3: 0.3, 24: 0.3, 192: 0.7, 3000: 4.0}
WIDTH = 140  # characters of the table
MATRIX = 4096  # rows, of the product that measures what the device can do
CLUSTERS, TRAINED_STEPS = 32, 20
PEERS = {"mace": "MACE-OFF23-small", "tensornet": "TensorNet 128x2"}
PEER_LIMITS = Limits(seconds=90.0, gigabytes=64.0)  # to get ready, or of a round


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


def expected_seconds(model: str, atoms: int, gpu: str) -> float:
    """Return what a step with CUDA graphs is reckoned to take."""
    config = load_model(model).config
    work = roofline.work_of(config)
    times = roofline.times_of(config, work, roofline.GPUS[gpu], atoms)
    return max(times) + roofline.BESIDE


def peer_rows(
    peers: Path, atoms: int, platform: str, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return a row for each peer at one size: its time, or what kept it from that."""
    starts = {}
    for name in PEERS:
        job = Job(name, atoms, 1, seconds, "", "", platform=platform)
        log = peers / "logs" / f"{atoms}-{name}.log"
        starts[name] = partial(
            start_worker,
            Path(sys.executable),
            HERE / "worker.py",
            job,
            1,
            log,
            PEER_LIMITS,
            gpu=platform == "CUDA",
            packages=peers / name,
        )
    measured, errors = workers_take_turns(starts, rounds)
    rows = []
    for name, label in PEERS.items():
        found = measured.get(name) or {"problem": str(errors[name])}
        rows.append({"atoms": atoms, "route": label, **found})
    return rows


class Record:
    """What has been found, written to a file after each row.

    Args:
        path: The file; None for none.
        minutes: After so many nothing new is to be started.
    """

    def __init__(self, path: Path | None, minutes: float) -> None:
        self._path = path
        self._end = time.monotonic() + 60.0 * minutes
        self.content: dict[str, Any] = {"machine": machine.describe()}

    def keep(self, section: str, *rows: dict[str, Any]) -> None:
        """Add rows to a section, and write the file."""
        self.content.setdefault(section, []).extend(rows)
        self.write()

    def write(self) -> None:
        """Write the file."""
        if self._path is not None:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n")

    def may_start(self, what: str) -> bool:
        """Tell whether there is time left; keep what there is none for."""
        if time.monotonic() < self._end:
            return True
        self.keep("left out", {"what": what})
        return False


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table, and at each size whether the goals are met."""
    shown = Table(box=None)
    shown.add_column("atoms", justify="right")
    widest = max(len(str(route)) for route in ROUTES)
    shown.add_column("route", no_wrap=True, min_width=widest)
    headings = ("ms/step", "fastest", "slowest", "expected", "kernels", "arithmetic")
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("error, eV/A", justify="right", no_wrap=True)
    shown.add_column("goal, ms", no_wrap=True)
    for row in rows:
        if "problem" in row:
            continue
        times = [1e3 * row[key] for key in ("seconds", "fastest", "slowest")]
        goal = GOALS.get(row["atoms"]) if "share" in row else None
        met = goal is not None and times[0] <= goal
        formats = {"kernels": "{:.0f}", "share": "{:.3%}", "force_error": "{:.1e}"}
        shown.add_row(
            f"{row['atoms']:,}",
            row["route"],
            *(f"{time:.3f}" for time in times),
            f"{1e3 * row['expected']:.3f}" if "expected" in row else "",
            *(form.format(row[k]) if k in row else "" for k, form in formats.items()),
            "" if goal is None else f"{goal:g} {'met' if met else 'missed'}",
        )
    return shown


def problem_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return what kept routes from being measured."""
    return [
        f"{row['atoms']:,} atoms, {row['route']}: {row['problem']}"
        for row in rows
        if "problem" in row
    ]


def kernel_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the kernels of the fastest of some routes."""
    timed = [row for row in rows if "kernel_table" in row]
    if not timed:
        return []
    row = min(timed, key=lambda row: float(row["seconds"]))
    lines = [f"{row['atoms']:,} atoms, {row['route']}: ms, launches a step"]
    for name, count, seconds in row["kernel_table"]:
        lines.append(f"  {1e3 * seconds:8.4f} {count:5.1f} {name[:90]}")
    return lines


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--platform", default="CUDA", show_default=True)
@click.option(
    "--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Atoms."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=float, default=0.3, show_default=True, help="A round.")
@click.option(
    "--minutes", type=float, default=9.0, show_default=True, help="Of all together."
)
@click.option("--gpu", type=click.Choice(list(roofline.GPUS)), default="H200")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with the folders mace and tensornet of packages.",
)
@click.option("--dry-run", is_flag=True, help="Without a GPU: three atoms.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    model: str,
    platform: str,
    sizes: str,
    rounds: int,
    seconds: float,
    minutes: float,
    gpu: str,
    peers: Path | None,
    dry_run: bool,
    out: Path | None,
) -> None:
    """Print every check of the force on a GPU."""
    clusters, trained_steps = CLUSTERS, TRAINED_STEPS
    if dry_run:
        platform, sizes, rounds, seconds = "Reference", "3", 1, 0.01
        clusters, trained_steps = 1, 1
    wanted = [int(word) for word in sizes.split(",")]
    unknown = [atoms for atoms in wanted if atoms not in SIZES]
    if unknown:
        raise click.UsageError(f"sizes are {SIZES}, got {unknown[0]}")
    try:
        named_platform(platform)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    device = "cuda" if platform == "CUDA" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    record = Record(out, minutes)
    console = Console(width=WIDTH, highlight=False)
    speed = record.content["matrix_speed"] = matrix_speed(device)
    console.print(
        f"{machine.describe_line()}; products of matrices: {speed / 1e12:.3g} TFLOP/s "
        "in float32"
    )
    prepared: dict[int, list[Entry]] = {}
    for atoms in wanted:
        if atoms <= COMPARED_FIRST and record.may_start(f"forces of {atoms} atoms"):
            prepared[atoms] = prepare(model, atoms, platform)
            for entry in prepared[atoms]:
                record.keep("forces", dict(entry.row))
    for row in record.content.get("forces", []):
        found = row.get("problem") or f"{row['force_error']:.1e} eV/A off"
        console.print(f"{row['atoms']} atoms, {row['route']}: {found}")

    for atoms in wanted:
        if not record.may_start(f"steps of {atoms} atoms"):
            continue
        entries = prepared.pop(atoms, None) or prepare(model, atoms, platform)
        measure(entries, rounds, seconds, device == "cuda")
        # Operations grow with the number of molecules, and so would memory here.
        counted = min(atoms, BOXES)
        flops = arithmetic(model, *structure(counted)) * atoms / counted
        rows = [entry.row for entry in entries]
        for row in rows:
            if "seconds" in row:
                row["share"] = flops / speed / row["seconds"]
                row["expected"] = expected_seconds(model, atoms, gpu)
        record.keep("rows", *rows)
        console.print(table(rows))
        for line in problem_lines(rows) + kernel_lines(rows):
            console.print(line, markup=False)

    if record.may_start("training"):
        try:
            for row in gpu_step.measure(model, clusters, 6, trained_steps, device):
                record.keep("training", row)
                console.print(gpu_step.line_of(row), markup=False)
        except Exception as error:  # of Triton, its compiler, or the driver
            record.keep("training", {"problem": str(error)})
            console.print(f"training: {error}", markup=False)

    for atoms in wanted if peers is not None else []:
        if record.may_start(f"others at {atoms} atoms"):
            rows = peer_rows(peers, atoms, platform, rounds, seconds)
            record.keep("rows", *rows)
            console.print(table(rows))
            for line in problem_lines(rows):
                console.print(line, markup=False)
    record.write()
    wrong = [
        row
        for section in ("forces", "rows", "training")
        for row in record.content.get(section, [])
        if not row.get("force_error", 0.0) < FORCE_LIMIT or row.get("wrong", False)
    ]
    if wrong:
        raise click.ClickException(f"forces or gradients are wrong: {wrong}")


if __name__ == "__main__":
    main()

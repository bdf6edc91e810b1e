"""Our network and its peers on the same frames, in the same time.

    python benchmarks/accuracy/compare.py --minutes 60

MACE, NequIP, TensorNet (TorchMD-Net) and NVIDIA's SE(3)-Transformer, each in its own
package, beside ours: every network, set of frames (frames.py) and ``--seed`` is one
training run of ``--minutes`` of one core's time or, with ``--device cuda``, of a GPU's
(budget.py).  Errors on the test frames are measured here, by the same arithmetic for
all (errors.py).  A finished run is a JSON file in ``--out`` and is not repeated; one
that was stopped starts again.  The tables hold all finished runs of the sets, so that
several commands can fill one folder.

Written to ``--out``: accuracy.csv, accuracy.md and accuracy.png (validation errors
against time), and for each run its frames, predictions and log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import click
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
from rich.console import Console
from rich.markup import escape
from tables import plot, print_tables, write_tables

from openmm_se3.benchmark import machine
from openmm_se3.files import atomic_write, sha256

HERE = Path(__file__).parent

CURVE_POINTS = 10
SHORT_MINUTES, SHORT_CURVE_POINTS, SHORT_TEST_ATOMS = 0.1, 2, 400


def code_of(network: str) -> list[Path]:
    """Return the files whose code decides what a network learns, our package's too."""
    folders: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    if network == "ours":
        folders, others = ("compiled", "nn", "training"), ("graphs.py",)
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


def job_of(common: Job, network: str, seed: int) -> Job:
    """Return one run of a set: what all have in common, with its folder and seed."""
    out = common.out / f"{network}-seed{seed}"
    return dataclasses.replace(common, out=out, seed=seed)


def result_file(folder: Path, name: str, network: str, seed: int) -> Path:
    """Return the file of one run's result."""
    return folder / f"{name}-{network}-seed{seed}.json"


def seeds_of(folder: Path, name: str, network: str) -> list[int]:
    """Return the seeds of a network's finished runs on a set."""
    stem = f"{name}-{network}-seed"
    return sorted(int(path.stem[len(stem) :]) for path in folder.glob(f"{stem}*.json"))


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


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60.0)
@click.option("--set", "sets", multiple=True, type=click.Choice(list(SETS)))
@click.option("--network", "chosen", multiple=True, type=click.Choice(ENVIRONMENTS))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--short", is_flag=True, help="Seconds and few frames, to try it out.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(0),
    default=[0],
    show_default=True,
    help="Seed of weights and batches; several are several runs.",
)
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
    seeds: tuple[int, ...],
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
        common = Job(
            data=data,
            out=folder / name,
            elements=frame_set.elements,
            cutoff=frame_set.cutoff,
            batch_atoms=frame_set.batch_atoms,
            seconds=60.0 * minutes,
            curve_points=SHORT_CURVE_POINTS if short else CURVE_POINTS,
            test_atoms=SHORT_TEST_ATOMS if short else None,
            seed=0,
            source=None,
            device=device,
        )
        for seed, network in itertools.product(seeds, chosen or ENVIRONMENTS):
            job = job_of(common, network, seed)
            path = result_file(folder, name, network, seed)
            if finished(path, network, job) is not None:
                continue
            console.rule(f"{name}: {network}, seed {seed}")
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
            row = {"key": network, **result(network, job, frame_set.molecule_atoms)}
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(row, indent=1) + "\n")
        for network in ENVIRONMENTS:
            for seed in seeds_of(folder, name, network):
                path = result_file(folder, name, network, seed)
                row = finished(path, network, job_of(common, network, seed))
                assert row is not None
                results.setdefault(name, []).append(row)
    if results:
        print_tables(results, console)
        write_tables(folder, results)
        plot(folder / "accuracy.png", results)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

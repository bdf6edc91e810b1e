"""Time of an MD step beside others: ours, MACE, TensorNet, NVIDIA's network, DFT.

    python benchmarks/speed/compare.py
    python benchmarks/speed/compare.py --model organic \
        --molecule "CC(=O)N[C@@H](C)C(=O)NC" --out peers-run/dipeptide

Each contender (contenders.py) runs in an environment of its own, which is made before
its first run, and in a process of its own for each size.  All processes of a size stay
alive and time a round in turns, so that a busy moment of the machine hits all alike.
One thread for clusters, all cores for boxes, unless ``--threads`` says otherwise.
Processors only: a GPU is hidden from all of them.

Written to ``--out``: one JSON file a size, which is not measured again, speed.md and
speed.png.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent), str(HERE.parent / "accuracy")]

from comparison import Results, draw, report  # noqa: E402
from contenders import CONTENDERS  # noqa: E402
from environments import (  # noqa: E402
    environments_option,
    nvidia_option,
    nvidia_source,
    python_of,
)
from job import Job  # noqa: E402
from sizes import SIZES, VACUUM  # noqa: E402
from turns import start_worker, workers_take_turns  # noqa: E402
from worker_process import Limits, OverLimitError, Worker  # noqa: E402

from openmm_se3.benchmark import machine  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402
from openmm_se3.model_file import load_model  # noqa: E402
from openmm_se3.simulation.structure import make_structure  # noqa: E402

WATER_ONLY = ("full", "nvidia")  # made for two elements
SHORT_SIZES, SHORT_ROUNDS, SHORT_SECONDS = (3, 6), 2, 0.05


def start(job: Job, environments: Path, logs: Path, limits: Limits) -> Worker:
    """Start the process of a job; what it prints is kept in a folder."""
    python = python_of(CONTENDERS[job.contender].environment, environments)
    log = logs / f"{job.atoms}-{job.contender}.log"
    return start_worker(python, HERE / "worker.py", job, job.threads, log, limits)


def kept_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was measured of a size; None if nothing was.

    Raises:
        click.ClickException: It was measured with other settings.
    """
    if not path.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    differing = [key for key in settings if kept["settings"].get(key) != settings[key]]
    if differing:
        raise click.ClickException(
            f"{path} was measured with other {', '.join(differing)}; remove it or name "
            "another --out"
        )
    return kept


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--atoms", multiple=True, type=click.Choice([str(n) for n in SIZES]))
@click.option("--molecule", default="", help="SMILES, in place of water.")
@click.option("--contender", "chosen", multiple=True, type=click.Choice([*CONTENDERS]))
@click.option("--threads", type=click.IntRange(1), help="Of every size.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=1.0,
    show_default=True,
    help="About how long a round lasts; at least one step.",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0.0, min_open=True),
    default=16.0,
    show_default=True,
    help="GB that a contender may take.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0.0, min_open=True),
    default=900.0,
    show_default=True,
    help="Seconds that a contender may take to get ready, and for a round.",
)
@click.option("--short", is_flag=True, help="Two small sizes, to try it out.")
@environments_option
@nvidia_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the results.  [default: peers-run/speed]",
)
def main(
    model: str,
    atoms: tuple[str, ...],
    molecule: str,
    chosen: tuple[str, ...],
    threads: int | None,
    rounds: int,
    seconds: float,
    memory: float,
    time_limit: float,
    short: bool,
    environments: Path,
    nvidia_repository: str,
    out: Path | None,
) -> None:
    """Time MD steps of ours, MACE, TensorNet, NVIDIA's network and DFT in turns.

    What is in the folder already is not measured again.
    """
    if short:
        rounds, seconds = SHORT_ROUNDS, SHORT_SECONDS
        atoms = atoms or tuple(map(str, SHORT_SIZES))
    folder = out or Path("peers-run") / ("speed-short" if short else "speed")
    logs = environments.resolve().parent / "speed-logs"
    limits = Limits(time_limit, memory)
    fit = [name for name in CONTENDERS if not (molecule and name in WATER_ONLY)]
    contenders = chosen or tuple(fit)
    source = ""
    if "nvidia" in contenders:
        source = str(nvidia_source(environments, nvidia_repository))
    if molecule:
        topology, _ = make_structure(molecule)
        atoms = (str(topology.getNumAtoms()),)
    shared = {
        **({"molecule": molecule} if molecule else {}),
        "weights_sha256": load_model(model).metadata["weights_sha256"],
        "rounds": rounds,
        "seconds": seconds,
        "limits": dataclasses.asdict(limits),
    }
    folder.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    over: dict[str, str] = {}  # contenders that went over a limit, and where
    failed: list[str] = []
    for n in sorted(map(int, atoms or SIZES)):
        cores = threads or (1 if n <= VACUUM[-1] else os.cpu_count() or 1)
        settings = {**shared, "threads": cores}
        path = folder / f"{n}.json"
        kept = kept_result(path, settings)
        wanted = [name for name in contenders if n <= CONTENDERS[name].largest]
        there = list(kept["rows"]) if kept is not None else []
        if kept is None or not set(wanted) <= set(there):
            # One that is missing has to take turns with those that are there.
            wanted = list(dict.fromkeys(wanted + there))
            click.echo(f"{n} atoms: {', '.join(wanted)}")
            facts = machine.describe()
            starts = {}
            for name in wanted:
                own = CONTENDERS[name].threads or cores
                job = Job(name, n, own, seconds, model, source, molecule)
                starts[name] = partial(start, job, environments, logs, limits)
            left = {name: starts[name] for name in wanted if name not in over}
            rows, errors = workers_take_turns(left, rounds)
            for name, error in errors.items():
                click.echo(f"{CONTENDERS[name].label}: {error}")
                if isinstance(error, OverLimitError):
                    over[name] = f"{error} at {n} atoms"
                else:
                    failed.append(f"{CONTENDERS[name].label} at {n} atoms")
            rows |= {name: {"over": over[name]} for name in wanted if name in over}
            kept = {"settings": settings, "machine": facts, "rows": rows}
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(kept, indent=1) + "\n")
        results[n] = kept
        over |= {k: row["over"] for k, row in kept["rows"].items() if "over" in row}
    text = report(results, molecule)
    click.echo(text)
    with atomic_write(folder / "speed.md") as temporary:
        temporary.write_text(text + "\n")
    if not molecule:
        draw(results, folder / "speed.png")
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

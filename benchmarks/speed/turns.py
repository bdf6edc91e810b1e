"""Workers that time rounds in turns, so that a busy moment hits all alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environments import variables
from worker_process import Limits, Worker, WorkerError

from openmm_se3.benchmark.timing import Round, summary

LEAST_ROUNDS = 3
ENOUGH_SECONDS = 300.0  # spent on one worker's rounds: then no more than the least


def start_worker(
    python: Path,
    script: Path,
    job: Any,
    threads: int,
    log: Path,
    limits: Limits,
    gpu: bool = False,
    packages: Path | None = None,
) -> Worker:
    """Start the process of a job.

    Args:
        python: Interpreter of its environment.
        script: The worker.
        job: What it measures, a dataclass.
        threads: Threads of its numerical libraries.
        log: File for what it prints.
        limits: What it may take.
        gpu: Let it see GPUs.
        packages: Folder of packages that it takes in place of this process's.
    """
    own = {
        **variables(threads, gpu, packages),
        "OPENMM_CPU_THREADS": str(threads),
        # e3nn 0.4.4, which MACE needs, keeps objects in files that torch refuses.
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        # Compiling in the worker itself, so that nothing is left when it is ended.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), str(script), json.dumps(dataclasses.asdict(job))]
    return Worker(command, own, log, limits)


def workers_take_turns(
    starts: dict[str, Callable[[], Worker]], rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, WorkerError]]:
    """Let workers get ready one after the other, time rounds in turns, and end.

    Args:
        starts: Starts the worker of each contender.
        rounds: Rounds of each; fewer of one that has taken long enough.

    Returns:
        A row for each contender, and why one was ended or failed.
    """
    workers: dict[str, Worker] = {}
    rows: dict[str, dict[str, Any]] = {}
    taken: dict[str, list[dict[str, Any]]] = {}
    errors: dict[str, WorkerError] = {}
    try:
        for name, start_one in starts.items():
            workers[name] = start_one()
            try:
                rows[name] = workers[name].answer()
                taken[name] = []
            except WorkerError as error:
                errors[name] = error
        for turn in range(rounds):
            for name in [name for name in taken if name not in errors]:
                spent = rows[name]["steps"] * sum(r["seconds"] for r in taken[name])
                if turn >= LEAST_ROUNDS and spent > ENOUGH_SECONDS:
                    continue
                try:
                    taken[name].append(workers[name].round())
                except WorkerError as error:
                    errors[name] = error
    finally:
        for worker in workers.values():
            worker.end()
    for name in [name for name in taken if name not in errors]:
        own = [Round(r["seconds"], r["cpu_seconds"]) for r in taken[name]]
        peak = taken[name][-1]["peak_memory_mib"]
        rows[name].update(**summary(own), peak_memory_mib=peak)
    return {name: rows[name] for name in rows if name not in errors}, errors

"""Times a model with every backend, implementation and platform that works here."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from openmm import app
from rich.table import Table

from openmm_se3.benchmark.timing import Stepper, interleave, summary
from openmm_se3.compiled.cache import CompileError
from openmm_se3.force import SE3Potential
from openmm_se3.force.backends import BACKENDS
from openmm_se3.geometry import in_angstrom
from openmm_se3.model_file import load_model
from openmm_se3.simulation.platforms import named_platform, platform_names
from openmm_se3.simulation.progress import ns_per_day
from openmm_se3.simulation.structure import read_structure
from openmm_se3.simulation.water import water_start, water_topology
from openmm_se3.threads import ONE_THREAD_ATOMS

NO_FORCE = "no force"  # what OpenMM itself needs
HEADINGS = {
    "backend": "backend",
    "implementation": "implementation",
    "platform": "platform",
    "precision": "precision",
    "scale": "scale",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time.

    Attributes:
        model: Name of a shipped model, or the path of a model.
        molecules: Sizes of water clusters; not used with a structure.
        structure: PDB or PDBx/mmCIF file; None takes water.
        implementations: "compiled", "triton", "torchscript", or some of them.
        precisions: "single", "double" or both.
        platforms: Names of OpenMM platforms; None takes all.
        scale: Time also with a global parameter of this name as scale; None does not.
        rounds: Rounds of each configuration.
        seconds: About how long a round of a configuration lasts, s.
        threads: Threads of torch; None takes one for small systems, else all.
        dt_fs: Time step that the speed in ns/day is for, fs.
    """

    model: str
    molecules: tuple[int, ...] = (1, 2, 8)
    structure: Path | None = None
    implementations: tuple[str, ...] = ("compiled", "triton", "torchscript")
    precisions: tuple[str, ...] = ("single",)
    platforms: tuple[str, ...] | None = None
    scale: str | None = None
    rounds: int = 7
    seconds: float = 0.3
    threads: int | None = None
    dt_fs: float = 0.5


def systems(settings: Settings) -> Iterator[tuple[str, app.Topology, np.ndarray]]:
    """Yield name, topology and positions [n_atoms, 3], A, of each system to time.

    Raises:
        FileNotFoundError: There is no such model or structure.
        ValueError: The structure cannot be read, or the model does not know water.
    """
    if settings.structure is not None:
        yield settings.structure.name, *read_structure(settings.structure)
        return
    elements = load_model(settings.model).config.elements
    if not {"H", "O"} <= set(elements):
        raise ValueError(
            f"the model {settings.model} knows {', '.join(elements)} and so no water; "
            "give a file of its atoms with --structure"
        )
    for n in settings.molecules:
        yield f"{n} H2O", water_topology(n), in_angstrom(water_start(n, seed=1))


def bench(settings: Settings, note: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Time every configuration; yield the rows of one system after the other.

    Args:
        settings: What to time.
        note: Is told what is timed, and what is left out and why.

    Yields:
        "system", "atoms", "threads" and "rows"; a row holds what the configuration is
        and the times of a step, s.

    Raises:
        FileNotFoundError: There is no such model or structure.
        ValueError: The structure is unfit for the model, or there is no such platform.
    """
    for backend in BACKENDS.values():
        problem = backend.problem()
        if problem is not None:
            note(f"left out: {problem}")
    before = torch.get_num_threads()
    try:
        for name, topology, positions in systems(settings):
            few = len(positions) <= ONE_THREAD_ATOMS
            threads = settings.threads or (1 if few else before)
            torch.set_num_threads(threads)
            found = list(_steppers(settings, topology, positions, note))
            needed = len(found) * (settings.rounds + 1) * settings.seconds
            note(f"{name}: {len(found)} configurations, about {needed:.0f} s")
            times = interleave(
                [stepper.step for _, stepper in found],
                settings.rounds,
                settings.seconds,
            )
            rows = [
                {
                    **facts,
                    **(measured := summary(own)),
                    "ns_per_day": ns_per_day(1, settings.dt_fs, measured["seconds"]),
                }
                for (facts, _), own in zip(found, times, strict=True)
            ]
            yield {
                "system": name,
                "atoms": len(positions),
                "threads": threads,
                "rows": sorted(rows, key=lambda row: row["seconds"]),
            }
    finally:
        torch.set_num_threads(before)


def _steppers(
    settings: Settings,
    topology: app.Topology,
    positions: np.ndarray,
    note: Callable[[str], None],
) -> Iterator[tuple[dict[str, str], Stepper]]:
    """Yield every configuration that runs here; tell which do not, and why."""
    wanted = settings.platforms or platform_names()
    platforms = [named_platform(name).getName() for name in wanted]
    backends = [key for key in BACKENDS if BACKENDS[key].problem() is None]
    scales = dict.fromkeys((None, settings.scale))
    for platform in platforms:
        facts = dict.fromkeys(HEADINGS, "") | {
            "backend": NO_FORCE,
            "platform": platform,
        }
        try:
            yield facts, Stepper(_bare_system(topology), positions, platform)
        except openmm.OpenMMException as error:
            note(f"left out: {platform}: {error}")
            continue
        for backend, implementation, precision, scale in itertools.product(
            backends, settings.implementations, settings.precisions, scales
        ):
            values = (backend, implementation, platform, precision, scale or "")
            facts = dict(zip(HEADINGS, values, strict=True))
            try:
                potential = SE3Potential(
                    settings.model,
                    precision=precision,
                    backend=backend,
                    implementation=implementation,
                )
                system = potential.createSystem(topology, scale=scale)
                yield facts, Stepper(system, positions, platform, precision)
            except (CompileError, openmm.OpenMMException) as error:
                note(f"left out: {', '.join(filter(None, values))}: {error}")


def _bare_system(topology: app.Topology) -> openmm.System:
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    return system


def table(result: dict[str, Any]) -> Table:
    """Return the rows of one system as a table."""
    title = f"{result['system']}, {result['atoms']} atoms, {result['threads']} thread"
    title += "s" if result["threads"] > 1 else ""
    table = Table(title=title, title_justify="left", box=None)
    rows: Sequence[dict[str, Any]] = result["rows"]
    shown = [key for key in HEADINGS if any(row[key] for row in rows)]
    for key in shown:
        table.add_column(HEADINGS[key], no_wrap=True)
    for heading in ("ms/step", "fastest", "slowest", "CPU ms", "ns/day"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times = ("seconds", "fastest", "slowest", "cpu_seconds")
        table.add_row(
            *(row[key] for key in shown),
            *(f"{1e3 * row[key]:.3f}" for key in times),
            "" if row["backend"] == NO_FORCE else f"{row['ns_per_day']:.3g}",
        )
    return table

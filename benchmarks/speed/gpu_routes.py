"""Ways for OpenMM to call our model on a GPU: made, compared, timed and profiled.

What one of them raises is kept as its problem, and stops none of the others.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from openmm import app
from sizes import cluster, liquid
from torch.profiler import ProfilerActivity, profile

from openmm_se3 import SE3Potential
from openmm_se3.benchmark.timing import Round, Stepper, summary, timed, warm_up
from openmm_se3.compiled.library import CompileError
from openmm_se3.force.backends import BACKENDS
from openmm_se3.validation.contexts import energy_and_forces_of

BOXES = 192  # atoms from which on they fill a box
PROFILED_STEPS = 10
LISTED = 12  # kernels of a table
# Atoms up to which forces are compared: in double precision on a processor, which may
# have no compiler.
MOST_COMPARED = 1536


@dataclasses.dataclass(frozen=True)
class Route:
    """A way for OpenMM to call the model.

    Attributes:
        backend: "torchforce" or "pythonforce".
        implementation: "triton" or "torchscript".
        graphs: With CUDA graphs.
        most: It is measured up to so many atoms.
    """

    backend: str
    implementation: str
    graphs: bool = False
    most: int = 1_000_000

    def __str__(self) -> str:
        """Name it as in the table."""
        name = f"{self.backend}, {self.implementation}"
        return f"{name}, CUDA graphs" if self.graphs else name


ROUTES = (
    Route("torchforce", "triton", graphs=True),
    Route("torchforce", "triton"),
    Route("pythonforce", "triton", graphs=True),
    Route("pythonforce", "triton"),
    # Recording takes a minute of a processor for 192 atoms.
    Route("torchforce", "torchscript", graphs=True, most=24),
    Route("torchforce", "torchscript", most=5184),
    Route("pythonforce", "torchscript", most=192),  # which stays on the processor
)


@dataclasses.dataclass
class Entry:
    """A route at one size.

    Attributes:
        atoms: The size.
        route: The route.
        stepper: What steps; None where there is a problem.
        row: What is known of it: at least "atoms" and "route", or "problem".
    """

    atoms: int
    route: Route
    stepper: Stepper | None
    row: dict[str, Any]

    def fail(self, error: object) -> None:
        """Keep why it cannot go on."""
        self.stepper = None
        self.row["problem"] = " ".join(str(error).split()) or repr(error)


def structure(atoms: int) -> tuple[app.Topology, np.ndarray]:
    """Return topology and positions [n_atoms, 3], A."""
    return liquid(atoms) if atoms >= BOXES else cluster(atoms)


def exact_forces(model: str, atoms: int) -> np.ndarray:
    """Return forces in double precision, by a processor."""
    topology, positions = structure(atoms)
    try:  # takes a hundredth of the memory
        exact = SE3Potential(model, precision="double", implementation="compiled")
    except CompileError:
        exact = SE3Potential(model, precision="double", implementation="torchscript")
    system = exact.createSystem(topology)
    stepper = Stepper(system, positions, "Reference", "double")
    return energy_and_forces_of(stepper.context)[1]


def prepare(model: str, atoms: int, platform: str) -> list[Entry]:
    """Return the routes at one size, compared with exact forces where these are had."""
    topology, positions = structure(atoms)
    exact = exact_forces(model, atoms) if atoms <= MOST_COMPARED else None
    entries: list[Entry] = []
    for route in ROUTES:
        if atoms > route.most or (route.graphs and platform != "CUDA"):
            continue
        entry = Entry(atoms, route, None, {"atoms": atoms, "route": str(route)})
        entries.append(entry)
        problem = BACKENDS[route.backend].problem()
        if problem is not None:
            entry.fail(problem)
            continue
        try:
            potential = SE3Potential(
                model,
                backend=route.backend,
                implementation=route.implementation,
                cudaGraphs=route.graphs,
            )
            system = potential.createSystem(topology)
            entry.stepper = Stepper(system, positions, platform)
            if exact is not None:
                _, found = energy_and_forces_of(entry.stepper.context)
                entry.row["force_error"] = float(abs(found - exact).max())
        except Exception as error:  # also of Triton, its compiler, and the driver
            entry.fail(error)
    return entries


def measure(entries: list[Entry], rounds: int, seconds: float, cuda: bool) -> None:
    """Time the routes of one size in turns, and list their kernels."""
    steps: dict[int, int] = {}
    taken: dict[int, list[Round]] = {}
    for turn in range(-1, rounds):
        for index, entry in enumerate(entries):
            if entry.stepper is None:
                continue
            try:
                if turn < 0:
                    steps[index] = warm_up(entry.stepper.step, seconds)
                    taken[index] = []
                else:
                    taken[index].append(timed(entry.stepper.step, steps[index]))
            except Exception as error:
                entry.fail(error)
    for index, entry in enumerate(entries):
        if entry.stepper is None:
            continue
        entry.row |= summary(taken[index])
        try:
            entry.row |= kernel_table(entry.stepper, cuda)
        except Exception as error:  # times stay
            entry.row["profile"] = str(error)


def kernel_table(stepper: Stepper, cuda: bool) -> dict[str, Any]:
    """Return how many kernels a step has, and the longest: name, launches, s a step.

    Without a GPU these are operations of PyTorch.
    """
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        stepper.step(PROFILED_STEPS)
    found: dict[str, tuple[int, float]] = {}
    for event in profiled.events():
        if not cuda and event.cpu_children:
            continue
        spent = event.device_time_total if cuda else event.self_cpu_time_total
        count, total = found.get(event.name, (0, 0.0))
        found[event.name] = count + 1, total + 1e-6 * spent
    rows = sorted(found.items(), key=lambda item: -item[1][1])
    return {
        "kernels": sum(count for count, _ in found.values()) / PROFILED_STEPS,
        "kernel_table": [
            [name, count / PROFILED_STEPS, total / PROFILED_STEPS]
            for name, (count, total) in rows[:LISTED]
        ],
    }

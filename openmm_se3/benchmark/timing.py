"""Any System, ready to be timed, and what its rounds amount to.

The time step is so short that atoms stay where they are: what a step costs does not
depend on its length, but a cluster that boils away, as on a network with random
weights, would become cheaper.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openmm
from openmm import unit

from openmm_se3.simulation.platforms import (
    best_platform,
    named_platform,
    platform_properties,
)
from openmm_se3.units import ANGSTROM_TO_NM, FS_TO_PS

STEP_FS = 1e-5
FIRST_STEPS = 3  # libraries are loaded, TorchScript optimizes
MOST_STEPS = 10_000  # of a round

Steps = Callable[[int], Any]  # makes so many steps, and waits until they are done


class Stepper:
    """A System in a Context.

    Args:
        system: The System.
        positions: Positions [n_atoms, 3], A.
        platform: Name of an OpenMM platform; None takes the best one.
        precision: "single" or "double", of GPU platforms.

    Attributes:
        platform: Name of the platform in use.
        context: The Context.

    Raises:
        ValueError: OpenMM has no such platform here.
        openmm.OpenMMException: It cannot run this System.
    """

    def __init__(
        self,
        system: openmm.System,
        positions: np.ndarray,
        platform: str | None = None,
        precision: str = "single",
    ) -> None:
        if platform is None:
            chosen, _ = best_platform(system, positions, precision)
        else:
            chosen = named_platform(platform)
        self.platform: str = chosen.getName()
        self._integrator = openmm.VerletIntegrator(STEP_FS * FS_TO_PS * unit.picosecond)
        self.context = openmm.Context(
            system,
            self._integrator,
            chosen,
            platform_properties(self.platform, precision),
        )
        self.context.setPositions(positions * ANGSTROM_TO_NM)

    def step(self, steps: int) -> None:
        """Make steps, and wait until they are done."""
        self._integrator.step(steps)
        self.context.getState(positions=True)


@dataclasses.dataclass(frozen=True)
class Round:
    """Seconds of one step, as the mean over those of a round.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Processor time of all threads of this process.
    """

    seconds: float
    cpu_seconds: float


def timed(step: Steps, steps: int) -> Round:
    """Make steps, timed."""
    start, cpu_start = time.perf_counter(), time.process_time()
    step(steps)
    return Round(
        (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps
    )


def warm_up(step: Steps, seconds: float, first_steps: int = FIRST_STEPS) -> int:
    """Make first steps; return how many last about so many seconds, at least one."""
    step(first_steps)
    steps = 1
    while True:
        measured = timed(step, steps).seconds
        enough = max(1, min(MOST_STEPS, round(seconds / measured)))
        # A single step is too few to judge thousands by.
        if enough <= 10 * steps:
            return enough
        steps *= 10


def interleave(
    steppers: Sequence[Steps], rounds: int, seconds: float
) -> list[list[Round]]:
    """Time rounds of all of them in turns, so that a busy moment hits all alike.

    Args:
        steppers: What to time.
        rounds: Rounds of each.
        seconds: About how long a round of one of them lasts, s; at least one step.

    Returns:
        The rounds of each.
    """
    steps = [warm_up(step, seconds) for step in steppers]
    turns = [
        [timed(step, n) for step, n in zip(steppers, steps, strict=True)]
        for _ in range(rounds)
    ]
    return [list(own) for own in zip(*turns, strict=True)]


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the median, fastest and slowest round and all of them, seconds a step."""
    seconds = [one.seconds for one in rounds]
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "cpu_seconds": statistics.median(one.cpu_seconds for one in rounds),
        "rounds": seconds,
    }

"""The free energy along the first variable, from two independent metadynamics runs.

A run is made of pieces.  The state after each is a file, and each draws its random
numbers from its own seed, so that a killed run goes on with the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reaction.metadynamics import BiasedDynamics, bias_of
from openmm_se3.active_learning.reaction.ranges import BEYOND, Biased, Metadynamics
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import FRAME_SPACING
from openmm_se3.units import BOLTZMANN_KJ_PER_MOL, JOULE_PER_CALORIE

RUNS = 2
PIECES = 20  # of a run


@dataclasses.dataclass(frozen=True)
class State:
    """A metadynamics run after some of its pieces.

    Attributes:
        pieces: Finished pieces.
        positions: Positions [n_atoms, 3], A.
        velocities: Velocities [n_atoms, 3], nm/ps.
        free_energy: Its estimate on the grid, kJ/mol; the last axis is the first
            variable.
        visited: Values of the first variable so far, in OpenMM's units.
        uncertain: Looks at which the deviation was above the threshold.
        stop: Why the run ended early; "" if it did not.
    """

    pieces: int
    positions: np.ndarray
    velocities: np.ndarray
    free_energy: np.ndarray
    visited: np.ndarray
    uncertain: int
    stop: str

    def save(self, path: Path) -> None:
        """Write the state."""
        write_arrays(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what :meth:`save` wrote."""
        arrays = read_arrays(path)
        for name in ("pieces", "uncertain"):
            arrays[name] = int(arrays[name])
        return cls(**{**arrays, "stop": str(arrays["stop"])})


def run_metadynamics(
    committee: Committee,
    system: System,
    variables: Sequence[Biased],
    options: Metadynamics,
    temperature: float,
    steps: int,
    threshold: float,
    path: Path,
    run: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> State:
    """Run metadynamics, or what is left of it.

    Args:
        committee: Its mean moves the atoms.
        system: The molecule; a run starts from one of its minima.
        variables: The collective variables.
        options: Settings of metadynamics.
        temperature: K.
        steps: Steps of the run.
        threshold: Deviation above which a frame is uncertain, eV/A.
        path: File of the state.
        run: Number of the run.
        seed: Seed of the campaign.
        progress: Called with finished and all pieces.
    """
    state = State.load(path) if path.exists() else None
    each = max(FRAME_SPACING, -(-steps // PIECES // FRAME_SPACING) * FRAME_SPACING)
    while (0 if state is None else state.pieces) < PIECES:
        done = 0 if state is None else state.pieces
        draws = np.random.default_rng([seed, 8, run, done]).integers(1, 2**30, size=2)
        bias = None if state is None else bias_of(state.free_energy, options)
        dynamics = BiasedDynamics(
            committee,
            system,
            variables,
            options,
            temperature,
            np.inf,
            int(draws[0]),
            bias,
        )
        if state is None:
            start, velocities = system.minima[run % len(system.minima)], None
        else:
            start, velocities = state.positions, state.velocities
        dynamics.start(start, int(draws[1]), velocities)
        visited, uncertain, stop = [], 0, ""
        for _ in range(each // FRAME_SPACING):
            stop = dynamics.advance(FRAME_SPACING)
            if stop:
                break
            visited.append(dynamics.variables()[0])
            uncertain += dynamics.mean.deviation > threshold
        before = np.zeros(0) if state is None else state.visited
        state = State(
            pieces=PIECES if stop else done + 1,
            positions=dynamics.positions(),
            velocities=dynamics.velocities(),
            free_energy=dynamics.free_energy(),
            visited=np.concatenate([before, visited]),
            uncertain=uncertain + (0 if state is None else state.uncertain),
            stop=stop,
        )
        state.save(path)
        progress(state.pieces, PIECES)
    assert state is not None
    return state


def curve(
    free_energy: np.ndarray, first: Biased, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the free energy along the first variable.

    Args:
        free_energy: Estimate on the grid, kJ/mol; other variables are integrated.
        first: The first variable.
        temperature: K.

    Returns:
        Values of the variable [n], A or degrees, and free energies [n], kcal/mol, whose
        Boltzmann factors have the mean 1.
    """
    thermal = BOLTZMANN_KJ_PER_MOL * temperature
    count = free_energy.shape[-1]
    others = free_energy.reshape(-1, count)
    along = -logsumexp(-others / thermal, axis=0)
    beyond = 0.0 if first.variable.periodic else BEYOND * first.width
    x = np.linspace(first.low - beyond, first.high + beyond, count)
    inside = (x >= first.low) & (x <= first.high)
    x, along = x[inside], along[inside]
    along = along + logsumexp(-along) - np.log(len(along))
    return x, along * thermal / JOULE_PER_CALORIE


def barrier(
    x: np.ndarray, energy: np.ndarray, first: float, last: float
) -> tuple[float, float]:
    """Return the barriers from the first minimum and from the last one, kcal/mol.

    Args:
        x: Values of the variable [n].
        energy: Free energies [n], kcal/mol.
        first: Value at the first minimum.
        last: Value at the last minimum.
    """
    low, high = sorted((first, last))
    between = np.flatnonzero((x >= low) & (x <= high))
    top = between[int(np.argmax(energy[between]))]
    below, above = energy[: top + 1].min(), energy[top:].min()
    forward, backward = energy[top] - below, energy[top] - above
    return (forward, backward) if first < last else (backward, forward)

"""Langevin dynamics of the committee's mean, many walkers at once.

Baoab splitting (Leimkuhler and Matthews 2013, https://doi.org/10.1093/amrx/abs010).
Lengths in A, times in fs, energies in eV, masses in dalton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.structures import System
from openmm_se3.units import (
    BOLTZMANN_EV,
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
)

TIME_STEP = 0.5  # fs
FRICTION = 0.02  # 1/fs
FRAME_SPACING = 20  # steps
SAMPLE_SPACING = 10  # steps between energies without a thermostat
MINIMUM_STEPS = 60  # of steepest descent before the dynamics
LONGEST_MOVE = 0.05  # A, of an atom in one of them


@dataclasses.dataclass(frozen=True)
class Walker:
    """One molecule that moves.

    Attributes:
        system: Index of its system.
        temperature: K.
        start: Positions [n_atoms, 3], A.
    """

    system: int
    temperature: float
    start: np.ndarray


@dataclasses.dataclass(frozen=True)
class Explored:
    """Frames of the walkers.

    Attributes:
        walker: Walker of each frame [n_frames].
        system: System of each frame [n_frames].
        temperature: K [n_frames].
        step: Step of each frame [n_frames].
        deviation: Largest deviation of the force on an atom [n_frames], eV/A.
        positions: Positions of each frame, [n_atoms, 3] each, A.
        stops: Why each walker stopped before the end: "", "deviation" or "broken".
        walker_temperatures: K [n_walkers].
        steps: Steps of a walker that did not stop.
        walker_biased: Whether each walker ran metadynamics [n_walkers].
    """

    walker: np.ndarray
    system: np.ndarray
    temperature: np.ndarray
    step: np.ndarray
    deviation: np.ndarray
    positions: list[np.ndarray]
    stops: list[str]
    walker_temperatures: np.ndarray
    steps: int
    walker_biased: np.ndarray

    @property
    def biased(self) -> np.ndarray:
        """Whether each frame is one of metadynamics [n_frames]."""
        return np.asarray(self.walker_biased[self.walker])

    def joined(self, other: Explored) -> Explored:
        """Return the frames of both, the walkers of the other behind."""

        def both(name: str) -> np.ndarray:
            return np.concatenate([getattr(self, name), getattr(other, name)])

        return Explored(
            walker=np.concatenate([self.walker, other.walker + len(self.stops)]),
            system=both("system"),
            temperature=both("temperature"),
            step=both("step"),
            deviation=both("deviation"),
            positions=self.positions + other.positions,
            stops=self.stops + other.stops,
            walker_temperatures=both("walker_temperatures"),
            steps=self.steps,
            walker_biased=both("walker_biased"),
        )

    def save(self, path: Path) -> None:
        """Write the frames."""
        arrays: dict[str, Any] = {
            field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "positions"
        }
        sizes = np.array([len(x) for x in self.positions], dtype=int)
        flat = np.concatenate(self.positions) if len(sizes) else np.zeros((0, 3))
        write_arrays(path, {"sizes": sizes, "flat": flat, **arrays})

    @classmethod
    def load(cls, path: Path) -> Explored:
        """Read what :meth:`save` wrote."""
        arrays = read_arrays(path)
        sizes, flat = arrays.pop("sizes"), arrays.pop("flat")
        positions = np.split(flat, np.cumsum(sizes)[:-1]) if len(sizes) else []
        stops, steps = arrays.pop("stops").tolist(), int(arrays.pop("steps"))
        # Campaigns of earlier versions have none.
        arrays.setdefault("walker_biased", np.zeros(len(stops), dtype=bool))
        return cls(positions=positions, stops=stops, steps=steps, **arrays)


def explore(
    committee: Committee,
    systems: Sequence[System],
    walkers: Sequence[Walker],
    steps: int,
    stop_above: float,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
    friction: float = FRICTION,
) -> Explored:
    """Run walkers and return the frames that they saw.

    Args:
        committee: Its mean moves the walkers.
        systems: What the walkers are.
        walkers: The walkers.
        steps: Steps of each.
        stop_above: Deviation at which a walker stops, eV/A.
        rng: Draws velocities and noise.
        progress: Called with finished and all steps.
        friction: Of the thermostat, 1/fs; 0 conserves the energy.
    """
    moving = _Moving(committee, systems, walkers, rng, friction)
    moving.relax(MINIMUM_STEPS)
    frames: list[tuple[int, int, float, np.ndarray]] = []
    stops = [""] * len(walkers)
    for step in range(1, steps + 1):
        moving.step()
        look = step % FRAME_SPACING == 0
        # A walker that explodes leaves within a few steps.
        for walker, why in moving.stopping(stop_above, bonds=look):
            stops[walker] = why
            if why == "deviation":
                frames.append((walker, step, *moving.frame(walker)))
        moving.drop([w for w in moving.members if stops[w]])
        if not moving.members:
            break
        if look:
            frames += [(w, step, *moving.frame(w)) for w in moving.members]
            progress(step, steps)
    frames.sort(key=lambda frame: (frame[0], frame[1]))
    return Explored(
        walker=np.array([f[0] for f in frames], dtype=int),
        system=np.array([walkers[f[0]].system for f in frames], dtype=int),
        temperature=np.array([walkers[f[0]].temperature for f in frames], dtype=float),
        step=np.array([f[1] for f in frames], dtype=int),
        deviation=np.array([f[2] for f in frames], dtype=float),
        positions=[f[3] for f in frames],
        stops=stops,
        walker_temperatures=np.array([w.temperature for w in walkers]),
        steps=steps,
        walker_biased=np.zeros(len(walkers), dtype=bool),
    )


class _Moving:
    """Positions and velocities of the walkers that still move."""

    def __init__(
        self,
        committee: Committee,
        systems: Sequence[System],
        walkers: Sequence[Walker],
        rng: np.random.Generator,
        friction: float,
    ) -> None:
        self.committee, self.systems, self.walkers = committee, systems, walkers
        self.rng, self.friction = rng, friction
        self.members = list(range(len(walkers)))
        self.forces: np.ndarray
        self.deviations: np.ndarray
        self.potential: np.ndarray
        self.positions = np.concatenate([walker.start for walker in walkers])
        self._arrange()
        self.velocities = self._thermal()
        self._evaluate()

    def relax(self, steps: int) -> None:
        """Move a little towards minima, out of what a classical force field left."""
        for _ in range(steps):
            size = np.linalg.norm(self.forces, axis=1, keepdims=True)
            move = 0.02 * self.forces
            longest = np.maximum(0.02 * size, 1e-12)
            self.positions = self.positions + move * np.minimum(
                1.0, LONGEST_MOVE / longest
            )
            self._evaluate()

    def step(self) -> None:
        """Make one step of time."""
        half = 0.5 * TIME_STEP
        self.velocities += half * self._accelerations()
        if self.friction:
            self.positions += half * self.velocities
            keep = np.exp(-self.friction * TIME_STEP)
            noise = np.sqrt(1.0 - keep**2) * self._thermal()
            self.velocities = keep * self.velocities + noise
            self.positions += half * self.velocities
        else:
            self.positions += TIME_STEP * self.velocities
        self._evaluate()
        self.velocities += half * self._accelerations()

    def stopping(self, above: float, bonds: bool) -> list[tuple[int, str]]:
        """Return the walkers that have to stop, and why."""
        found = []
        for place, walker in enumerate(self.members):
            system = self.systems[self.walkers[walker].system]
            if not self.deviations[place] < above:
                finite = np.isfinite(self.deviations[place])
                part = self.positions[self._slice(place)]
                torn = not system.intact(part[None])[0]
                found.append((walker, "broken" if torn or not finite else "deviation"))
            elif bonds and not system.intact(self.positions[self._slice(place)][None]):
                found.append((walker, "broken"))
        return found

    def frame(self, walker: int) -> tuple[float, np.ndarray]:
        """Return deviation (eV/A) and centered positions (A) of a walker."""
        place = self.members.index(walker)
        positions = self.positions[self._slice(place)]
        return float(self.deviations[place]), positions - positions.mean(axis=0)

    def energies(self) -> np.ndarray:
        """Return the total energy of each walker that moves, eV."""
        kinetic = 0.5 * self.masses * np.square(self.velocities).sum(axis=1)
        kinetic = kinetic / EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2
        sums = np.add.reduceat(kinetic, self.atoms.starts)
        return np.asarray(self.potential + sums)

    def drop(self, walkers: Sequence[int]) -> None:
        """Take walkers out."""
        if not walkers:
            return
        kept = [i for i, w in enumerate(self.members) if w not in set(walkers)]
        if not kept:
            self.members = []
            return
        rows = np.concatenate(
            [np.arange(len(self.positions))[self._slice(i)] for i in kept]
        )
        self.members = [self.members[i] for i in kept]
        self.positions, self.velocities = self.positions[rows], self.velocities[rows]
        self.forces = self.forces[rows]
        self.deviations, self.potential = self.deviations[kept], self.potential[kept]
        self._arrange()

    def _arrange(self) -> None:
        from ase.data import atomic_masses

        parts = [self.systems[self.walkers[w].system].numbers for w in self.members]
        self.atoms = Atoms(parts)
        self.masses = atomic_masses[self.atoms.numbers]
        heat = np.array([self.walkers[w].temperature for w in self.members])
        self.heat = heat[self.atoms.molecule]

    def _slice(self, place: int) -> slice:
        starts = [*self.atoms.starts.tolist(), len(self.atoms.numbers)]
        return slice(starts[place], starts[place + 1])

    def _thermal(self) -> np.ndarray:
        """Return random velocities at the walkers' temperatures [n_atoms, 3], A/fs."""
        squares = BOLTZMANN_EV * self.heat / self.masses
        width = np.sqrt(squares * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2)
        return np.asarray(width[:, None] * self.rng.normal(size=self.positions.shape))

    def _accelerations(self) -> np.ndarray:
        scale = EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2
        return np.asarray(scale * self.forces / self.masses[:, None])

    def _evaluate(self) -> None:
        predicted = self.committee.predict(self.atoms, self.positions)
        self.forces = predicted.mean_forces
        self.deviations = predicted.deviations(self.atoms)
        self.potential = predicted.energies.mean(axis=0)


def conserve(
    committee: Committee,
    systems: Sequence[System],
    walkers: Sequence[Walker],
    steps: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Run walkers without a thermostat, after a tenth of the steps with one.

    Returns:
        Times [n_samples], fs, and total energies [n_samples, n_walkers], eV; fewer
        samples where a molecule breaks.
    """
    moving = _Moving(committee, systems, walkers, rng, FRICTION)
    for _ in range(steps // 10):
        moving.step()
    moving.friction = 0.0
    energies = [moving.energies()]
    for step in range(1, steps + 1):
        moving.step()
        if step % SAMPLE_SPACING == 0:
            if moving.stopping(np.inf, bonds=True):
                break
            energies.append(moving.energies())
    times = SAMPLE_SPACING * TIME_STEP * np.arange(len(energies))
    return times, np.array(energies)

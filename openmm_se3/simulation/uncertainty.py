"""A reporter of how far a committee's members deviate during a simulation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import openmm
from openmm import app, unit

from openmm_se3.deviation import Deviation
from openmm_se3.simulation.guard import SimulationStopped, atom_name, write_frame
from openmm_se3.simulation.reporters import every

# Steps between evaluations.  Each takes as long as one step of the committee, or as
# three for a single water molecule.
INTERVAL = 100
COLUMNS = (
    "step",
    "time_ps",
    "force_uncertainty_ev_per_angstrom",
    "atom",
    "energy_uncertainty_ev",
)


def uncertainty_interval(log_interval: int) -> int:
    """Return the steps between evaluations: :data:`INTERVAL`, up to a whole row."""
    return log_interval * -(-INTERVAL // log_interval)


class UncertaintyWarning(UserWarning):
    """A simulation has reached frames that its model is not trusted on."""


class Evaluator(Protocol):
    """What :class:`openmm_se3.force.uncertainty.CommitteeEvaluator` is."""

    threshold: float | None
    atoms: Any

    def of_state(self, state: openmm.State) -> Deviation:
        """Return the deviation for a State that has positions."""


class UncertaintyReporter:
    """Evaluates the deviation of a committee's members every so many steps.

    The uncertainty of a frame is the largest deviation of the force on an atom, see
    :mod:`openmm_se3.deviation`.  Above the threshold the reporter warns, once; above
    ``stop`` it writes the last trusted frame and the one that is not, and raises
    :class:`~openmm_se3.simulation.guard.SimulationStopped`.

    Examples:
        >>> evaluator = potential.committeeEvaluator(topology)
        >>> simulation.reporters.append(
        ...     UncertaintyReporter(evaluator, file="uncertainty.csv", stop=0.5)
        ... )

    Args:
        evaluator: What ``SE3Potential.committeeEvaluator`` returned for the System.
        interval: Steps between evaluations.
        file: CSV file to write; None writes none.
        threshold: Uncertainty above which to warn, eV/A; None takes the model's.
        stop: Uncertainty above which to stop, eV/A; None never stops.
        trusted: PDB file for the last frame that was not above ``stop``.
        uncertain: PDB file for the frame that stopped the simulation.

    Attributes:
        last_trusted: The last State evaluated that was not above ``stop``, with
            positions and velocities; None before the first.
        stopped: Whether it has stopped the simulation.
        evaluated: Number of frames evaluated.
        above: Number of those above the threshold.
        largest: Largest uncertainty, eV/A.

    Raises:
        ValueError: The interval, the threshold or ``stop`` is not positive.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        interval: int = INTERVAL,
        *,
        file: str | Path | None = None,
        threshold: float | None = None,
        stop: float | None = None,
        trusted: str | Path = "last_trusted.pdb",
        uncertain: str | Path = "uncertain.pdb",
    ) -> None:
        for name, value in (
            ("interval", interval),
            ("threshold", threshold),
            ("stop", stop),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.evaluator = evaluator
        self.interval = interval
        self.threshold = evaluator.threshold if threshold is None else threshold
        self.stop = stop
        self.trusted, self.uncertain = trusted, uncertain
        self.last_trusted: openmm.State | None = None
        self.stopped = False
        self.evaluated = self.above = 0
        self.largest = 0.0
        self._last: tuple[int, float] | None = None
        self._file = None if file is None else Path(file)
        if self._file is not None:
            self._file.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        return every(simulation, self.interval, ("positions", "velocities"))

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Evaluate one frame.

        Raises:
            SimulationStopped: The frame is above ``stop``.
        """
        deviation = self.evaluator.of_state(state)
        value, step = deviation.largest, simulation.currentStep
        atom = int(self.evaluator.atoms[deviation.atom])
        self._last = step, value
        self.evaluated += 1
        self.largest = max(self.largest, value)
        time = state.getTime().value_in_unit(unit.picosecond)
        if self._file is not None:
            energy = deviation.energy_std
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(f"{step},{time:.6f},{value:.6f},{atom},{energy:.6f}\n")
        # A deviation that is no number is not trusted either.
        if self.threshold is not None and not value <= self.threshold:
            self.above += 1
            if self.above == 1:
                self._warn(simulation.topology, value, atom, step, time)
        if self.stop is not None and not value <= self.stop:
            self.stopped = True
            self._save(simulation.topology, state)
            name = _name(simulation.topology, atom)
            raise SimulationStopped(
                f"the force on {name} is uncertain: the members of the model deviate "
                f"by {value:.3g} eV/Å, the limit is {self.stop:.3g} eV/Å; likely "
                "cause: a structure that the model was not trained on: label it with "
                "DFT and train with it",
                step,
            )
        self.last_trusted = state

    def at(self, step: int) -> float | None:
        """Return the uncertainty of the frame of a step, eV/A, if it was the last."""
        return self._last[1] if self._last and self._last[0] == step else None

    def counts(self) -> dict[str, Any]:
        """Return what a run that is resumed has to know of the frames before."""
        return {
            "evaluated": self.evaluated,
            "above": self.above,
            "largest": self.largest,
        }

    def go_on(self, counts: dict[str, Any]) -> None:
        """Count on from what :meth:`counts` returned."""
        self.evaluated, self.above = counts["evaluated"], counts["above"]
        self.largest = counts["largest"]

    def summary(self) -> dict[str, Any]:
        """Return what was found, as plain values for a JSON file."""
        return {
            "threshold": self.threshold,
            "stop": self.stop,
            "interval": self.interval,
            "evaluated": self.evaluated,
            "above_threshold": self.above,
            "largest": self.largest,
        }

    def text(self) -> str:
        """Return what was found in a sentence."""
        text = (
            f"Uncertainty of forces: at most {self.largest:.3g} eV/Å in "
            f"{self.evaluated} frames"
        )
        if self.threshold is None:
            return f"{text}; the model has no threshold."
        return f"{text}, above the threshold of {self.threshold:.3g} in {self.above}."

    def _warn(
        self, topology: app.Topology, value: float, atom: int, step: int, time: float
    ) -> None:
        warnings.warn(
            f"step {step} ({time:.3f} ps): the force on {_name(topology, atom)} is "
            f"uncertain, the members of the model deviate by {value:.3g} eV/Å; the "
            f"threshold is {self.threshold:.3g} eV/Å. What follows may not be trusted; "
            "further frames are counted, not warned of",
            UncertaintyWarning,
            stacklevel=2,
        )

    def _save(self, topology: app.Topology, state: openmm.State) -> None:
        """Write the last trusted frame, if there is one, and the uncertain one."""
        if self.last_trusted is not None:
            write_frame(self.trusted, topology, self.last_trusted)
        write_frame(self.uncertain, topology, state)


def _name(topology: app.Topology, index: int) -> str:
    return atom_name(list(topology.atoms())[index])

"""Stops a run that goes wrong, at once, with the last good frame kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.files import atomic_write
from openmm_se3.simulation.reporters import every
from openmm_se3.units import ANGSTROM_TO_NM, BOLTZMANN_KJ_PER_MOL, NM_TO_ANGSTROM

MAX_STRETCH = 0.5  # A, as Fu et al. 2022, https://arxiv.org/abs/2210.07237
LIKELY_CAUSES = (
    "likely causes: a time step too long, a start that was not minimised, or a "
    "structure outside what the model was trained on"
)


class SimulationStopped(RuntimeError):  # noqa: N818 (it ends a run, by design)
    """A guard stopped the run.

    Attributes:
        reason: What was found, naming the atom.
        step: Step at which it was found.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.step = step


class GuardReporter:
    """Raises :class:`SimulationStopped` at the first frame that cannot be right.

    Looks for positions or velocities that are not finite, for bonds far from their
    reference length, and for a temperature that means an explosion.  Put it first
    in ``simulation.reporters``, so that no reporter writes the bad frame.

    Args:
        interval: Steps between checks.
        topology: Atoms and the bonds to watch.
        masses: Masses [n_atoms], dalton.
        reference: Positions [n_atoms, 3], A, whose bond lengths are the reference.
        max_stretch: Allowed difference of a bond from its reference length, A.
        max_temperature: Allowed instantaneous temperature, K.
    """

    def __init__(
        self,
        interval: int,
        topology: app.Topology,
        masses: np.ndarray,
        reference: np.ndarray,
        max_stretch: float = MAX_STRETCH,
        max_temperature: float = np.inf,
    ) -> None:
        self.interval = interval
        self.topology = topology
        self.max_stretch = max_stretch
        self.max_temperature = max_temperature
        self.last_good: openmm.State | None = None
        self._names = [
            f"{atom.name} of {atom.residue.name} {atom.residue.id} (atom {atom.index})"
            for atom in topology.atoms()
        ]
        bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
        self._bonds = np.array(bonds, dtype=int).reshape(-1, 2)
        self._reference = self._lengths(np.asarray(reference, float))
        self._mass = np.asarray(masses, float)[:, None]

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        return every(simulation, self.interval, ("positions", "velocities"))

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Check one frame and keep it if it is good.

        Raises:
            SimulationStopped: The frame cannot be right.
        """
        reason = self.fault(state)
        if reason is not None:
            raise SimulationStopped(reason, simulation.currentStep)
        self.last_good = state

    def fault(self, state: openmm.State) -> str | None:
        """Return what is wrong with a frame, or None."""
        # In OpenMM's own nm and ps: asking for them by name takes longer than the rest.
        positions = state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
        velocities = state.getVelocities(asNumpy=True)._value
        # One sum is not finite as soon as any of its terms is not.
        if not np.isfinite(positions.sum() + velocities.sum()):
            return self._not_finite(positions, velocities)
        lengths = self._lengths(positions)
        if len(lengths) and abs(lengths - self._reference).max() > self.max_stretch:
            return self._stretched(lengths)
        mean_square = float((self._mass * velocities**2).sum()) / velocities.size
        temperature = mean_square / BOLTZMANN_KJ_PER_MOL
        if temperature > self.max_temperature:
            fastest = int(np.argmax((self._mass * velocities**2).sum(axis=1)))
            return (
                f"the temperature is {temperature:.0f} K, above the limit of "
                f"{self.max_temperature:.0f} K; {self._names[fastest]} has most of the "
                f"kinetic energy; {LIKELY_CAUSES}"
            )
        return None

    def save_last_good(self, frame: Path, state: Path) -> bool:
        """Write the last good frame as PDB and as an OpenMM State XML.

        Args:
            frame: PDB file to write.
            state: XML file to write; ``simulation.loadState`` reads it.

        Returns:
            Whether there was a good frame.
        """
        if self.last_good is None:
            return False
        with atomic_write(frame) as temporary, open(temporary, "w") as file:
            app.PDBFile.writeFile(self.topology, self.last_good.getPositions(), file)
        with atomic_write(state) as temporary:
            temporary.write_text(openmm.XmlSerializer.serialize(self.last_good))
        return True

    def _lengths(self, positions: np.ndarray) -> np.ndarray:
        separation = positions[self._bonds[:, 0]] - positions[self._bonds[:, 1]]
        return np.sqrt((separation**2).sum(axis=1))

    def _not_finite(self, positions: np.ndarray, velocities: np.ndarray) -> str:
        bad = ~np.isfinite(positions + velocities).all(axis=1)
        atom = int(np.argmax(bad))
        what = "velocity" if np.isfinite(positions[atom]).all() else "position"
        text = f"the {what} of {self._names[atom]} is not a finite number"
        if self.last_good is not None and len(positions) > 1:
            nm = self.last_good.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            distance = np.linalg.norm(nm - nm[atom], axis=1) / ANGSTROM_TO_NM
            distance[atom] = np.inf
            nearest = int(np.argmin(distance))
            text += (
                f"; in the last good frame it was {distance[nearest]:.2f} Å from "
                f"{self._names[nearest]}"
            )
        return f"{text}; {LIKELY_CAUSES}"

    def _stretched(self, lengths: np.ndarray) -> str:
        worst = int(np.argmax(abs(lengths - self._reference)))
        change = lengths[worst] - self._reference[worst]
        first, second = (self._names[i] for i in self._bonds[worst])
        return (
            f"the bond of {first} and {second} is {lengths[worst]:.2f} Å long, "
            f"{change:+.2f} Å from its reference; "
            f"{LIKELY_CAUSES}"
        )

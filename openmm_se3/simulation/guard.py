"""Stops a run that goes wrong, at once, with the last good frame kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app

from openmm_se3.elements import chemical_symbol
from openmm_se3.files import atomic_write
from openmm_se3.geometry import box_of, closest_contact, minimum_image, molecules_of
from openmm_se3.simulation.reporters import every
from openmm_se3.units import (
    BOLTZMANN_KJ_PER_MOL,
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    FS_TO_PS,
    NM_TO_ANGSTROM,
)

MAX_STRETCH = 0.5  # A, as Fu et al. 2022, https://arxiv.org/abs/2210.07237
MAX_FORCE = 100.0  # eV/A; a bond at 1000 K reaches some 10
JUMP_DEVIATIONS = 10.0  # of a thermal energy, beyond the thermal energy itself
EXPLOSION_FACTOR, EXPLOSION_FLOOR = 20.0, 10_000.0  # of the temperature; K
SAFE_STEP_FS = 1.0
EARLY_PS = 0.1  # so long a fault may be one of the start


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


def atom_name(atom: app.topology.Atom) -> str:
    """Return what messages call an atom, such as "O of HOH 1 (atom 0, O)"."""
    symbol = chemical_symbol(atom.element) if atom.element else "?"
    residue = atom.residue
    return f"{atom.name} of {residue.name} {residue.id} (atom {atom.index}, {symbol})"


def write_frame(path: str | Path, topology: app.Topology, state: openmm.State) -> None:
    """Write a frame as PDB, in its own box."""
    box = topology.getPeriodicBoxVectors()
    try:
        if box is not None:
            topology.setPeriodicBoxVectors(state.getPeriodicBoxVectors())
        with atomic_write(path) as temporary, open(temporary, "w") as file:
            app.PDBFile.writeFile(topology, state.getPositions(), file)
    finally:
        topology.setPeriodicBoxVectors(box)


class GuardReporter:
    """Raises :class:`SimulationStopped` at the first frame that cannot be right.

    Looks for positions or velocities that are not finite, for bonds far from their
    reference length, and for a temperature that means an explosion; and less often,
    because OpenMM computes forces and energy anew for it, for atoms too near each
    other, forces that no thermal motion reaches, and a total energy that jumps.  Put it
    first in ``simulation.reporters``, so that no reporter writes the bad frame.

    Args:
        interval: Steps between checks.
        topology: Atoms and the bonds to watch.
        masses: Masses [n_atoms], dalton.
        reference: Positions [n_atoms, 3], A, whose bond lengths are the reference.
        temperature: Temperature that the run is meant to have, K.
        dt_fs: Time step, fs.
        watch_bonds: False where a reaction may break them.
    """

    def __init__(
        self,
        interval: int,
        topology: app.Topology,
        masses: np.ndarray,
        reference: np.ndarray,
        temperature: float,
        dt_fs: float,
        watch_bonds: bool = True,
    ) -> None:
        self.interval = interval
        self.force_interval = interval  # steps between checks of forces and energy
        self.topology = topology
        self.max_temperature = max(EXPLOSION_FACTOR * temperature, EXPLOSION_FLOOR)
        self.last_good: openmm.State | None = None
        atoms = list(topology.atoms())
        self._symbols = [
            chemical_symbol(atom.element) if atom.element else "?" for atom in atoms
        ]
        self._names = [atom_name(atom) for atom in atoms]
        bonds = [
            (bond[0].index, bond[1].index) for bond in topology.bonds() if watch_bonds
        ]
        self._bonds = np.array(bonds, dtype=int).reshape(-1, 2)
        self._molecules = molecules_of(topology)
        self._periodic = topology.getPeriodicBoxVectors() is not None
        self._reference = self._lengths(np.asarray(reference, float), box_of(topology))
        self._mass = np.asarray(masses, float)[:, None]
        self._dt_fs = dt_fs
        thermal = BOLTZMANN_KJ_PER_MOL * temperature / EV_TO_KJ_PER_MOL
        modes = 3 * len(atoms)
        self.max_jump = thermal * (modes + JUMP_DEVIATIONS * math.sqrt(modes))  # eV
        self._energy: float | None = None  # at the last check, eV

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        report = every(simulation, self.interval, ("positions", "velocities"))
        if (simulation.currentStep + report["steps"]) % self.force_interval == 0:
            report["include"] += ["forces", "energy"]
        return report

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Check one frame and keep it if it is good.

        Raises:
            SimulationStopped: The frame cannot be right.
        """
        step = simulation.currentStep
        reason = self.fault(state, with_forces=step % self.force_interval == 0)
        if reason is not None:
            time = step * self._dt_fs * FS_TO_PS
            raise SimulationStopped(f"{reason[0]}; {self._cause(*reason, time)}", step)
        self.last_good = state

    def fault(self, state: openmm.State, with_forces: bool) -> tuple[str, int] | None:
        """Return what is wrong with a frame, and the atom it is about; or None.

        Args:
            state: Positions and velocities, and forces and energy if they are checked.
            with_forces: Whether distances, forces and energy are checked too.
        """
        # In OpenMM's own nm and ps: asking for them by name takes longer than the rest.
        positions = state.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
        velocities = state.getVelocities(asNumpy=True)._value
        # One sum is not finite as soon as any of its terms is not.
        if not np.isfinite(positions.sum() + velocities.sum()):
            return self._not_finite(positions, velocities)
        box = None
        if self._periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True)._value * NM_TO_ANGSTROM
        lengths = self._lengths(positions, box)
        if len(lengths) and abs(lengths - self._reference).max() > MAX_STRETCH:
            return self._stretched(lengths)
        return (
            self._hot(velocities)
            or (self._too_near(positions, box) if with_forces else None)
            or (self._pulled(state) if with_forces else None)
        )

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
        write_frame(frame, self.topology, self.last_good)
        with atomic_write(state) as temporary:
            temporary.write_text(openmm.XmlSerializer.serialize(self.last_good))
        return True

    def _lengths(self, positions: np.ndarray, box: np.ndarray | None) -> np.ndarray:
        separation = positions[self._bonds[:, 0]] - positions[self._bonds[:, 1]]
        return np.sqrt((minimum_image(separation, box) ** 2).sum(axis=1))

    def _not_finite(
        self, positions: np.ndarray, velocities: np.ndarray
    ) -> tuple[str, int]:
        bad = ~np.isfinite(positions + velocities).all(axis=1)
        atom = int(np.argmax(bad))
        what = "velocity" if np.isfinite(positions[atom]).all() else "position"
        text = f"the {what} of {self._names[atom]} is not a finite number"
        if self.last_good is not None and len(positions) > 1:
            before = self.last_good.getPositions(asNumpy=True)._value * NM_TO_ANGSTROM
            distance = np.linalg.norm(before - before[atom], axis=1)
            distance[atom] = np.inf
            nearest = int(np.argmin(distance))
            text += (
                f"; in the last good frame it was {distance[nearest]:.2f} Å from "
                f"{self._names[nearest]}"
            )
        return text, atom

    def _stretched(self, lengths: np.ndarray) -> tuple[str, int]:
        worst = int(np.argmax(abs(lengths - self._reference)))
        change = lengths[worst] - self._reference[worst]
        first, second = (self._names[i] for i in self._bonds[worst])
        return (
            f"the bond of {first} and {second} is {lengths[worst]:.2f} Å long, "
            f"{change:+.2f} Å from its reference, the limit is {MAX_STRETCH} Å"
        ), int(self._bonds[worst, 1])

    def _hot(self, velocities: np.ndarray) -> tuple[str, int] | None:
        twice_kinetic = (self._mass * velocities**2).sum(axis=1)
        temperature = twice_kinetic.sum() / velocities.size / BOLTZMANN_KJ_PER_MOL
        if temperature <= self.max_temperature:
            return None
        fastest = int(np.argmax(twice_kinetic))
        return (
            f"the temperature is {temperature:.0f} K, above the limit of "
            f"{self.max_temperature:.0f} K; {self._names[fastest]} has most of the "
            "kinetic energy"
        ), fastest

    def _too_near(
        self, positions: np.ndarray, box: np.ndarray | None
    ) -> tuple[str, int] | None:
        found = closest_contact(
            self._symbols, positions, box, molecules=self._molecules
        )
        if found is None:
            return None
        first, second, distance, limit = found
        other = "its own image" if first == second else self._names[second]
        return (
            f"{self._names[first]} and {other} are {distance:.2f} Å apart, below the "
            f"limit of {limit:.2f} Å"
        ), first

    def _pulled(self, state: openmm.State) -> tuple[str, int] | None:
        forces = state.getForces(asNumpy=True)._value / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
        sizes = np.sqrt((forces**2).sum(axis=1))
        strongest = int(np.argmax(sizes))  # the first that is not a number, if any is
        force, name = sizes[strongest], self._names[strongest]
        if not force <= MAX_FORCE:
            return (
                f"the force on {name} is {force:.0f} eV/Å, above the limit of "
                f"{MAX_FORCE:.0f} eV/Å"
            ), strongest
        total = state.getPotentialEnergy()._value + state.getKineticEnergy()._value
        energy, before = total / EV_TO_KJ_PER_MOL, self._energy
        if before is not None and not abs(energy - before) <= self.max_jump:
            return (
                f"the total energy jumped by {energy - before:+.2f} eV, the limit is "
                f"{self.max_jump:.2f} eV; the largest force, {force:.1f} eV/Å, is on "
                f"{name}"
            ), strongest
        self._energy = energy
        return None

    def _cause(self, reason: str, atom: int, time_ps: float) -> str:
        """Return the likely causes of a fault, likeliest first."""
        causes = []
        if self._dt_fs > SAFE_STEP_FS:
            causes.append(
                f"a time step too long ({self._dt_fs:g} fs; 0.5 fs is safe with "
                "hydrogen)"
            )
        if time_ps < EARLY_PS:
            box = "a box too small" if self._periodic else "a missing box"
            causes.append(
                f"a start far from a minimum, positions in other units than Å, or {box}"
            )
        causes.append(
            f"surroundings of {self._symbols[atom]} that the model was not trained on"
        )
        return f"likely cause: {'; or '.join(causes)}"

"""The minimum that a run starts from, refused where it cannot be right."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rich.console import Console

from openmm_se3.elements import chemical_symbol
from openmm_se3.geometry import box_of, closest_contact, minimum_image, molecules_of
from openmm_se3.simulation.guard import MAX_STRETCH
from openmm_se3.units import ANGSTROM_TO_NM, NM_TO_ANGSTROM

MINIMIZER_TOLERANCE = 0.1  # kJ/mol/nm, root mean square force
MINIMIZER_ITERATIONS = 2000
REACH, MOST_BOXES = 0.2, 100  # A, where a bond broke: see _descended
SHOWN_SECONDS = 10.0  # between lines of progress
CROWDED = 1.6  # sums of covalent radii; molecules of a liquid are not so near


class BadMinimumError(ValueError):
    """The minimization tore a molecule apart or fused two: there is nothing to run."""


def minimized(
    simulation: app.Simulation, positions: np.ndarray, console: Console | None = None
) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, at the minimum near a start.

    Args:
        simulation: Moved to the minimum.
        positions: The start [n_atoms, 3], A.
        console: Shows progress there; None shows nothing.

    Raises:
        BadMinimumError: A molecule falls apart, or two fuse, when it is minimized.
        ValueError: The start cannot be minimized.
    """
    console = console or Console(quiet=True)
    minimum = _relaxed(simulation, positions, console)
    torn = torn_bond(simulation.topology, positions, minimum)
    if torn is not None and not simulation.system.getNumConstraints():
        console.print("Minimization: a bond broke; once more, in small steps")
        minimum = _descended(simulation, positions)
        torn = torn_bond(simulation.topology, positions, minimum)
    if torn is not None:
        raise BadMinimumError(
            f"the minimization tore a molecule apart: {torn}; "
            f"{_cause(simulation, positions)}"
        )
    fused = fused_atoms(simulation.topology, minimum)
    if fused is not None:
        raise BadMinimumError(
            f"after the minimization two molecules are fused: {fused}; "
            f"{_cause(simulation, positions)}"
        )
    return minimum


def _cause(simulation: app.Simulation, start: np.ndarray) -> str:
    """Return what likely ruined a minimization, and the fix."""
    topology = simulation.topology
    symbols = [a.element.symbol if a.element else "?" for a in topology.atoms()]
    found = closest_contact(
        symbols,
        start,
        box_of(topology),
        molecules=molecules_of(topology),
        between=CROWDED,
    )
    if found is not None:
        first, second = (_name(topology, index) for index in found[:2])
        return (
            "likely cause: molecules that are nearer to each other than the model has "
            f"seen; {first} and {second} were {found[2]:.2f} Å apart at the start, as "
            "at the edges of a box that Modeller has filled; fix: relax the start with "
            'a classical force field (docs/running.md, "A box of water", has a script)'
        )
    return (
        "likely cause: molecules or surroundings that the model was not trained on, or "
        "positions in other units than Å; fix: compare them with the training data, "
        "which the model's card names, and train on labels of such structures"
    )


def _name(topology: app.Topology, index: int) -> str:
    atom = next(a for a in topology.atoms() if a.index == index)
    return f"{atom.name} of {atom.residue.name} {atom.residue.id}"


class MinimizationProgress(openmm.MinimizationReporter):
    """Shows how far a minimization is, and how long it can take at most.

    Args:
        show: Called with a line, every ``SHOWN_SECONDS``.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show
        self._started = self._shown = time.monotonic()

    def report(
        self, iteration: int, x: Any, gradient: Any, values: dict[str, float]
    ) -> bool:
        """Show a line if it is time; always goes on."""
        now = time.monotonic()
        if now - self._shown >= SHOWN_SECONDS and iteration > 0:
            self._shown = now
            rate = (now - self._started) / iteration
            left = datetime.timedelta(
                seconds=round(rate * max(0, MINIMIZER_ITERATIONS - iteration))
            )
            self._show(
                f"Minimization: iteration {iteration} of at most "
                f"{MINIMIZER_ITERATIONS}, energy {values['system energy']:.1f} kJ/mol, "
                f"at most {left} left"
            )
        return False


def _relaxed(
    simulation: app.Simulation, positions: np.ndarray, console: Console
) -> np.ndarray:
    simulation.context.setPositions(positions * ANGSTROM_TO_NM)
    # An OpenMMException here means a start that is not finite; the check below says so.
    with contextlib.suppress(openmm.OpenMMException):
        simulation.minimizeEnergy(
            tolerance=MINIMIZER_TOLERANCE * unit.kilojoule_per_mole / unit.nanometer,
            maxIterations=MINIMIZER_ITERATIONS,
            reporter=MinimizationProgress(
                lambda line: console.print(line, highlight=False, soft_wrap=True)
            ),
        )
    return _positions(simulation)


def _descended(simulation: app.Simulation, positions: np.ndarray) -> np.ndarray:
    """Return the minimum of the valley that the start is in.

    A line search has no bound: the first of OpenMM's minimizer can move the atoms of a
    small molecule by several A, across a barrier, to where no model means anything.
    Here no coordinate leaves a box of ``REACH`` around the last of its minima.

    Args:
        simulation: Moved to the minimum; it has no constraints.
        positions: The start [n_atoms, 3], A.
    """
    from scipy.optimize import Bounds, minimize

    context, system = simulation.context, simulation.system
    moves = [system.getParticleMass(i)._value > 0.0 for i in range(len(positions))]
    reach = REACH * np.repeat(np.array(moves, dtype=float), 3)

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        context.setPositions(ANGSTROM_TO_NM * x.reshape(-1, 3))
        context.computeVirtualSites()
        state = context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True)._value
        return state.getPotentialEnergy()._value, -ANGSTROM_TO_NM * forces.ravel()

    x = positions.ravel()
    for _ in range(MOST_BOXES):
        result = minimize(
            value,
            x,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(x - reach, x + reach),
            options={
                "gtol": ANGSTROM_TO_NM * MINIMIZER_TOLERANCE,
                "ftol": 0.0,
                "maxiter": MINIMIZER_ITERATIONS,
            },
        )
        moved, x = float(np.abs(result.x - x).max()), result.x
        if not moved > 0.99 * REACH:
            break
    value(x)
    return _positions(simulation)


def _positions(simulation: app.Simulation) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, of a simulation.

    Raises:
        ValueError: They, or the energy, are not finite.
    """
    state = simulation.context.getState(positions=True, energy=True)
    energy = state.getPotentialEnergy()._value
    minimum = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    if not (np.isfinite(energy) and np.isfinite(minimum).all()):
        raise ValueError(
            "the start cannot be minimized: its energy is not a finite number; check "
            "that the positions are in Angstrom and that no two atoms overlap"
        )
    return minimum * NM_TO_ANGSTROM


def torn_bond(
    topology: app.Topology, start: np.ndarray, minimum: np.ndarray
) -> str | None:
    """Return which bond the minimization tore, if any; no reference for a guard then.

    Args:
        topology: Atoms and bonds.
        start: Positions before [n_atoms, 3], A.
        minimum: Positions after [n_atoms, 3], A.
    """
    box = box_of(topology)
    for first, second in topology.bonds():
        before, after = (
            float(np.linalg.norm(minimum_image(separation[None], box)))
            for separation in (
                x[first.index] - x[second.index] for x in (start, minimum)
            )
        )
        if after - before > MAX_STRETCH:
            return (
                f"the bond of {first.name} and {second.name} of {first.residue.name} "
                f"{first.residue.id} grew from {before:.2f} to {after:.2f} Å"
            )
    return None


def fused_atoms(topology: app.Topology, minimum: np.ndarray) -> str | None:
    """Return which atoms of two molecules a minimization brought as near as a bond.

    Args:
        topology: Atoms and bonds.
        minimum: Positions [n_atoms, 3], A.
    """
    atoms = list(topology.atoms())
    symbols = [chemical_symbol(atom.element) if atom.element else "?" for atom in atoms]
    molecules = molecules_of(topology)
    found = closest_contact(symbols, minimum, box_of(topology), molecules=molecules)
    if found is None:
        return None
    first, second = (_name(topology, index) for index in found[:2])
    return (
        f"{first} and {second} are {found[2]:.2f} Å apart, below the limit of "
        f"{found[3]:.2f} Å"
    )

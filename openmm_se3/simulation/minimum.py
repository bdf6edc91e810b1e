"""The minimum that a run starts from, refused where it cannot be right."""

from __future__ import annotations

import contextlib

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.box import box_of, minimum_image
from openmm_se3.elements import chemical_symbol
from openmm_se3.simulation.contacts import closest_contact, molecules_of
from openmm_se3.simulation.guard import MAX_STRETCH
from openmm_se3.units import ANGSTROM_TO_NM, NM_TO_ANGSTROM

MINIMISER_TOLERANCE = 0.1  # kJ/mol/nm, root mean square force
MINIMISER_ITERATIONS = 2000


class BadMinimumError(ValueError):
    """The minimisation tore a molecule apart or fused two: there is nothing to run."""


def minimised(simulation: app.Simulation, positions: np.ndarray) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, at the minimum near a start.

    Args:
        simulation: Moved to the minimum.
        positions: The start [n_atoms, 3], A.

    Raises:
        BadMinimumError: A molecule falls apart, or two fuse, when it is minimised.
        ValueError: The start cannot be minimised.
    """
    minimum = _relaxed(simulation, positions)
    torn = torn_bond(simulation.topology, positions, minimum)
    if torn is not None:
        raise BadMinimumError(
            f"the minimisation tore a molecule apart: {torn}; likely cause: "
            "surroundings that the model was not trained on (look at the warnings, if "
            "any, and at the model's card), or positions in other units than Å"
        )
    fused = fused_atoms(simulation.topology, minimum)
    if fused is not None:
        raise BadMinimumError(
            f"after the minimisation two molecules are fused: {fused}; likely cause: a "
            "start with atoms nearer to each other than the model has seen; let a "
            "classical force field relax it first"
        )
    return minimum


def _relaxed(simulation: app.Simulation, positions: np.ndarray) -> np.ndarray:
    simulation.context.setPositions(positions * ANGSTROM_TO_NM)
    # An OpenMMException here means a start that is not finite; the check below says so.
    with contextlib.suppress(openmm.OpenMMException):
        simulation.minimizeEnergy(
            tolerance=MINIMISER_TOLERANCE * unit.kilojoule_per_mole / unit.nanometer,
            maxIterations=MINIMISER_ITERATIONS,
        )
    state = simulation.context.getState(positions=True, energy=True)
    energy = state.getPotentialEnergy()._value
    minimum = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    if not (np.isfinite(energy) and np.isfinite(minimum).all()):
        raise ValueError(
            "the start cannot be minimised: its energy is not a finite number; check "
            "that the positions are in Angstrom and that no two atoms overlap"
        )
    return minimum * NM_TO_ANGSTROM


def torn_bond(
    topology: app.Topology, start: np.ndarray, minimum: np.ndarray
) -> str | None:
    """Return which bond the minimisation tore, if any; no reference for a guard then.

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
    """Return which atoms of two molecules a minimisation brought as near as a bond.

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
    first, second = (
        f"{a.name} of {a.residue.name} {a.residue.id}"
        for a in (atoms[found[0]], atoms[found[1]])
    )
    return (
        f"{first} and {second} are {found[2]:.2f} Å apart, below the limit of "
        f"{found[3]:.2f} Å"
    )

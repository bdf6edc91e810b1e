"""A structure in OpenMM: topology, contexts, and a context as a plain function."""

from __future__ import annotations

import warnings

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.domain import OutsideDomainWarning
from openmm_se3.elements import symbols_of
from openmm_se3.force import SE3Potential
from openmm_se3.simulation.platforms import named_platform, platform_properties
from openmm_se3.units import (
    AVOGADRO,
    DALTON_KG,
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
)
from openmm_se3.validation.structures import Structure
from openmm_se3.verlet import EnergyAndForces

# OpenMM's dalton is exactly 1 g/mol, which is 1e-9 off CODATA's dalton.  Over 2,000
# steps that is 3e-8 A in a water molecule, more than two integrators may differ by.
GRAM_PER_MOL_TO_DALTON = 1.0e-3 / (AVOGADRO * DALTON_KG)


def topology_of(structure: Structure) -> app.Topology:
    """Return a topology of the structure's atoms in one residue, without bonds."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for index, symbol in enumerate(symbols_of(structure.numbers)):
        element = app.Element.getBySymbol(symbol)
        topology.addAtom(f"{symbol}{index + 1}", element, residue)
    return topology


def make_system(potential: SE3Potential, structure: Structure) -> openmm.System:
    """Return a System with the model's force only.

    Random clusters are outside of the training data on purpose.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideDomainWarning)
        return potential.createSystem(topology_of(structure))


def masses_of(system: openmm.System) -> np.ndarray:
    """Return the masses [n_atoms] in CODATA daltons."""
    masses = [
        system.getParticleMass(i).value_in_unit(unit.dalton)
        for i in range(system.getNumParticles())
    ]
    return np.array(masses) * GRAM_PER_MOL_TO_DALTON


def make_context(
    system: openmm.System,
    integrator: openmm.Integrator,
    positions: np.ndarray,
    platform: str = "Reference",
    precision: str = "double",
) -> openmm.Context:
    """Return a context with positions [n_atoms, 3] (A)."""
    context = openmm.Context(
        system,
        integrator,
        named_platform(platform),
        platform_properties(platform, precision),
    )
    context.setPositions(positions * unit.angstrom)
    return context


def energy_and_forces_of(context: openmm.Context) -> tuple[float, np.ndarray]:
    """Return potential energy (eV) and forces [n_atoms, 3] (eV/A) of a context."""
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(
        unit.kilojoule_per_mole / unit.nanometer
    )
    return energy / EV_TO_KJ_PER_MOL, forces / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM


def as_function(context: openmm.Context) -> EnergyAndForces:
    """Return a context as a function of positions [n_atoms, 3] (A)."""

    def function(positions: np.ndarray) -> tuple[float, np.ndarray]:
        context.setPositions(positions * unit.angstrom)
        return energy_and_forces_of(context)

    return function


def positions_of(context: openmm.Context) -> np.ndarray:
    """Return positions [n_atoms, 3], A."""
    state = context.getState(getPositions=True)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))


def relaxed(system: openmm.System, structure: Structure) -> Structure:
    """Return the structure at the nearest minimum of the model."""
    context = make_context(system, openmm.VerletIntegrator(0.0005), structure.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 0.1, 500)
    return structure.moved(positions_of(context))

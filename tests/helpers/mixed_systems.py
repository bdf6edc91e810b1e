"""Classical Systems of liquid water, and their energies."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm import app, unit

EDGE = 1.7  # nm

CUTOFF = 0.8  # nm

LATTICE = (app.Ewald, app.PME, app.LJPME)

FIELDS = {"tip3p": "tip3p.xml", "tip4pew": "tip4pew.xml", "tip5p": "tip5p.xml"}


def liquid(water: str) -> app.Modeller:
    """Return a small box of a rigid or flexible classical water."""
    modeller = app.Modeller(app.Topology(), [])
    field = app.ForceField(FIELDS[water])
    modeller.addSolvent(
        field, model=water, boxSize=openmm.Vec3(EDGE, EDGE, EDGE) * unit.nanometer
    )
    positions = modeller.positions.value_in_unit(unit.nanometer)
    noise = np.random.default_rng(1).normal(scale=0.003, size=(len(positions), 3))
    return app.Modeller(modeller.topology, (positions + noise) * unit.nanometer)


def molecules(modeller: app.Modeller, n: int | None) -> app.Modeller:
    """Return the first molecules alone in the same box."""
    few = app.Modeller(modeller.topology, modeller.positions)
    residues = list(modeller.topology.residues())
    few.delete([] if n is None else residues[n:])
    return few


def chosen(modeller: app.Modeller) -> list[int]:
    """Return the atoms, without virtual sites."""
    return [a.index for a in modeller.topology.atoms() if a.element is not None]


def energy(
    system: openmm.System,
    positions: Any,
    box: float | None = None,
    **parameters: float,
) -> float:
    """Return the energy of group 0, kJ/mol."""
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    if box is not None:
        context.setPeriodicBoxVectors(*(box * np.eye(3)))
    context.setPositions(positions)
    context.computeVirtualSites()
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, groups={0})
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def field_system(modeller: app.Modeller, water: str, method: Any) -> openmm.System:
    system = app.ForceField(FIELDS[water]).createSystem(
        modeller.topology,
        nonbondedMethod=method,
        nonbondedCutoff=CUTOFF * unit.nanometer,
        constraints=None,
        rigidWater=False,
    )
    nonbonded = nonbonded_of(system)
    nonbonded.setUseDispersionCorrection(False)
    if method in LATTICE:  # the same in a System of few particles
        nonbonded.setPMEParameters(3.4, 24, 24, 24)
        nonbonded.setLJPMEParameters(3.4, 24, 24, 24)
    return system


def nonbonded_of(system: openmm.System) -> openmm.NonbondedForce:
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    return force


def tail(system: openmm.System, region: list[int]) -> float:
    """Return the dispersion correction between some particles, kJ/mol nm^3."""
    force = nonbonded_of(system)
    n = system.getNumParticles()
    total = 0.0
    for first, i in enumerate(region):
        for j in region[: first + 1]:
            _, sigma_i, epsilon_i = force.getParticleParameters(i)
            _, sigma_j, epsilon_j = force.getParticleParameters(j)
            sigma = 0.5 * (sigma_i + sigma_j)._value
            epsilon = np.sqrt(epsilon_i._value * epsilon_j._value)
            total += epsilon * (
                sigma**12 / (9 * CUTOFF**9) - sigma**6 / (3 * CUTOFF**3)
            )
    return 8 * np.pi * n**2 * total / (n * (n + 1) / 2)

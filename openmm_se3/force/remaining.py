"""What a classical force field still does inside the model's atoms: nothing."""

from __future__ import annotations

from collections.abc import Collection
from xml.etree import ElementTree

import numpy as np
import openmm
from openmm import unit

from openmm_se3.force.dispersion_correction import tail_coefficient
from openmm_se3.force.mixed import BONDED, NONBONDED, TERMS, particles_of
from openmm_se3.force.nonbonded import has_tail, only_inside
from openmm_se3.force.region import region_of
from openmm_se3.force.system_checks import INSIDE, inside_name, listed

LIMIT = 1e-3  # kJ/mol; the rounding of OpenMM's CPU platform
STRUCTURES = 2
# The Reference platform, in double precision, takes up to half a second for so many.
REFERENCE_PARTICLES = 3_000


def require_nothing_inside(
    system: openmm.System,
    atoms: Collection[int],
    restraints: Collection[str] | None = None,
) -> None:
    """Refuse a System whose classical forces act inside the model's atoms.

    Arguments as for :func:`remaining_energy`.

    Raises:
        ValueError: Names the energy and the forces.
    """
    energy = remaining_energy(system, atoms, restraints)
    if not energy <= LIMIT:
        region = region_of(system, atoms)
        names = sorted({f.getName() for f in _classical(system, region, restraints)})
        raise ValueError(
            f"classical forces give {energy:.3g} kJ/mol inside the model's atoms "
            f"{listed(set(atoms))}, whose whole energy the model gives; "
            f"it is left in one of {names}: make the System without that force"
        )


def remaining_energy(
    system: openmm.System,
    atoms: Collection[int],
    restraints: Collection[str] | None = None,
) -> float:
    """Return the energy of classical forces inside the model's atoms, kJ/mol.

    It is the largest of a few random structures.  Restraints, biases and other models
    do not count.

    Args:
        system: A mixed System, with or without the model's force.
        atoms: The model's atoms.
        restraints: Names of bonded forces that were kept.
    """
    region = region_of(system, atoms)
    probe = openmm.XmlSerializer.clone(system)
    for index in reversed(range(probe.getNumForces())):
        probe.removeForce(index)
    for force in _classical(system, region, restraints):
        for inside in _inside(force, region):
            probe.addForce(inside)
    if not probe.getNumForces():
        return 0.0
    few = probe.getNumParticles() <= REFERENCE_PARTICLES
    platform = openmm.Platform.getPlatform("Reference" if few else "CPU")
    context = openmm.Context(probe, openmm.VerletIntegrator(0.001), platform)
    energies = [_energy(context, probe, seed) for seed in range(STRUCTURES)]
    return float(np.max(np.abs(energies)))  # passes NaN on


def _classical(
    system: openmm.System, region: set[int], restraints: Collection[str] | None
) -> list[openmm.Force]:
    """Return forces of the force field and those that subtract their inside."""
    return [
        force
        for force in system.getForces()
        if force.getName().startswith(inside_name(region, ""))
        or (
            type(force).__name__ in BONDED | NONBONDED
            and force.getName() not in (restraints or ())
        )
    ]


def _inside(force: openmm.Force, region: set[int]) -> list[openmm.Force]:
    """Return forces that do what one does inside a region."""
    if force.getName().startswith(INSIDE):
        return [openmm.XmlSerializer.clone(force)]
    if type(force).__name__ not in NONBONDED:
        terms = _terms_inside(force, region)
        return [] if terms is None else [terms]
    found = [only_inside(force, region)]
    if isinstance(force, openmm.CustomNonbondedForce) and has_tail(force):
        coefficient = tail_coefficient(force, region)
        found.append(openmm.CustomVolumeForce(f"{coefficient!r}/v"))
    return found


def _terms_inside(force: openmm.Force, region: set[int]) -> openmm.Force | None:
    """Return a bonded force with only the terms inside a region, None without any."""
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(force))
    found = False
    for terms in root:
        for term in list(terms):
            if term.tag in TERMS and particles_of(term) <= region:
                found = True
            elif term.tag in TERMS:
                terms.remove(term)
    if not found:
        return None
    return openmm.XmlSerializer.deserialize(
        ElementTree.tostring(root, encoding="unicode")
    )


def _energy(context: openmm.Context, system: openmm.System, seed: int) -> float:
    rng = np.random.default_rng(seed)
    particles = system.getNumParticles()
    if system.usesPeriodicBoundaryConditions():
        box = system.getDefaultPeriodicBoxVectors()
        rows = np.array([v.value_in_unit(unit.nanometer) for v in box])
        positions = rng.random((particles, 3)) @ rows
    else:  # about as dense as a liquid
        positions = 0.2 * particles ** (1 / 3) * rng.random((particles, 3))
    context.setPositions(positions)
    context.computeVirtualSites()
    state = context.getState(getEnergy=True)
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))

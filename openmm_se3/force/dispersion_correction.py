"""The long-range dispersion correction between the particles of a region.

The correction is a coefficient over the volume.  OpenMM has no call for the part of
some particles; it is the whole energy of a System of only these particles that stand
farther apart than the cutoff.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from xml.etree import ElementTree

import numpy as np
import openmm

SPACING = 1.5  # between particles, in cutoffs


def tail_coefficient(
    force: openmm.NonbondedForce | openmm.CustomNonbondedForce,
    region: AbstractSet[int],
) -> float:
    """Return the correction's part between particles of a region times the volume.

    Args:
        force: A force of method CutoffPeriodic with the correction on.
        region: Particles.

    Returns:
        The coefficient, kJ/mol nm^3, for the default values of global parameters.
    """
    members = sorted(region)
    few = len(members)
    copy = _of_particles(force, members)
    cutoff = copy.getCutoffDistance()._value
    side = int(np.ceil(few ** (1 / 3)))
    edge = max(side, 2) * SPACING * cutoff
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
    for _ in members:
        system.addParticle(1.0)
    system.addForce(copy)
    index = np.arange(few)
    grid = np.stack([index % side, index // side % side, index // side**2], axis=1)
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    context.setPositions(SPACING * cutoff * grid)
    energy = context.getState(getEnergy=True).getPotentialEnergy()._value
    # OpenMM divides the sum over pairs i <= j by N (N + 1) / 2 and multiplies it by
    # N^2, N being the number of particles in the System.
    particles = force.getNumParticles()
    scale = particles * (few + 1) / (few * (particles + 1))
    return float(energy * edge**3 * scale)


def _of_particles(force: openmm.Force, members: list[int]) -> openmm.Force:
    """Return a copy of a nonbonded force for some particles, without exclusions."""
    new = {old: str(index) for index, old in enumerate(members)}
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(force))
    for name in ("Exceptions", "Exclusions", "ParticleOffsets", "ExceptionOffsets"):
        part = root.find(name)
        if part is not None:
            part.clear()
    particles = root.find("Particles")
    assert particles is not None  # of every nonbonded force
    for index, particle in enumerate(list(particles)):
        if index not in new:
            particles.remove(particle)
    for group in root.iterfind("./InteractionGroups/InteractionGroup/*"):
        for particle in list(group):
            member = new.get(int(particle.get("index", -1)))
            if member is None:
                group.remove(particle)
            else:
                particle.set("index", member)
    copy = openmm.XmlSerializer.deserialize(
        ElementTree.tostring(root, encoding="unicode")
    )
    if isinstance(copy, openmm.NonbondedForce):
        for index in range(copy.getNumParticles()):
            _, sigma, epsilon = copy.getParticleParameters(index)
            copy.setParticleParameters(index, 0.0, sigma, epsilon)
    return copy

"""In mixed Systems nothing acts inside the model's atoms but the model."""

from __future__ import annotations

import numpy as np
import openmm

from openmm_se3.force.mixed import without_internal_terms
from openmm_se3.force.remaining import LIMIT, remaining_energy
from openmm_se3.validation.check import Check
from openmm_se3.validation.structures import Structure

METHODS = {
    "no cutoff": openmm.NonbondedForce.NoCutoff,
    "cutoff, dispersion correction": openmm.NonbondedForce.CutoffPeriodic,
    "Ewald": openmm.NonbondedForce.Ewald,
    "PME": openmm.NonbondedForce.PME,
    "LJPME": openmm.NonbondedForce.LJPME,
}
EDGE, CUTOFF = 2.5, 0.9  # nm
OTHERS = 20  # classical particles around


def mixed_checks(molecule: Structure, rng: np.random.Generator) -> list[Check]:
    """Measure the classical energy inside the model's atoms of mixed Systems.

    The molecule, with random charges, a virtual site and bonds, stands among classical
    particles, for each way of computing nonbonded forces.

    Args:
        molecule: The model's atoms.
        rng: Draws charges.
    """
    atoms = range(len(molecule.numbers))
    checks = []
    for name, method in METHODS.items():
        system = _classical(len(atoms), method, rng)
        mixed = without_internal_terms(system, atoms, restraints=[])
        checks.append(
            Check(
                "mixed systems",
                f"classical energy inside the model's atoms, {name}",
                remaining_energy(mixed, atoms),
                "kJ/mol",
                high=LIMIT,
                note=f"{remaining_energy(system, atoms):.3g} in the classical System",
            )
        )
    return checks


def _classical(n_atoms: int, method: int, rng: np.random.Generator) -> openmm.System:
    """Return a molecule of a made-up force field, a site on it, and other particles."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(EDGE * np.eye(3)))
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(method)
    nonbonded.setCutoffDistance(CUTOFF)
    nonbonded.setUseDispersionCorrection(True)
    particles = n_atoms + 1 + OTHERS
    charges = rng.normal(size=particles)
    for index in range(particles):
        system.addParticle(0.0 if index == n_atoms else 12.0)
        nonbonded.addParticle(charges[index] - charges.mean(), 0.3, 0.5)
    system.addForce(nonbonded)
    if n_atoms > 1:
        bonds = openmm.HarmonicBondForce()
        bonds.addBond(0, 1, 0.1, 1000.0)
        system.addForce(bonds)
        site = openmm.TwoParticleAverageSite(0, 1, 0.3, 0.7)
    else:
        site = openmm.TwoParticleAverageSite(0, 0, 0.5, 0.5)
    system.setVirtualSite(n_atoms, site)
    return system

"""Water with an analytic force field, whose vibrations are known exactly."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.geometry import in_angstrom
from openmm_se3.simulation import water_start, water_topology

OH_LENGTH = 0.9572  # A
HOH_ANGLE = 104.52  # degrees
BOND = 490_000.0  # kJ/mol/nm^2; stretches near 3900 cm^-1
ANGLE = 420.0  # kJ/mol/rad^2; bend near 1600 cm^-1
CHARGE = -0.8  # of oxygen


def water_positions(n_molecules: int, seed: int | None = None) -> np.ndarray:
    """Return the positions of ``water_start`` as numbers [n_atoms, 3], A."""
    return in_angstrom(water_start(n_molecules, seed))


def harmonic_water(
    n_molecules: int = 1, edge: float | None = None
) -> tuple[openmm.System, app.Topology]:
    """Return a System of harmonic water molecules with charges and a core between.

    Args:
        n_molecules: Number of molecules.
        edge: Edge of a cubic box, A; None has no box.
    """
    topology = water_topology(n_molecules)
    system = openmm.System()
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    between = openmm.NonbondedForce()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
        oxygen = atom.name == "O"
        charge = CHARGE if oxygen else -CHARGE / 2
        between.addParticle(charge, 0.315 if oxygen else 0.1, 0.65 if oxygen else 0.0)
    for o in range(0, 3 * n_molecules, 3):
        bonds.addBond(o, o + 1, 0.1 * OH_LENGTH, BOND)
        bonds.addBond(o, o + 2, 0.1 * OH_LENGTH, BOND)
        angles.addAngle(o + 1, o, o + 2, np.radians(HOH_ANGLE), ANGLE)
        for pair in ((o, o + 1), (o, o + 2), (o + 1, o + 2)):
            between.addException(*pair, 0.0, 0.1, 0.0)
    if edge is not None:
        topology.setUnitCellDimensions(openmm.Vec3(edge, edge, edge) * unit.angstrom)
        system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
        between.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        between.setCutoffDistance(0.03 * edge)
    for force in (bonds, angles, between):
        system.addForce(force)
    return system, topology


def exact_wavenumbers(system: openmm.System, positions: np.ndarray) -> np.ndarray:
    """Return the vibrational wavenumbers (cm^-1) of a minimum, from finite differences.

    Args:
        system: Particles and forces.
        positions: Positions of the minimum [n_atoms, 3], A.
    """
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    x = 0.1 * np.asarray(positions)  # nm

    def force(displaced: np.ndarray) -> np.ndarray:
        context.setPositions(displaced)
        state = context.getState(forces=True)
        unit_ = unit.kilojoule_per_mole / unit.nanometer
        return state.getForces(asNumpy=True).value_in_unit(unit_).ravel()

    h, rows = 1e-5, []
    for k in range(x.size):
        step = np.zeros(x.size)
        step[k] = h
        step = step.reshape(x.shape)
        rows.append((force(x - step) - force(x + step)) / (2 * h))
    hessian = np.array(rows)
    masses = [system.getParticleMass(i)._value for i in range(len(x))]
    root = np.sqrt(np.repeat(masses, 3))
    hessian = 0.5 * (hessian + hessian.T) / np.outer(root, root)
    squared = np.linalg.eigvalsh(hessian)[6:]  # 1/ps^2
    return np.sqrt(squared) / (2 * np.pi * 2.99792458e-2)

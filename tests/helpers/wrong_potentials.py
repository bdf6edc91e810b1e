"""Potentials that are right or wrong in a known way."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app
from random_model import WATER

from openmm_se3.validation.check import Check
from openmm_se3.validation.structures import (
    Structure,
    random_cluster,
)

ELEMENTS = ("H", "O")

MOLECULE = Structure("H2O", np.array([8, 1, 1]), WATER)


def cluster() -> Structure:
    return random_cluster(ELEMENTS, np.random.default_rng(0))


def failed(checks: list[Check]) -> list[str]:
    return [f"{c.group}: {c.name}: {c.measured}" for c in checks if c.status == "fail"]


class AnalyticPotential:
    """Stands in for an SE3Potential: harmonic water, with a choice of faults.

    Args:
        curl: Strength (kJ/mol/nm^2) of a force around the z axis, which no energy has.
    """

    precision = "double"
    backend = "analytic"

    def __init__(self, curl: float = 0.0) -> None:
        self.curl = curl

    def createSystem(self, topology: app.Topology) -> openmm.System:  # noqa: N802
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
        bonds.addBond(0, 1, 0.096, 490_000.0)
        bonds.addBond(0, 2, 0.096, 490_000.0)
        angles.addAngle(1, 0, 2, 1.82, 420.0)
        system.addForce(bonds)
        system.addForce(angles)
        if self.curl:
            system.addForce(openmm.PythonForce(Curl(self.curl)))
        return system


class Curl:
    """A force around the z axis that does work on every round."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        x = state.getPositions(asNumpy=True)._value
        x = x - x.mean(axis=0)
        forces = self.strength * np.stack([-x[:, 1], x[:, 0], 0.0 * x[:, 2]], axis=1)
        return 0.0, forces

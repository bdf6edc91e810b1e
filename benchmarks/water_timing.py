"""Water molecules in OpenMM, ready to be timed."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit
from water_geometry import water_grid

from openmm_se3.force import SE3Potential
from openmm_se3.simulation import water_topology
from openmm_se3.simulation.platforms import (
    best_platform,
    named_platform,
    platform_properties,
)

DT_FS = 0.5
RATTLE = 0.02  # A


def rattle(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return positions [n_atoms, 3] (A) with small random displacements."""
    return positions + rng.normal(scale=RATTLE, size=positions.shape)


class Stepper:
    """One way of running n water molecules.

    Args:
        model: Name or path of a model; None runs without any force.
        n_molecules: Number of molecules.
        backend: "torchforce", "pythonforce" or "auto".
        platform: Name of an OpenMM platform; None takes the best one.
        precision: "single" or "double".
        scale: Name of a global parameter that scales the model; None for none.

    Attributes:
        backend: The backend in use.
        platform: Name of the platform in use.
    """

    def __init__(
        self,
        model: str | None,
        n_molecules: int,
        backend: str,
        platform: str | None,
        precision: str,
        scale: str | None = None,
        engine: str = "auto",
    ) -> None:
        topology = water_topology(n_molecules)
        _, positions = water_grid(n_molecules)
        if model is None:
            system = openmm.System()
            for atom in topology.atoms():
                system.addParticle(atom.element.mass)
            self.backend, self.engine = "no force", ""
        else:
            potential = SE3Potential(
                model, precision=precision, backend=backend, engine=engine
            )
            system = potential.createSystem(topology, scale=scale)
            self.backend, self.engine = potential.backend, potential.engine
        if platform is None:
            chosen, _ = best_platform(system, positions, precision)
        else:
            chosen = named_platform(platform)
        self.platform = chosen.getName()
        self.integrator = openmm.VerletIntegrator(DT_FS * unit.femtosecond)
        self.context = openmm.Context(
            system,
            self.integrator,
            chosen,
            platform_properties(self.platform, precision),
        )
        self.context.setPositions(positions * unit.angstrom)
        if model is not None:
            openmm.LocalEnergyMinimizer.minimize(self.context, 1.0, 200)
        self.context.setVelocitiesToTemperature(100.0 * unit.kelvin, 1)

    def step(self, steps: int) -> None:
        """Run steps, and wait until they are done."""
        self.integrator.step(steps)
        self.context.getState(positions=True)

    def evaluate(self, positions: np.ndarray, calls: int) -> None:
        """Get energy and forces for positions [n_atoms, 3] (A), several times."""
        for _ in range(calls):
            self.context.setPositions(positions * unit.angstrom)
            self.context.getState(energy=True, forces=True)

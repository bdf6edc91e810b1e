"""Energy and forces of an OpenMM System for given positions."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import unit

KJ = unit.kilojoule_per_mole
PLATFORMS = [
    openmm.Platform.getPlatform(index).getName()
    for index in range(openmm.Platform.getNumPlatforms())
]


class Evaluator:
    """Energy (kJ/mol) and forces (kJ/mol/nm) of a System for positions in A."""

    def __init__(self, system: openmm.System, platform: str = "Reference") -> None:
        self.integrator = openmm.VerletIntegrator(0.001)
        chosen = openmm.Platform.getPlatformByName(platform)
        self.context = openmm.Context(system, self.integrator, chosen)

    def __call__(
        self, positions: np.ndarray, **parameters: float
    ) -> tuple[float, np.ndarray]:
        self.context.setPositions(0.1 * positions)
        for name, value in parameters.items():
            self.context.setParameter(name, value)
        state = self.context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True).value_in_unit(KJ / unit.nanometer)
        return state.getPotentialEnergy().value_in_unit(KJ), forces

    def derivatives(self) -> dict[str, float]:
        """Derivatives of the energy (kJ/mol) with respect to parameters."""
        state = self.context.getState(parameterDerivatives=True)
        return dict(state.getEnergyParameterDerivatives())


def evaluate(system: openmm.System, positions: np.ndarray) -> tuple[float, np.ndarray]:
    return Evaluator(system)(positions)

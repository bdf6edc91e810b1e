"""Ways to let OpenMM call a model: TorchForce, or PythonForce where that cannot be had.

Both run the same TorchScript module.  A further backend is one more function here.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import openmm
import torch
from openmm import unit

from openmm_se3 import plugin
from openmm_se3.export.build import ForceSettings, build_module

BACKENDS = ("torchforce", "pythonforce")
FORCE_NAME = "SE3Potential"  # of our forces in a System


def resolve(backend: str) -> str:
    """Return the backend to use: the one asked for, or for "auto" the best that works.

    Raises:
        ValueError: There is no such backend.
        PluginError: The backend does not work here; the message says why and the fix.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(
            f"backend must be 'auto' or one of {BACKENDS}, got {backend!r}"
        )
    torchforce = plugin.torchforce_problem() if backend != "pythonforce" else None
    if backend == "torchforce" and torchforce:
        raise plugin.PluginError(f"TorchForce cannot be used: {torchforce}")
    if backend != "pythonforce" and not torchforce:
        return "torchforce"
    pythonforce = plugin.pythonforce_problem()
    if pythonforce:
        causes = "; ".join(cause for cause in (torchforce, pythonforce) if cause)
        raise plugin.PluginError(f"no backend can be used: {causes}")
    if torchforce:
        warnings.warn(
            f"TorchForce cannot be used ({torchforce}); going on with PythonForce",
            stacklevel=3,
        )
    return "pythonforce"


def make_force(backend: str, settings: ForceSettings) -> openmm.Force:
    """Return the OpenMM force of a backend.

    Raises:
        ExportError: The module does not reproduce the network.
    """
    if backend == "torchforce":
        force = _torchforce(settings)
    else:
        force = openmm.PythonForce(ModelCallable(settings))
    force.setUsesPeriodicBoundaryConditions(settings.periodic)
    force.setName(FORCE_NAME)
    return force


def _torchforce(settings: ForceSettings) -> openmm.Force:
    openmmtorch = plugin.load_openmmtorch()
    force = openmmtorch.TorchForce(build_module(settings))
    force.setOutputsForces(True)
    return force


class ModelCallable:
    """What PythonForce calls; pickled with the model inside, so that XML is complete.

    Args:
        settings: What to compute.
    """

    def __init__(self, settings: ForceSettings) -> None:
        self.settings = settings
        self._module: torch.jit.ScriptModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the module, which is made anew where it is needed."""
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["settings"])  # type: ignore[misc]

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_particles, 3], kJ/mol/nm."""
        if self._module is None:
            self._module = build_module(self.settings)
        positions = torch.from_numpy(
            state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        )
        if self.settings.periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(
                unit.nanometer
            )
            energy, forces = self._module(positions, torch.from_numpy(np.array(box)))
        else:
            energy, forces = self._module(positions)
        return energy.item(), forces.numpy()

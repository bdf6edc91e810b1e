"""Ways to let OpenMM call a model: TorchForce, or PythonForce where that cannot be had.

Both run the same TorchScript module.  A further backend is one more class and its entry
in ``BACKENDS``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import threading
import warnings
import weakref
from typing import ClassVar, Protocol

import numpy as np
import openmm
import torch
from openmm import unit

from openmm_se3.force import plugin
from openmm_se3.force.recorded_step import RecordedStep, step_of
from openmm_se3.force.system_checks import force_name
from openmm_se3.torch_state import usual_torch
from openmm_se3.torchscript.build import ForceSettings, build_module


class Backend(Protocol):
    """One of OpenMM's classes that can call a model."""

    def problem(self) -> str | None:
        """Return cause and fix if it cannot be used here, else None."""

    def force(self, settings: ForceSettings) -> openmm.Force:
        """Return the force, which gives its derivative by ``settings.scale`` if any.

        Raises:
            ExportError: The module does not reproduce the network.
        """


class TorchForce:
    """OpenMM calls the module itself, without Python."""

    def problem(self) -> str | None:
        """Return cause and fix if the plugin cannot be used here, else None."""
        return plugin.torchforce_problem()

    def force(self, settings: ForceSettings) -> openmm.Force:
        """Return a TorchForce."""
        force = plugin.load_openmmtorch().TorchForce(build_module(settings))
        force.setOutputsForces(True)
        force.setUsesPeriodicBoundaryConditions(settings.periodic)
        if settings.scale is not None:
            force.addGlobalParameter(settings.scale, 1.0)
            force.addEnergyParameterDerivative(settings.scale)
        if settings.cuda_graphs is not None:
            force.setProperty("useCUDAGraphs", "true")  # read on CUDA only
        return force


class PythonForce:
    """OpenMM calls Python, which calls the module; needs no plugin."""

    def problem(self) -> str | None:
        """Return cause and fix if this OpenMM has no PythonForce, else None."""
        return plugin.pythonforce_problem()

    def force(self, settings: ForceSettings) -> openmm.Force:
        """Return a PythonForce, inside a CustomCVForce if there is ``settings.scale``.

        OpenMM gives no derivatives by a PythonForce's own parameters, but zeros.
        """
        scaled = settings.scale is not None
        function = CopiedCallable(settings) if scaled else ModelCallable(settings)
        force = openmm.PythonForce(function)
        force.setUsesPeriodicBoundaryConditions(settings.periodic)
        if not scaled:
            return force
        unscaled = f"{settings.scale}_energy"
        product = openmm.CustomCVForce(f"{settings.scale}*{unscaled}")
        product.addCollectiveVariable(unscaled, force)
        product.addGlobalParameter(settings.scale, 1.0)
        product.addEnergyParameterDerivative(settings.scale)
        return product


BACKENDS: dict[str, Backend] = {  # the best first
    "torchforce": TorchForce(),
    "pythonforce": PythonForce(),
}


def resolve(backend: str) -> str:
    """Return the backend to use: the one asked for, or for "auto" the best that works.

    Raises:
        ValueError: There is no such backend.
        PluginError: The backend does not work here; the message says why and the fix.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(
            f"backend must be 'auto' or one of {tuple(BACKENDS)}, got {backend!r}"
        )
    problems: list[str] = []
    for name in BACKENDS if backend == "auto" else [backend]:
        problem = BACKENDS[name].problem()
        if problem is None:
            if problems:
                warnings.warn(
                    f"{'; '.join(problems)}; going on with {name}", stacklevel=3
                )
            return name
        problems.append(f"{name} cannot be used: {problem}")
    raise plugin.PluginError("; ".join(problems))


def make_force(backend: str, settings: ForceSettings) -> openmm.Force:
    """Return the OpenMM force of a backend.

    Raises:
        ExportError: The module does not reproduce the network.
    """
    force = BACKENDS[backend].force(settings)
    force.setName(force_name(settings.atoms, settings.n_particles))
    return force


class ModelCallable:
    """What PythonForce calls; pickled with the model inside, so that XML is complete.

    The settings are held as a pickle of their own and opened at the first call: an
    exception while OpenMM reads XML would end the process, whereas one here, where a
    damaged model is found, becomes an OpenMMException.

    Args:
        settings: What to compute.
    """

    def __init__(self, settings: ForceSettings) -> None:
        # The scale is not the module's to apply.
        self.__setstate__(pickle.dumps(dataclasses.replace(settings, scale=None)))

    def __getstate__(self) -> bytes:
        """Leave out the module, which is made anew where it is needed."""
        return self._pickled

    def __setstate__(self, pickled: bytes) -> None:
        self._pickled = pickled
        self._opened: (
            tuple[ForceSettings, torch.jit.ScriptModule | RecordedStep] | None
        ) = None
        # Contexts in several threads share this object, and a module's neighbor list
        # can work for one at a time.
        self._lock = threading.Lock()

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

        Raises:
            ModelFileError: The model is damaged.
            ExportError: The module does not reproduce the network.
        """
        with self._lock, usual_torch():
            if self._opened is None:
                settings = pickle.loads(self._pickled)
                inputs = self._inputs(settings, state)
                step = step_of(settings, build_module(settings), inputs)
                self._opened = settings, step
            settings, step = self._opened
            inputs = self._inputs(settings, state)
            energy, computed = step(*inputs)
            forces = computed.numpy()
            more = len(inputs[0]) - len(forces)
            if more:  # particles that were added to the System since
                forces = np.concatenate([forces, np.zeros((more, 3), forces.dtype)])
            return energy.item(), forces

    def _inputs(
        self, settings: ForceSettings, state: openmm.State
    ) -> list[torch.Tensor]:
        """Return positions [n_particles, 3], and the box [3, 3] if there is one, nm."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        inputs = [torch.from_numpy(positions)]
        if settings.periodic:
            box = state.getPeriodicBoxVectors(asNumpy=True)
            rows = np.array(box.value_in_unit(unit.nanometer))
            inputs.append(torch.from_numpy(rows))
        return inputs


class CopiedCallable(ModelCallable):
    """What PythonForce calls within a CustomCVForce, which copies it for each Context.

    OpenMM (8.4) never frees the Python object of a copy, nor the 0.2 GB of a compiled
    network in it.  So a copy calls an object of the same settings that a System still
    holds, and opens a model of its own only where there is none, as after loading XML.

    Args:
        settings: What to compute.
    """

    _held: ClassVar[weakref.WeakValueDictionary[bytes, CopiedCallable]]
    _held = weakref.WeakValueDictionary()

    def __init__(self, settings: ForceSettings) -> None:
        super().__init__(settings)
        self._held[self._key] = self

    def __setstate__(self, pickled: bytes) -> None:
        self._key = hashlib.sha256(pickled).digest()
        held = self._held.get(self._key)
        # One copy of the weights, too.
        super().__setstate__(pickled if held is None else held._pickled)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return what :class:`ModelCallable` returns."""
        held = self._held.get(self._key, self)
        return super(CopiedCallable, held).__call__(state)

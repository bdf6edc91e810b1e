"""Machine-learned force field for OpenMM: an SE(3)-Transformer trained on DFT."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from openmm_se3 import _moved
from openmm_se3.version import __version__

if TYPE_CHECKING:
    from openmm_se3.active_learning import learn
    from openmm_se3.ase import SE3Calculator
    from openmm_se3.force import Evaluator, SE3Potential, register_plugins
    from openmm_se3.model_file import load_model
    from openmm_se3.simulation.uncertainty import UncertaintyReporter

__all__ = [
    "Evaluator",
    "SE3Calculator",
    "SE3Potential",
    "UncertaintyReporter",
    "__version__",
    "learn",
    "load_model",
    "register_plugins",
]

# Loaded on first use, so that the command line starts without torch and OpenMM.
_HOMES = {
    "Evaluator": "force",
    "SE3Calculator": "ase",
    "SE3Potential": "force",
    "UncertaintyReporter": "simulation.uncertainty",
    "learn": "active_learning",
    "load_model": "model_file",
    "register_plugins": "force",
}

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

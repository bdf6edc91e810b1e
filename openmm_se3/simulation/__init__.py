"""Simulation: molecular dynamics of any structure, recorded, guarded and resumable.

structure   PDB, PDBx/mmCIF, SDF or SMILES -> topology and positions
small_molecule  the last two of them
water       water molecules, the same without a file
model       a run of either on a model
options     what to run
run         one run of any System: start, or go on from a checkpoint
minimum     where a run starts; refused where it cannot be right
phases      its equilibration and production
ensemble    integrators, thermostat, barostat, degrees of freedom
checkpoint  what a run goes on from
folder      names of the files, lock
uncertainty  how far a committee's members deviate
reporters, log, progress, guard: they look at the run while it goes on
platforms   where it runs
drift       slope of the energy, with its error
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from openmm_se3._moved import renamed_names

if TYPE_CHECKING:
    from openmm_se3.simulation.drift import Drift, energy_drift
    from openmm_se3.simulation.ensemble import degrees_of_freedom
    from openmm_se3.simulation.folder import FolderInUseError
    from openmm_se3.simulation.guard import GuardReporter, SimulationStopped
    from openmm_se3.simulation.log import LogReporter
    from openmm_se3.simulation.model import ModelRunOptions, run_model, run_structure
    from openmm_se3.simulation.options import RunOptions
    from openmm_se3.simulation.phases import RunRecord
    from openmm_se3.simulation.platforms import best_platform
    from openmm_se3.simulation.reporters import TrajectoryReporter, VelocityReporter
    from openmm_se3.simulation.run import run_dynamics
    from openmm_se3.simulation.structure import make_structure, read_structure
    from openmm_se3.simulation.uncertainty import UncertaintyReporter
    from openmm_se3.simulation.water import (
        WaterRunOptions,
        run_water,
        water_start,
        water_topology,
    )

__all__ = [
    "Drift",
    "FolderInUseError",
    "GuardReporter",
    "LogReporter",
    "ModelRunOptions",
    "RunOptions",
    "RunRecord",
    "SimulationStopped",
    "TrajectoryReporter",
    "UncertaintyReporter",
    "VelocityReporter",
    "WaterRunOptions",
    "best_platform",
    "degrees_of_freedom",
    "energy_drift",
    "make_structure",
    "read_structure",
    "run_dynamics",
    "run_model",
    "run_structure",
    "run_water",
    "water_start",
    "water_topology",
]

# The module of each name.  It is imported when the name is first used: the command line
# needs the options for its help and must not load torch and OpenMM for them.
_MODULES = {
    "Drift": "drift",
    "FolderInUseError": "folder",
    "GuardReporter": "guard",
    "LogReporter": "log",
    "ModelRunOptions": "model",
    "RunOptions": "options",
    "RunRecord": "phases",
    "SimulationStopped": "guard",
    "TrajectoryReporter": "reporters",
    "UncertaintyReporter": "uncertainty",
    "VelocityReporter": "reporters",
    "WaterRunOptions": "water",
    "best_platform": "platforms",
    "degrees_of_freedom": "ensemble",
    "energy_drift": "drift",
    "make_structure": "structure",
    "read_structure": "structure",
    "run_dynamics": "run",
    "run_model": "model",
    "run_structure": "model",
    "run_water": "water",
    "water_start": "water",
    "water_topology": "water",
}
_renamed = renamed_names(
    __name__, {"ModelRun": "ModelRunOptions", "WaterRun": "WaterRunOptions"}
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)
    return _renamed(name)

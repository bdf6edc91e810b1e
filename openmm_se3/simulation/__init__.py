"""Simulation: runs, reporters, the guard and the choice of a platform."""

from openmm_se3.simulation.drift import Drift, energy_drift
from openmm_se3.simulation.folder import FolderInUseError
from openmm_se3.simulation.guard import GuardReporter, SimulationStopped
from openmm_se3.simulation.log import LogReporter
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.platforms import best_platform
from openmm_se3.simulation.reporters import TrajectoryReporter, VelocityReporter
from openmm_se3.simulation.run import RunRecord, degrees_of_freedom, run_dynamics
from openmm_se3.simulation.water import (
    WaterRun,
    run_water,
    water_start,
    water_topology,
)

__all__ = [
    "Drift",
    "FolderInUseError",
    "GuardReporter",
    "LogReporter",
    "RunOptions",
    "RunRecord",
    "SimulationStopped",
    "TrajectoryReporter",
    "VelocityReporter",
    "WaterRun",
    "best_platform",
    "degrees_of_freedom",
    "energy_drift",
    "run_dynamics",
    "run_water",
    "water_start",
    "water_topology",
]

"""Simulation: molecular dynamics of any structure, recorded, guarded and resumable.

structure   PDB or PDBx/mmCIF -> topology and positions
water       water molecules, the same without a file
model       a run of either on a model
options     what to run
run         one run of any System: start, or go on from a checkpoint
minimum     where a run starts; refused where it cannot be right
phases      its equilibration and production
ensemble    integrators, thermostat, barostat, degrees of freedom
checkpoint  what a run goes on from
identity    what must agree for that
folder      names of the files, lock
reporters, log, progress, guard: they look at the run while it goes on
contacts    atoms nearer to each other than they can be
platforms   where it runs
drift       slope of the energy, with its error
"""

from openmm_se3.simulation.drift import Drift, energy_drift
from openmm_se3.simulation.ensemble import degrees_of_freedom
from openmm_se3.simulation.folder import FolderInUseError
from openmm_se3.simulation.guard import GuardReporter, SimulationStopped
from openmm_se3.simulation.log import LogReporter
from openmm_se3.simulation.model import ModelRun, run_model, run_structure
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.phases import RunRecord
from openmm_se3.simulation.platforms import best_platform
from openmm_se3.simulation.reporters import TrajectoryReporter, VelocityReporter
from openmm_se3.simulation.run import run_dynamics
from openmm_se3.simulation.structure import read_structure
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
    "ModelRun",
    "RunOptions",
    "RunRecord",
    "SimulationStopped",
    "TrajectoryReporter",
    "VelocityReporter",
    "WaterRun",
    "best_platform",
    "degrees_of_freedom",
    "energy_drift",
    "read_structure",
    "run_dynamics",
    "run_model",
    "run_structure",
    "run_water",
    "water_start",
    "water_topology",
]

"""OpenMM's VerletIntegrator beside our own.

Stoermer-Verlet in NumPy (``openmm_se3.verlet``) and OpenMM get their forces from
the same System; OpenMM holds velocities half a step before the positions.

Two right integrators differ by rounding, and chaos makes that grow until they have
nothing in common.  A twin that starts 1e-12 A away shows how long the comparison has a
meaning: it ends where the twin is a hundred times further away.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.read import read_log
from openmm_se3.force import SE3Potential
from openmm_se3.simulation.ensemble import degrees_of_freedom
from openmm_se3.simulation.folder import LOG
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.run import run_dynamics
from openmm_se3.units import (
    BOLTZMANN_EV,
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    FS_TO_PS,
)
from openmm_se3.validation.check import Check
from openmm_se3.validation.contexts import (
    as_function,
    energy_and_forces_of,
    make_context,
    make_system,
    masses_of,
    positions_of,
    relaxed,
    topology_of,
)
from openmm_se3.validation.structures import Structure
from openmm_se3.verlet import (
    EnergyAndForces,
    Trajectory,
    VelocityTime,
    accelerations,
    reversed_start,
    run_verlet,
)

DT = 0.5  # fs
POSITION_LIMIT = 1e-9  # A, Verlet against OpenMM and after the way back
WRONG_START_LIMIT = 100.0 * POSITION_LIMIT  # the wrong convention must differ by it
HALVING_RANGE = (3.0, 5.0)  # of a second-order method, ideally 4
TWIN_START, TWIN_END = 1e-12, 1e-10  # A, distance of the twin that shows chaos
LEAST_COMPARED = 20  # steps; about one vibration of a bond to hydrogen
STRETCH = 0.06  # A, random displacement of the start from the minimum
TEMPERATURE = 300.0  # K


@dataclasses.dataclass(frozen=True)
class Start:
    """Where dynamics starts.

    Attributes:
        positions: Positions [n_atoms, 3], A.
        velocities: Velocities [n_atoms, 3], A/fs.
    """

    positions: np.ndarray
    velocities: np.ndarray


def displaced_start(
    structure: Structure, masses: np.ndarray, rng: np.random.Generator
) -> Start:
    """Return a start away from the minimum, with velocities of ``TEMPERATURE``."""
    shape = structure.positions.shape
    unit_energy = EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2
    spread = np.sqrt(TEMPERATURE * BOLTZMANN_EV * unit_energy / masses)
    velocities = rng.normal(size=shape) * spread[:, None]
    velocities -= masses @ velocities / masses.sum()
    positions = structure.positions + rng.uniform(-STRETCH, STRETCH, size=shape)
    return Start(positions, velocities)


def verlet(
    function: EnergyAndForces,
    masses: np.ndarray,
    start: Start,
    steps: int,
    velocities_at: VelocityTime,
    dt: float = DT,
) -> Trajectory:
    """Return our own trajectory from a start."""
    return run_verlet(
        function,
        masses,
        start.positions,
        start.velocities,
        dt=dt,
        steps=steps,
        velocities_at=velocities_at,
    )


def openmm_trajectory(context: openmm.Context, start: Start, steps: int) -> np.ndarray:
    """Return positions [steps + 1, n_atoms, 3] (A) by the context's integrator."""
    context.setPositions(start.positions * unit.angstrom)
    context.setVelocities(start.velocities * unit.angstrom / unit.femtosecond)
    frames = [start.positions]
    for _ in range(steps):
        context.getIntegrator().step(1)
        frames.append(positions_of(context))
    return np.array(frames)


def openmm_way_back(context: openmm.Context, masses: np.ndarray) -> Start:
    """Return the start of the way back from a context's state.

    OpenMM holds v(t - dt/2); the way back needs -v(t + dt/2) = -(v(t - dt/2) + a dt).
    """
    state = context.getState(getVelocities=True)
    velocities = state.getVelocities(asNumpy=True).value_in_unit(
        unit.angstrom / unit.femtosecond
    )
    _, forces = energy_and_forces_of(context)
    ahead = velocities + accelerations(forces, masses) * DT
    return Start(positions_of(context), -ahead)


def predictable(trajectory: Trajectory, twin: Trajectory) -> Trajectory:
    """Return the part of a trajectory before its twin is ``TWIN_END`` away."""
    apart = np.abs(twin.positions - trajectory.positions).max(axis=(1, 2))
    frames = (
        int(np.argmax(apart > TWIN_END)) if (apart > TWIN_END).any() else len(apart)
    )
    if frames == len(apart):
        return trajectory
    return Trajectory(
        trajectory.dt,
        trajectory.positions[:frames],
        trajectory.velocities[:frames],
        trajectory.potential_energy[:frames],
        trajectory.kinetic_energy[:frames],
        trajectory.positions[frames],
    )


def largest_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of any coordinate, A."""
    return float(np.abs(first - second).max())


def verlet_checks(
    potential: SE3Potential, structure: Structure, steps: int, rng: np.random.Generator
) -> list[Check]:
    """Compare Stoermer-Verlet in NumPy with OpenMM on the Reference platform.

    Args:
        potential: The float64 model.
        structure: Atoms, near a minimum.
        steps: Steps of ``DT``.
        rng: Makes the start.
    """
    system = make_system(potential, structure)
    masses = masses_of(system)
    integrator = openmm.VerletIntegrator(DT * unit.femtosecond)
    context = make_context(system, integrator, structure.positions)
    function = as_function(
        make_context(system, openmm.VerletIntegrator(0.001), structure.positions)
    )
    start = displaced_start(relaxed(system, structure), masses, rng)

    ours = verlet(function, masses, start, steps, "half step before")
    nudge = TWIN_START * np.sign(rng.normal(size=start.positions.shape))
    twin_start = dataclasses.replace(start, positions=start.positions + nudge)
    twin = verlet(function, masses, twin_start, steps, "half step before")
    ours = predictable(ours, twin)
    compared = len(ours.positions) - 1

    theirs = openmm_trajectory(context, start, compared)
    way_back = openmm_way_back(context, masses)
    they_return = openmm_trajectory(context, way_back, compared)[-1]
    back = Start(*reversed_start(ours))
    returning = verlet(function, masses, back, compared, "half step before")
    synchronous = verlet(function, masses, start, steps, "same time")
    halved = verlet(function, masses, start, 2 * steps, "same time", DT / 2)
    ratio = synchronous.total_energy.std() / halved.total_energy.std()
    traveled = np.abs(theirs - theirs[0]).max()
    group = "Verlet"
    note = f"{structure.name}, {compared} steps of {DT:g} fs, Reference"
    return [
        Check(
            group,
            "steps that can be compared",
            compared,
            low=LEAST_COMPARED,
            note=f"of {steps}; then {TWIN_START:g} A has grown to {TWIN_END:g} A"
            if compared < steps
            else "chaos is far away",
        ),
        Check(
            group,
            "NumPy against OpenMM",
            largest_distance(ours.positions, theirs),
            "A",
            high=POSITION_LIMIT,
            note=f"{note}; atoms move by {traveled:.2f} A",
        ),
        Check(
            group,
            "wrong start convention is seen",
            largest_distance(synchronous.positions[: compared + 1], theirs),
            "A",
            low=WRONG_START_LIMIT,
            note="velocities taken for those at t instead of t - dt/2",
        ),
        Check(
            group,
            "NumPy returns to its start",
            largest_distance(returning.positions[-1], start.positions),
            "A",
            high=POSITION_LIMIT,
            note=note,
        ),
        Check(
            group,
            "OpenMM returns to its start",
            largest_distance(they_return, start.positions),
            "A",
            high=POSITION_LIMIT,
            note=note,
        ),
        Check(
            group,
            "energy noise, step / half step",
            float(ratio),
            "",
            *HALVING_RANGE,
            note=f"{synchronous.total_energy.std() * 1000.0:.3g} meV at {DT:g} fs",
        ),
    ]


DRIFT_LIMIT = {"single": 0.1, "double": 0.01}  # kT/ns per degree of freedom
TEMPERATURE = 300.0  # K
EQUILIBRATION_PS = 1.0
DT = 0.5  # fs
LOG_FS = 5.0


def drift_limit(precision: str, error: float) -> float:
    """Return the largest drift that passes: the precision's, or four times the error.

    Twice the error would fail one run in twenty without any drift.
    """
    return max(DRIFT_LIMIT[precision], 4.0 * error)


def drift_check(
    potential: SE3Potential,
    structure: Structure,
    precision: str,
    picoseconds: float,
    seed: int,
) -> Check:
    """Measure the energy drift of an NVE run after equilibration.

    Args:
        potential: The model in the precision named.
        structure: Atoms; they are relaxed first.
        precision: "single" or "double".
        picoseconds: Length of the run, ps.
        seed: Seed of the equilibration.
    """
    system = make_system(potential, structure)
    degrees = degrees_of_freedom(system, "nve")
    name = f"{structure.name}, NVE, {precision}"
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            steps=round(picoseconds / (DT * FS_TO_PS)),
            dt_fs=DT,
            temperature=TEMPERATURE,
            equilibration_ps=EQUILIBRATION_PS,
            precision=precision,
            platform="Reference",
            seed=seed,
            out=Path(folder) / "run",
            frame_fs=LOG_FS,
            log_fs=LOG_FS,
        )
        record = run_dynamics(
            system, topology_of(structure), structure.positions, options
        )
        log = read_log(record.folder / LOG) if (record.folder / LOG).is_file() else {}
    found = energies(log, TEMPERATURE, degrees, conserved=True)
    if record.status != "completed" or found is None or found.shadow_drift is None:
        reason = record.reason or "too short for a slope"
        return Check("drift", name, math.nan, "kT/ns/dof", note=reason)
    slope, error = found.shadow_drift.per_kt(TEMPERATURE, degrees)
    return Check(
        "drift",
        name,
        abs(slope),
        "kT/ns/dof",
        high=drift_limit(precision, error),
        note=(
            f"error {error:.2g}; {picoseconds:g} ps at {found.temperature:.0f} K, "
            f"{degrees} degrees of freedom, {DT:g} fs"
        ),
    )

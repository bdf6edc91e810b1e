"""One run of molecular dynamics: minimise, equilibrate, produce, record.

It takes any System, so that water molecules are only one use of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform as machine
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rich.console import Console

from openmm_se3.files import atomic_write
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.folder import RunFolder
from openmm_se3.simulation.guard import GuardReporter, SimulationStopped
from openmm_se3.simulation.log import LogReporter
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.platforms import (
    best_platform,
    named_platform,
    platform_properties,
)
from openmm_se3.simulation.progress import ProgressReporter, ns_per_day
from openmm_se3.simulation.reporters import TrajectoryReporter, VelocityReporter
from openmm_se3.units import ANGSTROM_TO_NM, FS_TO_PS, NM_TO_ANGSTROM

FRICTION_EQUILIBRATION = 10.0  # 1/ps; 2 ps are then 20 relaxation times
FRICTION_NVT = 1.0  # 1/ps
MINIMISER_TOLERANCE = 0.1  # kJ/mol/nm, root mean square force
MINIMISER_ITERATIONS = 2000
EXPLOSION_FACTOR, EXPLOSION_FLOOR = 20.0, 10_000.0  # of the temperature; K
PACKAGES = ("openmm-se3", "openmm", "openmmtorch", "torch", "numpy")
LANGEVIN, PRODUCTION = 0, 1  # places in the CompoundIntegrator


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """How a run ended.

    Attributes:
        folder: Where its files are.
        status: "completed", or "stopped" by the guard.
        reason: Why it was stopped; empty otherwise.
        steps: Production steps that were good.
        time_ps: Production time that was good, ps.
        seconds: Wall time of the production.
        ns_per_day: Speed of the production.
        platform: OpenMM platform.
    """

    folder: Path
    status: str
    reason: str
    steps: int
    time_ps: float
    seconds: float
    ns_per_day: float
    platform: str


def degrees_of_freedom(system: openmm.System, ensemble: str) -> int:
    """Return the degrees of freedom of the kinetic energy.

    Three for each atom with a mass, less the constraints, less three where the momentum
    stays zero: in NVE, where it is removed at the start and conserved, or with a
    CMMotionRemover.  A free cluster turns, so its angular momentum counts: 3N - 3.

    Raises:
        ValueError: Nothing can move.
    """
    count = range(system.getNumParticles())
    massive = sum(system.getParticleMass(i)._value > 0.0 for i in count)
    removed = any(isinstance(f, openmm.CMMotionRemover) for f in system.getForces())
    fixed = 3 if ensemble == "nve" or removed else 0
    free = 3 * massive - system.getNumConstraints() - fixed
    if free < 1:
        raise ValueError(f"a system of {massive} moving atoms has nothing to simulate")
    return free


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray,
    options: RunOptions,
    about: dict[str, Any] | None = None,
    console: Console | None = None,
) -> RunRecord:
    """Run one trajectory and write it to ``options.out``.

    The structure is minimised, equilibrated with Langevin dynamics, then produced.  At
    the hand-over the momentum and the centre of mass are set to zero; the angular
    momentum is kept.  Both integrators are leapfrogs with the same step, so positions
    and velocities go over as they are.

    Args:
        system: Particles and forces.
        topology: Atoms and the bonds that the guard watches.
        positions: Start [n_atoms, 3], A.
        options: What to run.
        about: More facts for ``run.json``, for example of the model.
        console: Shows progress there; None shows nothing.

    Raises:
        FolderInUseError: The folder has results already, or another run writes to it.
        ValueError: The start or the platform is unfit.
        KeyboardInterrupt: After the files were closed and the state was recorded.
    """
    positions = _checked_positions(system, topology, positions)
    dof = degrees_of_freedom(system, options.ensemble)
    console = console or Console(quiet=True)
    with RunFolder(options.out, options.overwrite) as folder:
        if options.platform is None:
            platform, why = best_platform(system, positions, options.precision)
        else:
            platform, why = named_platform(options.platform), "asked for"
        console.print(f"Platform {platform.getName()} ({why})", highlight=False)
        seed = options.seed or 1 + secrets.randbelow(2**31 - 1)
        simulation = _simulation(system, topology, options, platform, seed)
        positions = _minimise(simulation, positions)
        masses = np.array(
            [system.getParticleMass(i)._value for i in range(len(positions))]
        )
        limit = max(EXPLOSION_FACTOR * options.temperature, EXPLOSION_FLOOR)
        guard = GuardReporter(
            options.frame_interval,
            topology,
            masses,
            positions,
            max_temperature=limit,
        )
        folder.clear()
        with atomic_write(folder / names.TOPOLOGY) as path, open(path, "w") as file:
            app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
        now = datetime.datetime.now(datetime.timezone.utc)
        facts: dict[str, Any] = {
            "status": "running",
            "reason": "",
            "started": now.isoformat(timespec="seconds"),
            "options": {**options.to_dict(), "seed": seed},
            "frame_interval": options.frame_interval,
            "log_interval": options.log_interval,
            "degrees_of_freedom": dof,
            "masses": masses.tolist(),
            "platform": platform.getName(),
            "platform_reason": why,
            "machine": machine.platform(),
            "versions": _versions(),
            **(about or {}),
        }
        folder.write_json(names.RUN, facts)
        return _Run(simulation, options, guard, folder, facts, dof, console).run()


class _Run:
    """The two phases of a run and its bookkeeping."""

    def __init__(
        self,
        simulation: app.Simulation,
        options: RunOptions,
        guard: GuardReporter,
        folder: RunFolder,
        facts: dict[str, Any],
        dof: int,
        console: Console,
    ) -> None:
        self.simulation = simulation
        self.options = options
        self.guard = guard
        self.folder = folder
        self.facts = facts
        self.dof = dof
        self.console = console
        self.phase = "equilibration"
        self.started = time.perf_counter()

    def run(self) -> RunRecord:
        try:
            self._equilibrate()
            self._hand_over()
            self.phase = "production"
            self.started = time.perf_counter()
            self._produce()
        except SimulationStopped as stop:
            return self._end("stopped", stop.reason)
        except openmm.OpenMMException as error:
            # Some platforms find a NaN themselves before the guard sees the frame.
            if "nan" not in str(error).lower():
                self._end("failed", str(error))
                raise
            return self._end("stopped", str(error))
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # On a full disk this may fail too; the first error is the one to show.
            with contextlib.suppress(OSError):
                self._end("interrupted" if interrupted else "failed", _cause(error))
            raise
        return self._end("completed", "")

    def _equilibrate(self) -> None:
        options, steps = self.options, self.options.equilibration_steps
        context = self.simulation.context
        context.setVelocitiesToTemperature(
            options.temperature * unit.kelvin, self.facts["options"]["seed"]
        )
        if steps == 0:
            return
        progress = ProgressReporter(
            self.console,
            "Equilibration",
            steps,
            options.dt_fs,
            options.frame_interval,
        )
        self.simulation.reporters = [self.guard, progress]
        with progress.running():
            self.simulation.step(steps)

    def _hand_over(self) -> None:
        context = self.simulation.context
        state = context.getState(positions=True, velocities=True)
        x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        v = state.getVelocities(asNumpy=True)._value
        mass = np.array(self.facts["masses"])[:, None]
        context.setPositions(x - (mass * x).sum(axis=0) / mass.sum())
        context.setVelocities(v - (mass * v).sum(axis=0) / mass.sum())
        self.simulation.integrator.setCurrentIntegrator(PRODUCTION)
        self.simulation.currentStep = 0
        context.setTime(0.0)

    def _produce(self) -> None:
        options, interval = self.options, self.options.frame_interval
        topology = self.simulation.topology
        with contextlib.ExitStack() as stack:
            trajectory = TrajectoryReporter(
                self.folder / names.TRAJECTORY, interval, topology, options.dt_fs
            )
            stack.callback(trajectory.close)
            velocities = VelocityReporter(
                self.folder / names.VELOCITIES, interval, topology.getNumAtoms()
            )
            stack.callback(velocities.close)
            log = LogReporter(
                self.folder / names.LOG,
                options.log_interval,
                self.dof,
                np.array(self.facts["masses"]),
                options.dt_fs,
                shadow=options.ensemble == "nve",
            )
            stack.callback(log.close)
            progress = ProgressReporter(
                self.console,
                "Production",
                options.steps,
                options.dt_fs,
                options.log_interval,
                log if options.ensemble == "nve" else None,
                (options.temperature, self.dof),
            )
            self.simulation.reporters = [
                self.guard,
                trajectory,
                velocities,
                log,
                progress,
            ]
            with progress.running():
                self.simulation.step(options.steps)

    def _end(self, status: str, reason: str) -> RunRecord:
        seconds = time.perf_counter() - self.started
        steps = 0
        if self.phase == "production":
            steps = self.simulation.currentStep
            if status == "stopped":
                steps = self._last_good_step()
        speed = ns_per_day(steps, self.options.dt_fs, seconds)
        if status == "completed":
            self.simulation.saveState(str(self.folder / names.FINAL_STATE))
        else:
            self.guard.save_last_good(
                self.folder / names.LAST_GOOD_FRAME,
                self.folder / names.LAST_GOOD_STATE,
            )
        record = RunRecord(
            folder=self.folder.path,
            status=status,
            reason=reason,
            steps=steps,
            time_ps=steps * self.options.dt_fs * FS_TO_PS,
            seconds=seconds,
            ns_per_day=speed,
            platform=self.facts["platform"],
        )
        ended = dataclasses.asdict(record)
        del ended["folder"]
        self.folder.write_json(names.RUN, {**self.facts, **ended, "phase": self.phase})
        return record

    def _last_good_step(self) -> int:
        if self.guard.last_good is None:
            return 0
        return self.guard.last_good.getStepCount()


def _checked_positions(
    system: openmm.System, topology: app.Topology, positions: np.ndarray
) -> np.ndarray:
    positions = np.asarray(positions, float)
    atoms, particles = topology.getNumAtoms(), system.getNumParticles()
    if not (atoms == particles and positions.shape == (atoms, 3)):
        raise ValueError(
            f"the topology has {atoms} atoms, the System {particles} particles and the "
            f"positions have the shape {positions.shape}; they must agree"
        )
    if not np.isfinite(positions).all():
        bad = int(np.argmax(~np.isfinite(positions).all(axis=1)))
        raise ValueError(f"the start position of atom {bad} is not a finite number")
    return positions


def _simulation(
    system: openmm.System,
    topology: app.Topology,
    options: RunOptions,
    platform: openmm.Platform,
    seed: int,
) -> app.Simulation:
    step = options.dt_fs * FS_TO_PS * unit.picosecond
    temperature = options.temperature * unit.kelvin

    def langevin(friction: float) -> openmm.LangevinMiddleIntegrator:
        integrator = openmm.LangevinMiddleIntegrator(
            temperature, friction / unit.picosecond, step
        )
        integrator.setRandomNumberSeed(seed)
        return integrator

    # One Context for both phases: making a second one would load the model again.
    integrator = openmm.CompoundIntegrator()
    integrator.addIntegrator(langevin(FRICTION_EQUILIBRATION))
    if options.ensemble == "nve":
        integrator.addIntegrator(openmm.VerletIntegrator(step))
    else:
        integrator.addIntegrator(langevin(FRICTION_NVT))
    properties = platform_properties(platform.getName(), options.precision)
    return app.Simulation(topology, system, integrator, platform, properties)


def _minimise(simulation: app.Simulation, positions: np.ndarray) -> np.ndarray:
    simulation.context.setPositions(positions * ANGSTROM_TO_NM)
    # An OpenMMException here means a start that is not finite; the check below says so.
    with contextlib.suppress(openmm.OpenMMException):
        simulation.minimizeEnergy(
            tolerance=MINIMISER_TOLERANCE * unit.kilojoule_per_mole / unit.nanometer,
            maxIterations=MINIMISER_ITERATIONS,
        )
    state = simulation.context.getState(positions=True, energy=True)
    energy = state.getPotentialEnergy()._value
    minimum = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    if not (np.isfinite(energy) and np.isfinite(minimum).all()):
        raise ValueError(
            "the start cannot be minimised: its energy is not a finite number; check "
            "that the positions are in Angstrom and that no two atoms overlap"
        )
    return minimum * NM_TO_ANGSTROM


def _cause(error: BaseException) -> str:
    """Return in words why a run ended."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Ctrl-C"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _versions() -> dict[str, str]:
    found = {"python": machine.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found

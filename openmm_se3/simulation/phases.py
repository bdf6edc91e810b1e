"""The two phases of a run, equilibration and production, and their bookkeeping."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rich.console import Console

from openmm_se3.signals import Signals
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.checkpoint import Checkpoint, Checkpoints
from openmm_se3.simulation.ensemble import PRODUCTION, is_anchored
from openmm_se3.simulation.folder import RunFolder
from openmm_se3.simulation.guard import GuardReporter, SimulationStopped
from openmm_se3.simulation.log import LogReporter
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.progress import ProgressReporter, ns_per_day
from openmm_se3.simulation.reporters import TrajectoryReporter, VelocityReporter
from openmm_se3.simulation.uncertainty import UncertaintyReporter
from openmm_se3.units import FS_TO_PS

# Steps between the guard's looks at the forces where no log asks for them anyway.
FORCE_CHECK_STEPS = 100
SIGNAL_STEPS = 20  # steps between looks for a signal


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

    @classmethod
    def of(cls, folder: Path, facts: dict[str, Any]) -> RunRecord:
        """Return how a run ended from what ``run.json`` says of it."""
        fields = [field.name for field in dataclasses.fields(cls)]
        return cls(folder, **{name: facts[name] for name in fields[1:]})


class Phases:
    """The two phases of a run and its bookkeeping.

    Args:
        simulation: At the start of a phase, or in the state of a checkpoint.
        options: What to run.
        guard: Looks at the frames.
        folder: Where the files go.
        facts: What ``run.json`` says of the run.
        fit: What a checkpoint says of when it fits: identity and environment.
        console: Shows progress.
        checkpoint: The checkpoint that the simulation goes on from, if any.
        uncertainty: Evaluates the deviation of a committee's members, if any.
    """

    def __init__(
        self,
        simulation: app.Simulation,
        options: RunOptions,
        guard: GuardReporter,
        folder: RunFolder,
        facts: dict[str, Any],
        fit: dict[str, Any],
        console: Console,
        checkpoint: Checkpoint | None,
        uncertainty: UncertaintyReporter | None = None,
    ) -> None:
        self.simulation = simulation
        self.options = options
        self.guard = guard
        self.folder = folder
        self.facts = facts
        self.fit = fit
        self.console = console
        self.uncertainty = uncertainty
        if uncertainty is not None:
            uncertainty.trusted = folder / names.LAST_GOOD_FRAME
            uncertainty.uncertain = folder / names.UNCERTAIN_FRAME
            if checkpoint is not None and checkpoint.uncertainty is not None:
                uncertainty.go_on(checkpoint.uncertainty)
        self.watchers = [guard] if uncertainty is None else [guard, uncertainty]
        self.checkpoints = Checkpoints(folder / names.CHECKPOINTS)
        self.signals = Signals()
        self.phase = checkpoint.phase if checkpoint else "equilibration"
        self.sizes = checkpoint.sizes if checkpoint else {}
        self.seconds_before = checkpoint.seconds if checkpoint else 0.0
        self.started = time.perf_counter()
        self.records: dict[str, Any] = {}  # reporters of files that grow, by name
        # Of the production here: its first step, and what the guard had seen before.
        self.first_step, self.seen_before = 0, guard.last_good

    def run(self) -> RunRecord:
        """Run what is left of the phases and record how that ended.

        Raises:
            openmm.OpenMMException: OpenMM failed for another reason than the motion.
            KeyboardInterrupt: A signal such as Ctrl-C or SIGTERM, after a checkpoint.
            OSError: A file could not be written.
        """
        try:
            with self.signals:
                if self.phase == "equilibration":
                    self._equilibrate()
                    self._hand_over()
                self._produce()
        except SimulationStopped as stop:
            return self._end("stopped", stop.reason)
        except openmm.OpenMMException as error:
            # Some platforms find a NaN themselves before the guard sees the frame.
            if re.search(r"\bnan\b", str(error), re.IGNORECASE) is None:
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
        options = self.options
        steps, interval = options.equilibration_steps, options.frame_interval
        if steps == 0:
            return
        progress = ProgressReporter(
            self.console,
            "Equilibration",
            steps,
            options.dt_fs,
            interval,
            first=self.simulation.currentStep,
        )
        self.guard.force_interval = interval * -(-FORCE_CHECK_STEPS // interval)
        self.simulation.reporters = [*self.watchers, progress]
        with progress.running():
            self._advance(steps)

    def _hand_over(self) -> None:
        context, system = self.simulation.context, self.simulation.system
        if not is_anchored(system):
            state = context.getState(positions=True, velocities=True)
            x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            v = state.getVelocities(asNumpy=True)._value
            mass = np.array(self.facts["masses"])[:, None]
            if not system.usesPeriodicBoundaryConditions():
                context.setPositions(x - (mass * x).sum(axis=0) / mass.sum())
            context.setVelocities(v - (mass * v).sum(axis=0) / mass.sum())
        self.simulation.integrator.setCurrentIntegrator(PRODUCTION)
        self.simulation.currentStep = 0
        context.setTime(0.0)
        self.phase = "production"
        self.seconds_before, self.started = 0.0, time.perf_counter()
        self._save()

    def _produce(self) -> None:
        options, interval = self.options, self.options.frame_interval
        topology, nve = self.simulation.topology, self.options.ensemble == "nve"
        self.first_step = self.simulation.currentStep
        self.seen_before = self.guard.last_good
        self.guard.force_interval = options.log_interval
        dof = self.facts["degrees_of_freedom"]

        name = names.trajectory_name(self.facts)
        keep = {n: self.sizes.get(n, 0) for n in (name, names.VELOCITIES, names.LOG)}
        with contextlib.ExitStack() as stack:
            trajectory = TrajectoryReporter(
                self.folder / name, interval, topology, options.dt_fs, keep[name]
            )
            stack.callback(trajectory.close)
            velocities = VelocityReporter(
                self.folder / names.VELOCITIES,
                interval,
                topology.getNumAtoms(),
                keep[names.VELOCITIES],
            )
            stack.callback(velocities.close)
            log = LogReporter(
                self.folder / names.LOG,
                options.log_interval,
                dof,
                np.array(self.facts["masses"]),
                options.dt_fs,
                shadow=nve,
                keep=keep[names.LOG],
                uncertainty=self.uncertainty,
            )
            stack.callback(log.close)
            self.records = {
                name: trajectory,
                names.VELOCITIES: velocities,
                names.LOG: log,
            }
            progress = ProgressReporter(
                self.console,
                "Production",
                options.steps,
                options.dt_fs,
                options.log_interval,
                log if nve else None,
                (options.temperature, dof),
                first=self.simulation.currentStep,
            )
            self.simulation.reporters = [
                *self.watchers,
                *self.records.values(),
                progress,
            ]
            with progress.running():
                self._advance(options.steps, log)

    def _advance(self, end: int, log: LogReporter | None = None) -> None:
        """Step to the end of a phase, with checkpoints; stop soon after a signal.

        Args:
            end: Last step of the phase.
            log: Its log; there is no checkpoint while a row is under way.
        """
        options, lag = self.options, log.lag if log else 0
        while (step := self.simulation.currentStep) < end:
            to_row = options.log_interval - (step - lag) % options.log_interval
            self.simulation.step(min(to_row, SIGNAL_STEPS, end - step))
            step = self.simulation.currentStep
            if step == end or (log and log.under_way):
                continue
            stop = self.signals.received is not None
            regular = step > lag and (step - lag) % options.checkpoint_interval == 0
            # A checkpoint changes the trajectory in NPT, where it must be regular.
            if regular or (stop and options.ensemble != "npt"):
                self._save()
            if stop:
                raise self.signals.interrupt()

    def _save(self) -> None:
        context = self.simulation.context
        facts = {
            "phase": self.phase,
            "step": self.simulation.currentStep,
            "seconds": self._seconds(),
            "sizes": {name: file.sync() for name, file in self.records.items()},
            **self.fit,
        }
        if self.uncertainty is not None:
            facts["uncertainty"] = self.uncertainty.counts()
        self.checkpoints.write(context, facts)
        if self.options.ensemble == "npt":
            # OpenMM's checkpoint lacks the barostat's count of steps and the size of
            # its moves, which start anew in a resumed run; so let them do so here too.
            context.reinitialize(preserveState=True)

    def _end(self, status: str, reason: str) -> RunRecord:
        steps, found = 0, self.uncertainty
        if found is not None:
            if found.stopped:  # the guard has looked at frames since then
                self.guard.last_good = found.last_trusted
            self.facts["uncertainty"] = found.summary()
            self.console.print(found.text(), highlight=False, soft_wrap=True)
        if self.phase == "production":
            steps = self.simulation.currentStep
            if status == "stopped":
                steps = self._last_good_step()
        if status == "completed":
            self.simulation.saveState(str(self.folder / names.FINAL_STATE))
        else:
            self.guard.save_last_good(
                self.folder / names.LAST_GOOD_FRAME,
                self.folder / names.LAST_GOOD_STATE,
            )
        facts = {
            **self.facts,
            "status": status,
            "reason": reason,
            "phase": self.phase,
            "steps": steps,
            "time_ps": steps * self.options.dt_fs * FS_TO_PS,
            "seconds": self._seconds(),
            "ns_per_day": ns_per_day(steps, self.options.dt_fs, self._seconds()),
        }
        self.folder.write_json(names.RUN, facts)
        return RunRecord.of(self.folder.path, facts)

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _last_good_step(self) -> int:
        good = self.guard.last_good
        if good is None or good is self.seen_before:
            return self.first_step
        return good.getStepCount()


def _cause(error: BaseException) -> str:
    """Return in words why a run ended."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Ctrl-C"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

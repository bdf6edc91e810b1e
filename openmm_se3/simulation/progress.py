"""Progress of a run: steps, ps, ns/day, time left and the energy drift so far."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Any

import openmm
from openmm import app
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from openmm_se3.simulation.drift import energy_drift
from openmm_se3.simulation.log import LogReporter
from openmm_se3.simulation.reporters import every

SECONDS_PER_DAY = 86400.0
UPDATE_SECONDS = 1.0
LINES = 10  # lines printed where there is no terminal
WIDTH_WITH_DRIFT = 116  # columns of the terminal


def ns_per_day(steps: int, dt_fs: float, seconds: float) -> float:
    """Return the speed of a run, ns/day, from its steps and their wall time, s."""
    return steps * dt_fs * 1e-6 * SECONDS_PER_DAY / max(seconds, 1e-9)


class ProgressReporter:
    """Shows how far one phase of a run is.

    On a terminal it draws a bar; elsewhere it prints ten lines.

    Args:
        console: Where to show it.
        name: Name of the phase.
        steps: Steps of the phase.
        dt_fs: Time step, fs.
        interval: Steps between updates.
        log: Log of the phase, for the drift; None shows none.
        kt_dof: Temperature (K) and degrees of freedom, to express the drift in.
        first: Step at which this sitting starts.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        steps: int,
        dt_fs: float,
        interval: int,
        log: LogReporter | None = None,
        kt_dof: tuple[float, int] | None = None,
        first: int = 0,
    ) -> None:
        self.interval = interval
        self._console = console
        self._name = name
        self._steps = steps
        self._dt_fs = dt_fs
        self._log = log
        self._kt_dof = kt_dof
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),  # what the others leave
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        ]
        if console.width >= WIDTH_WITH_DRIFT:
            columns.insert(-1, TextColumn("{task.fields[drift]}"))
        self._bar = Progress(
            *columns, console=console, refresh_per_second=2, expand=True
        )
        self._task: TaskID | None = None
        self._start = self._updated = 0.0
        self._first = first
        self._lines = first * LINES // steps

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the progress for the length of a block."""
        self._start = self._updated = time.perf_counter()
        if not self._console.is_terminal:
            yield
            return
        with self._bar:
            self._task = self._bar.add_task(
                self._name,
                total=self._steps,
                completed=self._first,
                speed="",
                drift="",
            )
            yield

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next; nothing of the state is needed."""
        report = every(simulation, self.interval, ())
        left = self._steps - simulation.currentStep
        if 0 < left < report["steps"]:
            report["steps"] = left
        return report

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Update what is shown, at most once a second."""
        step, now = simulation.currentStep, time.perf_counter()
        last = step == self._steps
        if self._task is not None:
            if last or now - self._updated > UPDATE_SECONDS:
                self._updated = now
                self._bar.update(
                    self._task,
                    completed=step,
                    speed=self._speed(step, now),
                    drift=self._drift(),
                )
        elif step * LINES >= (self._lines + 1) * self._steps:
            self._lines = step * LINES // self._steps
            done = f"{self._name}: {step}/{self._steps} steps"
            left = self._left(step, now)
            parts = [done, self._speed(step, now), self._drift(), left]
            text = ", ".join(part for part in parts if part)
            self._console.print(text, highlight=False, soft_wrap=True)

    def _speed(self, step: int, now: float) -> str:
        speed = ns_per_day(step - self._first, self._dt_fs, now - self._start)
        return f"{step * self._dt_fs / 1000.0:.1f} ps, {speed:.2f} ns/day"

    def _left(self, step: int, now: float) -> str:
        made = step - self._first
        if step == self._steps or made == 0:
            return ""
        seconds = round((now - self._start) * (self._steps - step) / made)
        return f"{datetime.timedelta(seconds=seconds)} left"

    def _drift(self) -> str:
        if self._log is not None and self._kt_dof is not None:
            # The shadow energy shows a drift sooner; rows too close together have none.
            energies = self._log.shadows or self._log.totals
            drift = energy_drift(self._log.times[: len(energies)], energies)
            if drift is not None:
                slope, error = drift.per_kt(*self._kt_dof)
                return f"drift {slope:+.4f} ± {error:.4f} kT/ns/dof"
        return ""

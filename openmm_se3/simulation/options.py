"""The options of a run, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

ENSEMBLES = ("nve", "nvt", "npt")
THERMOSTATS = ("langevin", "nose-hoover")
TRAJECTORIES = ("dcd", "xtc")
PRECISIONS = ("single", "double")
MAX_SEED = 2**31 - 1  # OpenMM's seeds are 32-bit integers, and 0 draws one

# What may change when a run is resumed: where it runs and lies, and how long it is.
CIRCUMSTANCES = (
    "steps",
    "platform",
    "backend",
    "implementation",
    "model",
    "committee",
    "stop_uncertainty",
    "reactive",
    "out",
    "overwrite",
    "resume",
)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What to run and where to put it.

    Attributes:
        steps: Production steps.
        dt_fs: Time step, fs.
        temperature: Temperature of the equilibration and of the thermostat, K.
        ensemble: "nve" (VerletIntegrator), "nvt" (a thermostat), or "npt" (a thermostat
            and MonteCarloBarostat; periodic systems only).
        thermostat: "langevin" (LangevinMiddleIntegrator) or "nose-hoover"
            (NoseHooverIntegrator), of NVT and NPT production.
        pressure_bar: Pressure of NPT, bar.
        equilibration_ps: Length of the Langevin equilibration, ps; 0 leaves it out and
            draws the starting velocities at the temperature.
        precision: "single" or "double".
        platform: Name of an OpenMM platform; None takes the best one present.
        seed: Seed of everything random; None draws one, which is printed and stored
            in ``run.json``.  A resumed run keeps its seed.
        out: Folder of the results.
        overwrite: Whether results of an earlier run there may be replaced.
        resume: Whether to go on with the run in ``out``, from its newest checkpoint; if
            there is none yet, the run starts at the beginning.
        trajectory: Format of the trajectory, "dcd" or "xtc"; XTC rounds to 0.01 A.
        frame_fs: Time between saved frames and velocities, fs.  2.5 fs resolves
            vibrations up to 6600 cm^-1.
        log_fs: Time between rows of the log, fs; each costs one more force evaluation.
            At 12 fs no vibration of water falls into step with the rows, as the bend
            does at 10 fs.
        checkpoint_ps: Time between checkpoints, ps.
        reactive: Bonds may break; they do not stop the run.
    """

    steps: int = 40_000
    dt_fs: float = 0.5
    temperature: float = 300.0
    ensemble: str = "nve"
    thermostat: str = "langevin"
    pressure_bar: float = 1.0
    equilibration_ps: float = 2.0
    precision: str = "single"
    platform: str | None = None
    seed: int | None = None
    out: str | Path = "md-run"
    overwrite: bool = False
    resume: bool = False
    trajectory: str = "dcd"
    frame_fs: float = 2.5
    log_fs: float = 12.0
    checkpoint_ps: float = 5.0
    reactive: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value is out of its range; the message names it.
        """
        for name in ("dt_fs", "temperature", "frame_fs", "log_fs", "checkpoint_ps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} is {value}; it must be a positive number")
        if not (math.isfinite(self.equilibration_ps) and self.equilibration_ps >= 0.0):
            raise ValueError(
                f"equilibration_ps is {self.equilibration_ps}; it must not be negative"
            )
        if not math.isfinite(self.pressure_bar):
            raise ValueError(
                f"pressure_bar is {self.pressure_bar}; it must be a number"
            )
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        for name, choices in (
            ("ensemble", ENSEMBLES),
            ("thermostat", THERMOSTATS),
            ("trajectory", TRAJECTORIES),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; choose from {choices}")
        if self.seed is not None and not 0 < self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}; it must be from 1 to {MAX_SEED}")
        if self.overwrite and self.resume:
            raise ValueError("overwrite and resume exclude each other")

    @property
    def equilibration_steps(self) -> int:
        """Steps of the equilibration."""
        return round(self.equilibration_ps * 1000.0 / self.dt_fs)

    @property
    def frame_interval(self) -> int:
        """Steps between saved frames; never more than frame_fs apart."""
        return min(self.steps, self._full_frame_interval)

    @property
    def log_interval(self) -> int:
        """Steps between rows of the log, a multiple of the frame interval."""
        frames = self._full_log_interval // self._full_frame_interval
        return self.frame_interval * min(frames, self.steps // self.frame_interval)

    @property
    def _full_frame_interval(self) -> int:
        """Steps between saved frames of a run that is longer than that."""
        return max(1, math.floor(self.frame_fs / self.dt_fs + 1e-9))

    @property
    def _full_log_interval(self) -> int:
        """Steps between rows of the log of a run that is longer than that."""
        frame = self._full_frame_interval
        return frame * max(1, round(self.log_fs / (self.dt_fs * frame)))

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints, a multiple of the log interval."""
        log_ps = self.log_interval * self.dt_fs / 1000.0
        return self.log_interval * max(1, round(self.checkpoint_ps / log_ps))

    def settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with its checkpoint."""
        values = self.to_dict()
        for name in CIRCUMSTANCES:
            values.pop(name, None)
        return {
            **values,
            # Not those of a very short run, which may be extended.
            "frame_interval": self._full_frame_interval,
            "log_interval": self._full_log_interval,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values for a JSON file."""
        values = dataclasses.asdict(self)
        values["out"] = str(self.out)
        return values

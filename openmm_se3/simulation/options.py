"""The options of a run, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

ENSEMBLES = ("nve", "nvt")
PRECISIONS = ("single", "double")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What to run and where to put it.

    Attributes:
        steps: Production steps.
        dt_fs: Time step, fs.
        temperature: Temperature of the equilibration and of NVT production, K.
        ensemble: "nve" (VerletIntegrator) or "nvt" (LangevinMiddleIntegrator).
        equilibration_ps: Length of the Langevin equilibration, ps; 0 leaves it out and
            draws the starting velocities at the temperature.
        precision: "single" or "double".
        platform: Name of an OpenMM platform; None takes the best one present.
        seed: Seed of everything random; None draws one and records it.
        out: Folder of the results.
        overwrite: Whether results of an earlier run there may be replaced.
        frame_fs: Time between saved frames and velocities, fs.  2.5 fs resolves
            vibrations up to 6600 cm^-1.
        log_fs: Time between rows of the log, fs; each costs one more force evaluation.
            At 12 fs no vibration of water falls into step with the rows, as the bend
            does at 10 fs.
    """

    steps: int = 40_000
    dt_fs: float = 0.5
    temperature: float = 300.0
    ensemble: str = "nve"
    equilibration_ps: float = 2.0
    precision: str = "single"
    platform: str | None = None
    seed: int | None = 1
    out: str | Path = "water-run"
    overwrite: bool = False
    frame_fs: float = 2.5
    log_fs: float = 12.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value is out of its range; the message names it.
        """
        for name in ("dt_fs", "temperature", "frame_fs", "log_fs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} is {value}; it must be a positive number")
        if not (math.isfinite(self.equilibration_ps) and self.equilibration_ps >= 0.0):
            raise ValueError(
                f"equilibration_ps is {self.equilibration_ps}; it must not be negative"
            )
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"ensemble is {self.ensemble!r}; choose from {ENSEMBLES}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}; choose from {PRECISIONS}"
            )
        if self.seed is not None and not 0 < self.seed < 2**31:
            raise ValueError(f"seed is {self.seed}; it must be from 1 to 2147483647")

    @property
    def equilibration_steps(self) -> int:
        """Steps of the equilibration."""
        return round(self.equilibration_ps * 1000.0 / self.dt_fs)

    @property
    def frame_interval(self) -> int:
        """Steps between saved frames; never more than frame_fs apart."""
        return min(self.steps, max(1, math.floor(self.frame_fs / self.dt_fs + 1e-9)))

    @property
    def log_interval(self) -> int:
        """Steps between rows of the log, a multiple of the frame interval."""
        every = max(1, round(self.log_fs / (self.dt_fs * self.frame_interval)))
        return self.frame_interval * min(every, self.steps // self.frame_interval)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values for a JSON file."""
        values = dataclasses.asdict(self)
        values["out"] = str(self.out)
        return values

"""The log of a run: energies, temperature, and the shadow energy that shows a drift.

The total energy of Verlet dynamics swings by a part of order dt^2 within each vibration
and as energy wanders between the modes; a drift hides below.  What Verlet conserves
much better is the energy of a nearby system, its shadow (R. D. Engle, R. D. Skeel and
M. Drees, J. Comput. Phys. 206, 432 (2005), https://doi.org/10.1016/j.jcp.2004.12.009).
To second order in dt:

    E_shadow = U + K + dt^2 (v . U'' v / 12 - f . a / 24)

| symbol | meaning                   | from                                      |
|--------|---------------------------|-------------------------------------------|
| U      | potential energy at n     | OpenMM                                    |
| v      | velocity at n             | (v_{n+1/2} + v_{n-1/2}) / 2               |
| K      | kinetic energy at n       | OpenMM, which has moved it to a full step |
| a      | acceleration at n         | (v_{n+1/2} - v_{n-1/2}) / dt              |
| f      | force at n                | m a                                       |
| U'' v  | minus the change of force | -m (a_{n+1} - a_{n-1}) / (2 dt)           |

The velocities half a step around n - 1 to n + 1 give all of it, without one more force
evaluation.  Both energies drift alike, as their difference is bounded.
"""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.simulation.reporters import open_at, synced_size
from openmm_se3.simulation.uncertainty import UncertaintyReporter
from openmm_se3.units import BOLTZMANN_KJ_PER_MOL, FS_TO_PS

COLUMNS = (
    "step",
    "time_ps",
    "potential_kj_per_mol",
    "kinetic_kj_per_mol",
    "total_kj_per_mol",
    "temperature_k",
    "shadow_kj_per_mol",
)
UNCERTAINTY = "force_uncertainty_ev_per_angstrom"  # last, of committees only
VELOCITIES_NEEDED = 4  # v_{n-3/2} to v_{n+3/2}
SHADOW_LAG = 2  # steps after n at which v_{n+3/2} is there


class LogReporter:
    """Writes energies and temperature as CSV, and keeps times and energies for a drift.

    The shadow energy is left empty where it has no meaning (dynamics with friction), in
    a last row whose following steps were not run, and where rows are closer than four
    steps.

    Args:
        path: File to write.
        interval: Steps between rows.
        degrees_of_freedom: Of the kinetic energy, for the temperature.
        masses: Masses [n_atoms], dalton.
        dt_fs: Time step, fs.
        shadow: Whether the dynamics are Verlet's, so that a shadow energy exists.
        keep: Bytes of an earlier sitting that stay; the rest is cut off.
        uncertainty: Has reported on a step before this reporter does; the log then has
            a column for it.

    Attributes:
        lag: Steps from a row to when it is written.
    """

    def __init__(
        self,
        path: str | Path,
        interval: int,
        degrees_of_freedom: int,
        masses: np.ndarray,
        dt_fs: float,
        shadow: bool = True,
        keep: int = 0,
        uncertainty: UncertaintyReporter | None = None,
    ) -> None:
        self.interval = interval
        self._uncertainty = uncertainty
        self.times: list[float] = []  # ps
        self.totals: list[float] = []  # kJ/mol
        self.shadows: list[float] = []  # kJ/mol, of the rows that have one
        self._half_kt = 0.5 * BOLTZMANN_KJ_PER_MOL * degrees_of_freedom
        self._mass = np.asarray(masses, float)[:, None]
        self._dt = dt_fs * FS_TO_PS
        self._shadow = shadow and interval >= VELOCITIES_NEEDED
        self.lag = SHADOW_LAG if self._shadow else 0
        self._velocities: deque[tuple[int, np.ndarray]] = deque(
            maxlen=VELOCITIES_NEEDED
        )
        self._row: tuple[int, float, float, float] | None = None
        self._file = open_at(path, keep)
        if not keep:
            more = () if uncertainty is None else (UNCERTAINTY,)
            self._write_line(",".join((*COLUMNS, *more)))

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        phase = simulation.currentStep % self.interval
        steps = self.interval - phase
        if self._shadow:
            # The rows are at phase 0; velocities are also taken at -1, 1 and 2.
            steps = 1 if phase < 2 or steps == 1 else steps - 1
        if (phase + steps) % self.interval:
            return {"steps": steps, "include": ["velocities"]}
        return {"steps": steps, "include": ["energy", "velocities"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Take up one step; write a row when all that belongs to it is there."""
        step = simulation.currentStep
        velocities = state.getVelocities(asNumpy=True).value_in_unit(
            unit.nanometer / unit.picosecond
        )
        self._velocities.append((step, velocities))
        if step % self.interval == 0:
            kj = unit.kilojoule_per_mole
            self._row = (
                step,
                state.getTime().value_in_unit(unit.picosecond),
                state.getPotentialEnergy().value_in_unit(kj),
                state.getKineticEnergy().value_in_unit(kj),
            )
        if self._row is not None:
            if not self._shadow:
                self._write(None)
            elif step == self._row[0] + SHADOW_LAG:
                self._write(self._shadow_energy())

    @property
    def under_way(self) -> bool:
        """Whether a row has begun that a stop would lose."""
        last = self._velocities[-1][0] if self._velocities else 0
        return self._row is not None or (
            self._shadow and (last + 1) % self.interval == 0
        )

    def sync(self) -> int:
        """Bring all rows to the disk and return their bytes; none may be under way."""
        assert not self.under_way
        return synced_size(self._file)

    def close(self) -> None:
        """Write a row that still waits, and close the file."""
        if self._row is not None:
            self._write(None)
        self._file.close()

    def _write(self, shadow: float | None) -> None:
        assert self._row is not None
        step, time, potential, kinetic = self._row
        self._row = None
        total = potential + kinetic
        last = ""
        if shadow is not None and math.isfinite(shadow):
            last = f"{shadow:.9f}"
            self.shadows.append(shadow)
        self._write_line(
            f"{step},{time:.6f},{potential:.9f},{kinetic:.9f},{total:.9f},"
            f"{kinetic / self._half_kt:.4f},{last}{self._deviation(step)}"
        )
        self.times.append(time)
        self.totals.append(total)

    def _deviation(self, step: int) -> str:
        """Return the last field: empty where the row's step was not evaluated."""
        if self._uncertainty is None:
            return ""
        found = self._uncertainty.at(step)
        return "," if found is None else f",{found:.6f}"

    def _write_line(self, text: str) -> None:
        self._file.write(f"{text}\n".encode())
        self._file.flush()

    def _shadow_energy(self) -> float | None:
        assert self._row is not None
        step = self._row[0]
        expected = [step - 1, step, step + 1, step + 2]
        if [taken for taken, _ in self._velocities] != expected:
            return None
        # OpenMM's velocities at step n stand half a step before its positions.
        before, minus, plus, after = (velocities for _, velocities in self._velocities)
        acceleration = (plus - minus) / self._dt
        jerk = ((after - plus) - (minus - before)) / (2.0 * self._dt**2)
        bend = float((self._mass * (plus + minus) / 2.0 * -jerk).sum())
        square = float((self._mass * acceleration**2).sum())
        _, _, potential, kinetic = self._row
        return potential + kinetic + self._dt**2 * (bend / 12.0 - square / 24.0)

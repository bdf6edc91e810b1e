"""Energy drift and temperature, from the log of a run."""

from __future__ import annotations

import dataclasses

import numpy as np

from openmm_se3.simulation.drift import Drift, block_error, energy_drift


@dataclasses.dataclass(frozen=True)
class Energies:
    """Energies of a run.

    Attributes:
        temperature: Mean temperature, K.
        temperature_error: Its standard error from block means, K; None if too short.
        fluctuation: Standard deviation of the total energy, kJ/mol.
        drift: Line through the total energy; None in NVT or if the log is too short.
        shadow_drift: Line through the shadow energy, which shows smaller drifts.
        temperature_asked: Temperature that was asked for, K; kT in the drift is of it.
        degrees_of_freedom: Degrees of freedom of the kinetic energy.
    """

    temperature: float
    temperature_error: float | None
    fluctuation: float
    drift: Drift | None
    shadow_drift: Drift | None
    temperature_asked: float
    degrees_of_freedom: int


def energies(
    log: dict[str, np.ndarray],
    temperature_asked: float,
    degrees_of_freedom: int,
    conserved: bool,
) -> Energies | None:
    """Return drift and temperature, or None if the log has no rows.

    Args:
        log: Columns of the log.
        temperature_asked: Temperature that was asked for, K.
        degrees_of_freedom: Degrees of freedom of the kinetic energy.
        conserved: Whether the energy should be conserved (NVE).
    """
    if not log or len(log["time_ps"]) == 0:
        return None
    temperature, total = log["temperature_k"], log["total_kj_per_mol"]
    time, shadow = log["time_ps"], log["shadow_kj_per_mol"]
    drift = shadow_drift = None
    if conserved:
        drift = energy_drift(time, total)
        there = np.isfinite(shadow)
        shadow_drift = energy_drift(time[there], shadow[there])
    return Energies(
        temperature=float(temperature.mean()),
        temperature_error=block_error(temperature),
        fluctuation=float(total.std()),
        drift=drift,
        shadow_drift=shadow_drift,
        temperature_asked=temperature_asked,
        degrees_of_freedom=degrees_of_freedom,
    )

"""Stoermer-Verlet written out in NumPy float64: the reference for OpenMM's integrator.

Equations of the thesis, chapter 1, with the acceleration a(x) = f(x) / m:

    (1.3)  x(t + dt) = x(t) + v dt + a dt^2 / 2 + O(dt^3)
    (1.4)  v_n = (x_{n+1} - x_{n-1}) / (2 dt)
    (1.5)  x_{n+1} = 2 x_n - x_{n-1} + a_n dt^2

| symbol  | variable        | unit   | shape        |
|---------|-----------------|--------|--------------|
| x_n     | ``current``     | A      | [n_atoms, 3] |
| x_{n-1} | ``previous``    | A      | [n_atoms, 3] |
| x_{n+1} | ``following``   | A      | [n_atoms, 3] |
| v_n     | ``velocities``  | A/fs   | [n_atoms, 3] |
| a_n     | ``acceleration``| A/fs^2 | [n_atoms, 3] |
| m       | ``masses``      | dalton | [n_atoms]    |
| dt      | ``dt``          | fs     |              |

Where this differs from the printed equations, and why:

- (1.5) is printed with f_n dt^2 / (2 m).  Adding (1.3) for +dt and -dt gives twice
  that: the stray 1/2 would halve every force.  Reference: E. Hairer, C. Lubich and
  G. Wanner, Acta Numerica 12, 399 (2003), https://doi.org/10.1017/S0962492902000144,
  equation (1.3).
- (1.4) is printed as v_{n+1} = (x_n - x_{n-1}) / dt, which is the velocity half a step
  after x_{n-1} and only first order as one at a full step.  The central difference
  above is second order, like the positions; kinetic energies come from it.

Started with velocities half a step before the positions, this is the leapfrog of
OpenMM's ``VerletIntegrator`` in exact arithmetic: x_{-1} = x_0 - v_{-1/2} dt turns
(1.5) into x_1 = x_0 + dt (v_{-1/2} + a_0 dt).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from openmm_se3.units import EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2

# positions [n_atoms, 3] (A) -> potential energy (eV), forces [n_atoms, 3] (eV/A)
EnergyAndForces = Callable[[np.ndarray], tuple[float, np.ndarray]]

# Where the starting velocities stand in time, relative to the starting positions.
VelocityTime = Literal["half step before", "same time"]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """What a run of n steps leaves, at times 0, dt, ..., n dt.

    Attributes:
        dt: Time step, fs.
        positions: Positions [n + 1, n_atoms, 3], A.
        velocities: Velocities by central difference [n + 1, n_atoms, 3], A/fs.
        potential_energy: Potential energy [n + 1], eV.
        kinetic_energy: Kinetic energy [n + 1], eV.
        following: Positions one step after the last [n_atoms, 3], A.
    """

    dt: float
    positions: np.ndarray
    velocities: np.ndarray
    potential_energy: np.ndarray
    kinetic_energy: np.ndarray
    following: np.ndarray

    @property
    def total_energy(self) -> np.ndarray:
        """Potential and kinetic energy [n + 1], eV."""
        return self.potential_energy + self.kinetic_energy


def accelerations(forces: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return f / m [n_atoms, 3] in A/fs^2 from eV/A and dalton."""
    return forces / masses[:, None] * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2


def previous_positions(
    current: np.ndarray,
    velocities: np.ndarray,
    acceleration: np.ndarray,
    dt: float,
    velocities_at: VelocityTime,
) -> np.ndarray:
    """Return x_{-1} [n_atoms, 3] (A), which starts (1.5), from x_0 and a velocity.

    Args:
        current: Positions x_0 [n_atoms, 3], A.
        velocities: Velocities [n_atoms, 3], A/fs.
        acceleration: Accelerations at x_0 [n_atoms, 3], A/fs^2.
        dt: Time step, fs.
        velocities_at: "half step before" if the velocities are those at t - dt/2 (what
            OpenMM's VerletIntegrator holds), "same time" if they are those at t.

    Raises:
        ValueError: ``velocities_at`` is neither.
    """
    if velocities_at == "half step before":
        return current - velocities * dt
    if velocities_at == "same time":
        # (1.3) backwards in time.
        return current - velocities * dt + 0.5 * acceleration * dt**2
    raise ValueError(
        "velocities_at must be 'half step before' or 'same time', "
        f"got {velocities_at!r}"
    )


def verlet_step(
    current: np.ndarray, previous: np.ndarray, acceleration: np.ndarray, dt: float
) -> np.ndarray:
    """Return x_{n+1} [n_atoms, 3] (A) by (1.5)."""
    return 2.0 * current - previous + acceleration * dt**2


def central_velocities(
    following: np.ndarray, previous: np.ndarray, dt: float
) -> np.ndarray:
    """Return v_n [n_atoms, 3] (A/fs) from x_{n+1} and x_{n-1} by (1.4)."""
    return (following - previous) / (2.0 * dt)


def kinetic_energy(velocities: np.ndarray, masses: np.ndarray) -> float:
    """Return sum m v^2 / 2 in eV from A/fs [n_atoms, 3] and dalton [n_atoms]."""
    twice = float(np.sum(masses[:, None] * velocities**2))
    return 0.5 * twice / EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2


def run_verlet(
    energy_and_forces: EnergyAndForces,
    masses: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
    *,
    dt: float,
    steps: int,
    velocities_at: VelocityTime,
) -> Trajectory:
    """Integrate Newton's equations with Stoermer-Verlet in float64.

    Args:
        energy_and_forces: Positions [n_atoms, 3] (A) to energy (eV) and forces
            [n_atoms, 3] (eV/A).
        masses: Masses [n_atoms], dalton.
        positions: Starting positions [n_atoms, 3], A.
        velocities: Starting velocities [n_atoms, 3], A/fs.
        dt: Time step, fs.
        steps: Number of steps.
        velocities_at: Time of ``velocities``; see :func:`previous_positions`.

    Raises:
        TypeError: A value has units of OpenMM, or ``steps`` is not an integer.
        ValueError: Shapes disagree, a mass or the step is not positive, or the start is
            not finite.
        FloatingPointError: Energy or force is not finite at some step; says which.
    """
    given = {"masses": masses, "positions": positions, "velocities": velocities}
    masses, current, start_velocities = (
        _plain_numbers(name, values) for name, values in given.items()
    )
    _check_start(masses, current, start_velocities, dt, steps)

    shape = (steps + 1, *current.shape)
    all_positions, all_velocities = np.empty(shape), np.empty(shape)
    potential, kinetic = np.empty(steps + 1), np.empty(steps + 1)
    previous = current  # overwritten at the first step, which needs the force there
    for n in range(steps + 1):
        # A copy, as the function may change its argument.
        potential[n], computed = energy_and_forces(current.copy())
        forces = np.asarray(computed, dtype=np.float64)
        if forces.shape != current.shape:
            raise ValueError(
                f"energy_and_forces returned forces {forces.shape} for positions "
                f"{current.shape}"
            )
        if not (np.isfinite(forces).all() and np.isfinite(potential[n])):
            raise FloatingPointError(f"energy or force at step {n} is not finite")
        acceleration = accelerations(forces, masses)
        if n == 0:
            previous = previous_positions(
                current, start_velocities, acceleration, dt, velocities_at
            )
        following = verlet_step(current, previous, acceleration, dt)
        all_positions[n] = current
        all_velocities[n] = central_velocities(following, previous, dt)
        kinetic[n] = kinetic_energy(all_velocities[n], masses)
        previous, current = current, following
    return Trajectory(dt, all_positions, all_velocities, potential, kinetic, current)


def reversed_start(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and velocities that run a trajectory backwards.

    (1.5) is unchanged when x_{n+1} and x_{n-1} change places, so the way back starts at
    the last positions with -v_{n+1/2}, not with -v_{n-1/2}.

    Returns:
        Positions [n_atoms, 3] (A) and velocities [n_atoms, 3] (A/fs), to be used with
        ``velocities_at="half step before"``.
    """
    last = trajectory.positions[-1]
    return last, (last - trajectory.following) / trajectory.dt


def _plain_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """Return a float64 copy, of what has no units.

    Raises:
        TypeError: The values are an OpenMM Quantity, or hold such.
    """
    first = values[0] if isinstance(values, list | tuple) and values else values
    if hasattr(first, "value_in_unit"):
        raise TypeError(
            f"{name} has units: give plain numbers, in A, A/fs and dalton "
            "(OpenMM's own are nm, nm/ps and dalton)"
        )
    return np.array(values, dtype=np.float64)


def _check_start(
    masses: np.ndarray,
    positions: np.ndarray,
    velocities: np.ndarray,
    dt: float,
    steps: int,
) -> None:
    """Refuse a start that cannot be integrated."""
    if masses.ndim != 1:
        raise ValueError(f"masses {masses.shape} should be a list [n_atoms]")
    shape = (len(masses), 3)
    if positions.shape != shape or velocities.shape != shape:
        raise ValueError(
            f"positions {positions.shape} and velocities {velocities.shape} should "
            f"both be {shape} for {len(masses)} masses"
        )
    if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
        raise ValueError("starting positions or velocities are not finite")
    if not ((masses > 0.0) & np.isfinite(masses)).all():
        raise ValueError(f"masses must be positive numbers, got {masses} dalton")
    if not isinstance(steps, int | np.integer):
        raise TypeError(f"steps must be an integer, got {steps!r}")
    if not 0.0 < dt < np.inf or steps < 0:
        raise ValueError(f"dt must be positive and steps not negative: {dt}, {steps}")

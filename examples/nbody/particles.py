"""Trajectories of charged particles, as in Kipf et al., arXiv:1802.04687.

Five particles of mass 1 and charge +1 or -1 start at positions drawn from N(0, 1) with
velocities of norm 0.5, and repel or attract each other with q_i q_j / r^2.  Components
of the force are capped at 100.  A leapfrog with a step of 0.001 moves them; the walls
of a box of half-width 5 throw them back.

All trajectories are computed at once: every array has them as its first axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

PARTICLES = 5
HALF_WIDTH = 5.0
SPEED = 0.5
TIME_STEP = 0.001
LARGEST_FORCE = 0.1 / TIME_STEP
STEPS, SAVED_EVERY = 5000, 100


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Trajectories of particles, in the units of the simulation.

    Attributes:
        positions: Positions [n_trajectories, n_saved, n_particles, 3].
        velocities: Velocities half a step before [n_trajectories, n_saved, n_particles,
            3].
        charges: Charges [n_trajectories, n_particles], +1 or -1.
    """

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray


def simulate(
    n_trajectories: int,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int], None] = lambda step: None,
) -> Trajectories:
    """Return trajectories, saved every ``SAVED_EVERY`` steps from the start on.

    Args:
        n_trajectories: How many.
        seed: Seed of charges, positions and velocities.
        steps: Time steps; a multiple of ``SAVED_EVERY``.
        progress: Called with the number of steps made.
    """
    rng = np.random.default_rng(seed)
    shape = (n_trajectories, PARTICLES, 3)
    charges = rng.choice([-1.0, 1.0], size=shape[:2])
    x, v = rng.normal(size=shape), rng.normal(size=shape)
    v *= SPEED / np.linalg.norm(v, axis=-1, keepdims=True)
    _reflect(x, v)
    n_saved = steps // SAVED_EVERY
    positions = np.empty((n_trajectories, n_saved, PARTICLES, 3), np.float32)
    velocities = np.empty_like(positions)
    for step in range(steps):
        if step % SAVED_EVERY == 0:
            positions[:, step // SAVED_EVERY] = x
            velocities[:, step // SAVED_EVERY] = v
            progress(step)
        v += TIME_STEP * forces(x, charges)
        x += TIME_STEP * v
        _reflect(x, v)
    progress(steps)
    return Trajectories(positions, velocities, charges.astype(np.float32))


def forces(positions: np.ndarray, charges: np.ndarray) -> np.ndarray:
    """Return the forces on the particles [n_trajectories, n_particles, 3].

    Args:
        positions: Positions [n_trajectories, n_particles, 3].
        charges: Charges [n_trajectories, n_particles].
    """
    total = np.zeros_like(positions)
    # One pair at a time: small arrays stay in the cache.
    for i in range(PARTICLES):
        for j in range(i):
            vector = positions[:, i] - positions[:, j]
            square = np.einsum("nk,nk->n", vector, vector)
            size = charges[:, i] * charges[:, j] / (square * np.sqrt(square))
            pair = size[:, None] * vector
            total[:, i] += pair
            total[:, j] -= pair
    return total.clip(-LARGEST_FORCE, LARGEST_FORCE)


def _reflect(x: np.ndarray, v: np.ndarray) -> None:
    """Throw particles beyond a wall back, in place."""
    for sign in (1.0, -1.0):
        beyond = sign * x > HALF_WIDTH
        x[beyond] = sign * 2.0 * HALF_WIDTH - x[beyond]
        v[beyond] = -sign * np.abs(v[beyond])

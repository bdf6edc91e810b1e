"""Energy drift: the slope of the total energy against time, with its error.

The difference of the last and the first energy is mostly noise, because the energy of
Verlet dynamics swings within each vibration.  A straight line through the means of
blocks, each many vibrations long, is not.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from openmm_se3.units import BOLTZMANN_KJ_PER_MOL

BLOCKS = 20
PS_PER_NS = 1000.0


@dataclasses.dataclass(frozen=True)
class Drift:
    """A straight line through an energy.

    Attributes:
        slope: kJ/mol/ps.
        error: Standard error of the slope, kJ/mol/ps.
        intercept: Energy of the line at time zero, kJ/mol.
        blocks: Number of block means that the line was drawn through.
    """

    slope: float
    error: float
    intercept: float
    blocks: int

    def per_kt(
        self, temperature: float, degrees_of_freedom: int
    ) -> tuple[float, float]:
        """Return slope and error in kT/ns per degree of freedom."""
        scale = BOLTZMANN_KJ_PER_MOL * temperature * degrees_of_freedom / PS_PER_NS
        return self.slope / scale, self.error / scale


def block_error(values: np.ndarray, blocks: int = BLOCKS) -> float | None:
    """Return the standard error of a mean from means of blocks; None if too few.

    Args:
        values: A property of consecutive frames [n_samples].
        blocks: Number of blocks, each of two samples at least.
    """
    size = len(values) // blocks
    if size < 2:
        return None
    means = values[-size * blocks :].reshape(blocks, size).mean(axis=1)
    return float(means.std(ddof=1) / np.sqrt(blocks))


def energy_drift(
    time: ArrayLike, energy: ArrayLike, blocks: int = BLOCKS
) -> Drift | None:
    """Fit a line to block means of an energy.

    The standard error is that of least squares, widened by sqrt((1 + r) / (1 - r))
    where neighboring residuals are correlated (r > 0): slow exchange of energy between
    rotation and vibration makes the block means less independent than they look.

    Args:
        time: Times [n_samples], ps, evenly spaced.
        energy: Total energies [n_samples], kJ/mol.
        blocks: Number of blocks.

    Returns:
        The fit, or None if there are fewer than two samples a block or an energy is not
        finite.

    Raises:
        ValueError: The arrays differ in length, or there are fewer than four blocks.
    """
    times, energies = np.asarray(time, float), np.asarray(energy, float)
    if len(times) != len(energies):
        raise ValueError(f"{len(times)} times but {len(energies)} energies")
    if blocks < 4:
        raise ValueError(f"{blocks} blocks: a slope with an error needs at least 4")
    size = len(energies) // blocks
    if size < 2 or not np.all(np.isfinite(energies)):
        return None
    # Energies are large beside their changes; the first one is taken off for rounding.
    offset = energies[0]
    t = times[-size * blocks :].reshape(blocks, size).mean(axis=1)
    e = (energies - offset)[-size * blocks :].reshape(blocks, size).mean(axis=1)
    dt, de = t - t.mean(), e - e.mean()
    spread = float(dt @ dt)
    slope = float(dt @ de) / spread
    residuals = de - slope * dt
    variance = float(residuals @ residuals) / (blocks - 2)
    widening = 1.0
    if variance > 0.0:
        r = float(residuals[1:] @ residuals[:-1]) / float(residuals @ residuals)
        # The line takes up part of a slow wave, which biases r low by about 4/blocks.
        r = float(np.clip(r + 4.0 / blocks * (r > 0.0), 0.0, 0.9))
        widening = np.sqrt((1.0 + r) / (1.0 - r))
    return Drift(
        slope=slope,
        error=float(np.sqrt(variance / spread) * widening),
        intercept=float(offset + e.mean() - slope * t.mean()),
        blocks=blocks,
    )

"""Drift of noise with a known slope."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_se3.simulation import (
    energy_drift,
)
from openmm_se3.simulation.drift import block_error


def correlated_noise(rng: np.random.Generator, n: int, lag: float) -> np.ndarray:
    noise = np.empty(n)
    memory = np.exp(-1.0 / lag)
    noise[0] = rng.normal()
    for k, kick in enumerate(rng.normal(size=n - 1)):
        noise[k + 1] = memory * noise[k] + np.sqrt(1.0 - memory**2) * kick
    return noise


def test_drift_finds_a_known_slope_and_knows_its_error() -> None:
    rng = np.random.default_rng(1)
    times, slope = 0.01 * np.arange(2000), 0.01
    hits, slopes, ends = 0, [], []
    for _ in range(200):
        energy = -900.0 + slope * times + 0.1 * correlated_noise(rng, 2000, 30.0)
        drift = energy_drift(times, energy)
        assert drift is not None
        hits += abs(drift.slope - slope) < 2.0 * drift.error
        slopes.append(drift.slope)
        ends.append((energy[-1] - energy[0]) / (times[-1] - times[0]))
    assert hits / 200 > 0.88  # two standard errors hold 95 %
    assert abs(np.mean(slopes) - slope) < 4.0 * np.std(slopes) / np.sqrt(200)
    # The control: last minus first energy is right on average too, but far noisier.
    assert np.std(ends) > 2.0 * np.std(slopes)


def test_drift_of_an_exact_line_and_of_what_has_none() -> None:
    times = 0.01 * np.arange(1000)
    drift = energy_drift(times, 5.0 - 0.3 * times)
    assert drift is not None
    assert drift.slope == pytest.approx(-0.3, abs=1e-12)
    assert drift.intercept == pytest.approx(5.0, abs=1e-10)
    # The first samples are left out where blocks do not share them out evenly.
    uneven = energy_drift(times[:987], 5.0 - 0.3 * times[:987])
    assert uneven is not None
    assert uneven.intercept == pytest.approx(5.0, abs=1e-10)
    # 0.3 kJ/mol/ps are 300 kJ/mol/ns; kT is 2.494 kJ/mol at 300 K.
    assert drift.per_kt(300.0, 6)[0] == pytest.approx(-300.0 / 2.49434 / 6, rel=1e-5)
    assert energy_drift(times[:39], times[:39]) is None
    assert energy_drift(times, np.full(1000, np.nan)) is None
    with pytest.raises(ValueError, match="1000 times but 3 energies"):
        energy_drift(times, [1.0, 2.0, 3.0])


def test_errors_of_a_slope_and_of_a_mean_from_blocks() -> None:
    """Residuals that alternate are not correlated: least squares has their error."""
    means = np.resize([1.0, -1.0], 20) + 0.1 * np.arange(20)
    values = np.repeat(means, 3) + np.resize([0.2, 0.0, -0.2], 60)
    times = 0.5 * np.arange(60)
    drift = energy_drift(times, values)
    assert drift is not None
    (slope, _), covariance = np.polyfit(times[1::3], means, 1, cov=True)
    assert drift.slope == pytest.approx(slope, rel=1e-9)
    assert drift.error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-9)
    error = means.std(ddof=1) / np.sqrt(20)
    assert block_error(values) == pytest.approx(error, rel=1e-9)
    assert block_error(values[:39]) is None

"""Panels of what the log of a run says: energy, temperature, uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from openmm_se3.analysis.energies import Energies
from openmm_se3.analysis.panels import from_zero, marker
from openmm_se3.plot_style import BLUE, GRAY, ORANGE
from openmm_se3.simulation.log import UNCERTAINTY

DENSE = 500  # points of a line that would blacken a panel

Log = Mapping[str, np.ndarray]


def _width(points: int) -> float:
    """Return the width of a line that fluctuates from point to point."""
    return 0.4 if points > DENSE else 1.0


def total_energy(axis: Axes, thermal: Energies, log: Log) -> None:
    """Draw total and shadow energy about their means, and the drift."""
    time, total = log["time_ps"], log["total_kj_per_mol"]
    shadow = log["shadow_kj_per_mol"]
    there = np.isfinite(shadow)
    points = marker(len(time))
    # Each about its own mean: what differs between the two is not of interest.
    axis.plot(
        time,
        total - total.mean(),
        lw=_width(len(time)),
        color=BLUE,
        alpha=0.6,
        marker=points,
        label="total",
    )
    title = "Total energy"
    if there.any():
        axis.plot(
            time,
            shadow - shadow[there].mean(),
            lw=0.9,
            color=ORANGE,
            marker=points,
            label="shadow",
        )
    drift = thermal.shadow_drift or thermal.drift
    if drift is not None:
        which = "shadow" if thermal.shadow_drift else "total"
        mean = shadow[there].mean() if thermal.shadow_drift else total.mean()
        line = drift.intercept + drift.slope * time - mean
        axis.plot(time, line, lw=1.1, ls="--", color="black", label=f"fit to {which}")
        slope, error = drift.per_kt(
            thermal.temperature_asked, thermal.degrees_of_freedom
        )
        # A digit of the error, so that a small one is not shown as zero.
        digits = max(0, -math.floor(math.log10(error))) if error > 0.0 else 4
        title = f"Drift {slope:+.{digits}f} ± {error:.{digits}f} kT/ns/dof ({which})"
    axis.set(title=title, xlabel="time (ps)", ylabel="kJ/mol from the mean")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.2 * (high - low))
    from_zero(axis, time)
    axis.legend(loc="upper right", ncols=3, handlelength=1.2)


def temperature(
    axis: Axes, thermal: Energies, log: Log, options: Mapping[str, Any]
) -> None:
    """Draw the temperature, its block means, and the one asked for."""
    asked = thermal.temperature_asked
    time, values = log["time_ps"], log["temperature_k"]
    points = marker(len(time))
    width = _width(len(time))
    axis.plot(time, values, lw=width, color=GRAY, alpha=0.7, marker=points)
    blocks = min(40, len(time) // 10)
    if blocks >= 2:
        size = len(time) // blocks
        mean = values[: size * blocks].reshape(blocks, size).mean(axis=1)
        middle = time[: size * blocks].reshape(blocks, size).mean(axis=1)
        axis.plot(middle, mean, lw=1.4, color=ORANGE, label="block means")
    equilibrated = options["ensemble"] == "nve" and options["equilibration_ps"] > 0.0
    meaning = f"equilibrated at {asked:g} K" if equilibrated else f"{asked:g} K asked"
    axis.axhline(asked, color="black", lw=0.9, ls="--", label=meaning)
    axis.set(
        title=f"Temperature {thermal.temperature:.0f} K",
        xlabel="time (ps)",
        ylabel="K",
        ylim=(0.0, 1.25 * max(float(values.max()), asked)),
    )
    from_zero(axis, time)
    axis.legend(loc="upper right", ncols=2, handlelength=1.2)


def has_uncertainty(log: Log) -> bool:
    """Tell whether a log has deviations of a committee's members."""
    return UNCERTAINTY in log and bool(np.isfinite(log[UNCERTAINTY]).any())


def uncertainty(axis: Axes, log: Log, found: Mapping[str, Any]) -> None:
    """Draw the uncertainty of frames, and the threshold of the model.

    Args:
        axis: Where to draw.
        log: Columns of the log.
        found: What ``run.json`` says of the uncertainty.
    """
    there = np.isfinite(log[UNCERTAINTY])
    time, values = log["time_ps"][there], log[UNCERTAINTY][there]
    axis.plot(time, values, lw=0.7, color=BLUE, marker=marker(len(time)))
    threshold = found.get("threshold")
    top = float(values.max())
    if threshold is not None:
        axis.axhline(
            threshold, color="black", lw=0.9, ls="--", label="threshold of the model"
        )
        axis.legend(loc="upper right", handlelength=1.2)
        top = max(top, threshold)
    axis.set(
        title=f"Uncertainty of forces: at most {values.max():.2g} eV/Å",
        xlabel="time (ps)",
        ylabel="eV/Å",
        ylim=(0.0, 1.25 * top),
    )
    from_zero(axis, log["time_ps"])

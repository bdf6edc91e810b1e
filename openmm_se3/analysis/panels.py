"""What the panels of the figure share: times, histograms."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from openmm_se3.analysis.analysis import Analysis

MAX_BINS = 60
FEW_POINTS = 20


def frame_times(analysis: Analysis) -> tuple[np.ndarray, str]:
    """Return the times of the frames, or their numbers, and what they are."""
    times = analysis.recording.times
    if times is None:
        return np.arange(analysis.recording.trajectory.n_frames) + 1.0, "frame"
    return times, "time (ps)"


def from_zero(axis: Axes, times: np.ndarray) -> None:
    """Let the axis of times begin at zero."""
    space = 1.03 if len(times) <= FEW_POINTS else 1.0  # for the last marker
    axis.set_xlim(0.0, space * float(times[-1]))
    axis.xaxis.set_major_locator(MaxNLocator(6))


def marker(points: int) -> str:
    """Return the marker of a line, which few points need to be seen."""
    return "." if points <= FEW_POINTS else ""


def bins(values: np.ndarray) -> int:
    """Return a number of bins that leaves some values for each of them."""
    return int(np.clip(np.sqrt(values.size), 5, MAX_BINS))


def distribution(
    axis: Axes, values: np.ndarray, color: str, unit: str, digits: int
) -> None:
    """Draw a histogram with mean and standard deviation."""
    axis.hist(values, bins=bins(values), density=True, color=color, alpha=0.8)
    mean, spread = values.mean(), values.std()
    axis.axvline(mean, color="black", lw=0.9, ls="--")
    space = "" if unit == "°" else " "
    axis.text(
        0.97,
        0.97,
        f"{mean:.{digits}f} ± {spread:.{digits}f}{space}{unit}",
        transform=axis.transAxes,
        ha="right",
        va="top",
        fontsize=9,
    )
    axis.set_yticks([])
    axis.set_ylim(0.0, 1.15 * axis.get_ylim()[1])
    axis.xaxis.set_major_locator(MaxNLocator(5))  # labels of many digits have room
    axis.spines["left"].set_visible(False)

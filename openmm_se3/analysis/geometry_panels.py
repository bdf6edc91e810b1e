"""Panels of bond lengths, angles and torsions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from openmm_se3.analysis.analysis import Analysis
from openmm_se3.analysis.geometry import Geometry
from openmm_se3.analysis.panels import (
    bins,
    distribution,
    frame_times,
    from_zero,
    marker,
)
from openmm_se3.plot_style import BLUE, GREEN, ORANGE

MAX_FRAMES_AS_LINES = 150
MAX_BONDS_AS_LINES = 2
BINS_IN_TIME = 100
MAX_TYPES = 6  # drawn over each other; the most frequent ones
COLORS = (BLUE, ORANGE, GREEN, "#8e5ea2", "#a87400", "#8a8f98")
TORSION_BINS = np.linspace(-180.0, 180.0, 73)

Panel = Callable[[Axes, Analysis], None]


def geometry_panels(geometry: Geometry) -> list[Panel]:
    """Return the panels for which there is something to draw."""
    panels: list[Panel] = [_lengths_in_time, _length_distribution]
    if geometry.angles:
        panels.append(_angle_distribution)
    if geometry.torsions:
        panels.append(_torsion_distribution)
    return panels


def _lengths_in_time(axis: Axes, analysis: Analysis) -> None:
    assert analysis.geometry is not None
    times, label = frame_times(analysis)
    types = analysis.geometry.lengths
    lengths = np.concatenate(list(types.values()), axis=1)
    times = times[: len(lengths)]
    if len(times) <= MAX_FRAMES_AS_LINES and lengths.shape[1] <= MAX_BONDS_AS_LINES:
        axis.set_prop_cycle(color=[BLUE, ORANGE])
        axis.plot(times, lengths, lw=0.7, marker=marker(len(times)))
    else:
        # Vibrations of many cannot be told apart; the span of a bin of frames can.
        starts = np.arange(0, len(times), max(1, len(times) // BINS_IN_TIME))
        low = np.minimum.reduceat(lengths.min(axis=1), starts)
        high = np.maximum.reduceat(lengths.max(axis=1), starts)
        mean = np.add.reduceat(lengths.mean(axis=1), starts)
        mean /= np.diff(np.append(starts, len(times)))
        axis.fill_between(
            times[starts],
            low,
            high,
            color=BLUE,
            alpha=0.35,
            lw=0,
            label="shortest to longest",
        )
        axis.plot(times[starts], mean, lw=1.0, color=BLUE, label="mean")
        axis.legend(loc="upper right", ncols=2, handlelength=1.2)
    margin = 0.25 * (lengths.max() - lengths.min()) or 0.01
    axis.set(
        title=f"{next(iter(types))} length" if len(types) == 1 else "Bond lengths",
        xlabel=label,
        ylabel="Å",
        ylim=(lengths.min() - 0.2 * margin, lengths.max() + margin),
    )
    from_zero(axis, times)


def _length_distribution(axis: Axes, analysis: Analysis) -> None:
    assert analysis.geometry is not None
    _distributions(axis, analysis.geometry.lengths, "length", BLUE, "Å", 3)
    axis.set(xlabel="Å")


def _angle_distribution(axis: Axes, analysis: Analysis) -> None:
    assert analysis.geometry is not None
    _distributions(axis, analysis.geometry.angles, "angle", GREEN, "°", 1)
    axis.set(xlabel="degrees")


def _torsion_distribution(axis: Axes, analysis: Analysis) -> None:
    assert analysis.geometry is not None
    shown = _most_frequent(analysis.geometry.torsions)
    _overlaid(axis, shown, TORSION_BINS)
    axis.set(
        title="Torsions, distribution", xlabel="degrees", xticks=range(-180, 181, 60)
    )


def _distributions(
    axis: Axes,
    values: dict[str, np.ndarray],
    what: str,
    color: str,
    unit: str,
    digits: int,
) -> None:
    if len(values) == 1:
        ((name, only),) = values.items()
        distribution(axis, only.ravel(), color, unit, digits)
        axis.set(title=f"{name} {what}, distribution")
        return
    shown = _most_frequent(values)
    joined = np.concatenate([part.ravel() for part in shown.values()])
    edges = np.linspace(joined.min(), joined.max(), 2 * bins(joined) + 1)
    _overlaid(axis, shown, edges)
    axis.set(title=f"Bond {what}s, distribution")


def _overlaid(axis: Axes, values: dict[str, np.ndarray], edges: np.ndarray) -> None:
    for color, (name, part) in zip(COLORS, values.items(), strict=False):
        finite = part[np.isfinite(part)]
        axis.hist(
            finite,
            edges.tolist(),
            density=True,
            histtype="step",
            lw=1.2,
            color=color,
            label=name,
        )
    axis.set_yticks([])
    axis.set_ylim(0.0, 1.3 * axis.get_ylim()[1])
    axis.spines["left"].set_visible(False)
    axis.legend(loc="upper right", ncols=3, handlelength=1.2)


def _most_frequent(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = sorted(values, key=lambda name: -values[name].shape[1])[:MAX_TYPES]
    return {name: values[name] for name in sorted(names)}

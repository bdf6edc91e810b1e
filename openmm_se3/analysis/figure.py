"""The figure of a run: one panel for each thing that was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openmm_se3.analysis.analysis import Analysis
from openmm_se3.analysis.geometry_panels import geometry_panels
from openmm_se3.analysis.log_panels import (
    has_uncertainty,
    temperature,
    total_energy,
    uncertainty,
)
from openmm_se3.analysis.panels import bins, frame_times, from_zero, marker
from openmm_se3.analysis.report import verdict
from openmm_se3.plot_style import BLUE, GRAY, GREEN, ORANGE, STYLE, save

AMBER = "#a87400"
COLUMNS = 3
PANEL_INCHES = (4.2, 3.1)
TITLE_INCHES = 0.2  # of a line
TITLE_CHARACTERS = 105  # that have room beside each other
INSIDE_MOLECULES = 1.9  # A, beyond all pairs inside a water molecule

Panel = Callable[[Axes, Analysis], None]


def write_figure(analysis: Analysis, path: Path) -> None:
    """Draw what an analysis has into a PNG file."""
    with matplotlib.rc_context(STYLE):
        save(path, draw(analysis))


def draw(analysis: Analysis) -> Figure:
    """Return the figure of an analysis, with the verdict above."""
    panels = choose_panels(analysis)
    height = -(-len(panels) // COLUMNS)
    title = textwrap.fill(verdict(analysis), TITLE_CHARACTERS)
    if not panels:
        title += "\n\nThere is nothing to draw."
    lines = title.count("\n") + 1
    figure = Figure(
        figsize=(
            PANEL_INCHES[0] * COLUMNS,
            PANEL_INCHES[1] * height + TITLE_INCHES * (lines + 1),
        ),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    color = ORANGE
    if analysis.stability.stable:
        color = AMBER if analysis.unfinished else GREEN
    figure.suptitle(title, color=color, fontsize=12, fontweight="bold")
    grid = figure.add_gridspec(max(1, height), COLUMNS)
    for index, panel in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        # The last panel fills its row.
        end = COLUMNS if index == len(panels) - 1 else column + 1
        panel(figure.add_subplot(grid[row, column:end]), analysis)
    return figure


def choose_panels(analysis: Analysis) -> list[Panel]:
    """Return the panels for which there is something to draw."""
    panels: list[Panel] = []
    if analysis.geometry is not None:
        panels += geometry_panels(analysis.geometry)
    if analysis.cluster is not None:
        panels += [_oxygen_distances, _hydrogen_bonds]
    if analysis.liquid is not None:
        if analysis.liquid.changes:
            panels.append(_density)
        if analysis.liquid.g:
            panels.append(_pair_distributions)
    if analysis.energies is not None:
        panels += [_total_energy, _temperature]
    if has_uncertainty(analysis.recording.log):
        panels.append(_uncertainty)
    if analysis.spectrum is not None:
        panels.append(_spectrum)
    return panels


def _oxygen_distances(axis: Axes, analysis: Analysis) -> None:
    assert analysis.cluster is not None
    oo = analysis.cluster.oo.ravel()
    edges = np.histogram_bin_edges(oo, bins(oo)).tolist()
    axis.hist(oo, bins=edges, density=True, color=GRAY, alpha=0.6, label="all pairs")
    nearest = analysis.cluster.nearest.ravel()
    axis.hist(
        nearest,
        bins=edges,
        density=True,
        histtype="step",
        color=ORANGE,
        lw=1.4,
        label="nearest neighbor",
    )
    axis.set(title="O-O distance, distribution", xlabel="Å", yticks=[])
    axis.set_ylim(0.0, 1.3 * axis.get_ylim()[1])  # for the legend
    axis.spines["left"].set_visible(False)
    axis.legend(loc="upper right")


def _hydrogen_bonds(axis: Axes, analysis: Analysis) -> None:
    assert analysis.cluster is not None
    times, label = frame_times(analysis)
    count = analysis.cluster.bonds
    at = times[analysis.cluster.frames]
    axis.plot(at, count, lw=0.5, color=BLUE, alpha=0.45, marker=marker(len(at)))
    width = max(1, len(count) // 50)
    smooth = np.convolve(count, np.ones(width) / width, mode="valid")
    offset = (len(count) - len(smooth)) // 2
    axis.plot(
        at[offset : offset + len(smooth)],
        smooth,
        lw=1.4,
        color=ORANGE,
        label=f"mean of {width} frames",
    )
    axis.legend(loc="upper right", handlelength=1.2)
    axis.set(
        title=f"Hydrogen bonds: {count.mean():.2f} on average",
        xlabel=label,
        ylabel="number",
        ylim=(-0.3, 1.2 * count.max() + 0.7),
    )
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    from_zero(axis, at)


def _density(axis: Axes, analysis: Analysis) -> None:
    assert analysis.liquid is not None
    times, label = frame_times(analysis)
    density = analysis.liquid.density
    axis.plot(times[: len(density)], density, lw=0.8, color=BLUE)
    axis.set(
        title=f"Density {density.mean():.3f} g/cm$^3$",
        xlabel=label,
        ylabel="g/cm$^3$",
    )
    from_zero(axis, times)


def _pair_distributions(axis: Axes, analysis: Analysis) -> None:
    assert analysis.liquid is not None
    r, g = analysis.liquid.r, analysis.liquid.g
    outer = r > INSIDE_MOLECULES
    for (pair, values), color in zip(g.items(), (BLUE, ORANGE, GRAY), strict=True):
        axis.plot(r, values, lw=1.2, color=color, label=pair)
    axis.axhline(1.0, color="black", lw=0.6, ls="--")
    top = max([1.0, *(values[outer].max(initial=0.0) for values in g.values())])
    # The peaks of pairs inside a molecule leave the panel.
    axis.set(
        title="Pair distribution g(r)", xlabel="Å", xlim=(0, r[-1]), ylim=(0, 1.3 * top)
    )
    axis.legend(loc="upper right", ncols=3, handlelength=1.2)


def _total_energy(axis: Axes, analysis: Analysis) -> None:
    assert analysis.energies is not None
    total_energy(axis, analysis.energies, analysis.recording.log)


def _temperature(axis: Axes, analysis: Analysis) -> None:
    recording = analysis.recording
    assert analysis.energies is not None
    temperature(axis, analysis.energies, recording.log, recording.run["options"])


def _uncertainty(axis: Axes, analysis: Analysis) -> None:
    recording = analysis.recording
    uncertainty(axis, recording.log, recording.run.get("uncertainty", {}))


def _spectrum(axis: Axes, analysis: Analysis) -> None:
    inside, whole = analysis.spectrum, analysis.whole_spectrum
    assert inside is not None
    top = max([4200.0, *(inside.peaks + 300.0)])
    shown = inside.wavenumber < top
    x, y = inside.wavenumber[shown], inside.intensity[shown]
    if whole is not None:
        at = whole.wavenumber < top
        axis.fill_between(
            whole.wavenumber[at],
            whole.intensity[at],
            color=GRAY,
            alpha=0.4,
            lw=0,
            label="all motions",
        )
    axis.plot(x, y, lw=1.1, color=BLUE, label="inside molecules")
    _label_peaks(axis, inside.peaks, np.interp(inside.peaks, x, y), top)
    axis.set(
        title=f"Vibrations, resolution {inside.resolution:.1f} cm$^{{-1}}$",
        xlabel="cm$^{-1}$",
        xlim=(0.0, top),
        ylim=(0.0, 1.45),
        yticks=[],
    )
    axis.spines["left"].set_visible(False)
    if whole is not None:
        axis.legend(loc="upper left", handlelength=1.2)


def _label_peaks(
    axis: Axes, peaks: np.ndarray, heights: np.ndarray, width: float
) -> None:
    # Labels stand upright and are pushed apart where peaks are close.
    least = 0.055 * width
    places = peaks.copy()
    for _ in range(50):
        gaps = np.diff(places)
        for k in np.flatnonzero(gaps < least):
            push = 0.5 * (least - gaps[k])
            places[k] -= push
            places[k + 1] += push
    for peak, height, place in zip(peaks, heights, places, strict=True):
        axis.annotate(
            f"{peak:.0f}",
            xy=(peak, height),
            xytext=(place, height + 0.12),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": GRAY},
        )

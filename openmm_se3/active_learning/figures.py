"""Figures of a campaign."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from openmm_se3.active_learning.fresh_frames import Fresh
from openmm_se3.active_learning.verdict import Limits, group_name
from openmm_se3.plot_style import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    STYLE,
    few_ticks,
    logarithmic,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.7, 3.1  # inches
HEATS = (BLUE, ORANGE, GREEN)  # at T, at 2 T, metadynamics


Drawing = TypeVar("Drawing", bound=Callable[..., Any])


def styled(draw: Drawing) -> Drawing:
    """Let a function draw in the style of all figures."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return cast(Drawing, drawn)


def new_figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of one row of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * columns, HEIGHT), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


@styled
def learning_curve(tests: Sequence[dict[str, Any]], limits: Limits) -> Figure:
    """Draw errors on fresh frames, and the share of uncertain frames, over labels."""
    figure, (errors, shares) = new_figure(2)
    labels = [test["trained_on"] for test in tests]
    drawn = list(limits.force_mae[: len(tests[0]["errors"])])
    for place, color in enumerate(HEATS[: len(tests[0]["errors"])]):
        rows = [test["errors"][place] for test in tests]
        heat = group_name(rows[0])
        # Infinite where no walker left a frame: there is nothing to draw.
        mean, low, high = (
            np.array([row[key] if np.isfinite(row[key]) else np.nan for row in rows])
            for key in ("force_mae", "force_mae_low", "force_mae_high")
        )
        errors.errorbar(
            labels,
            mean,
            yerr=np.clip([mean - low, high - mean], 0.0, None),
            color=color,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.4,
            label=heat,
        )
        drawn += [*mean, *low, *high]
        errors.axhline(limits.force_mae[place], color=color, linestyle=":", linewidth=1)
        above = [100.0 * test["shares"][place]["above"] for test in tests]
        shares.plot(labels, above, color=color, marker="o", markersize=4, label=heat)
        most = 100.0 * limits.uncertain[place]
        shares.axhline(most, color=color, linestyle=":", linewidth=1)
    logarithmic(errors, drawn)
    errors.set_title("force MAE on fresh frames, kcal/mol/A")
    shares.set_title("uncertain frames in MD, %")
    shares.set_ylim(bottom=-0.03 * shares.get_ylim()[1])
    for axes in (errors, shares):
        axes.set_xlabel("labels trained on")
        few_ticks(axes.xaxis)
        axes.legend()
    return figure


@styled
def parity(fresh: Fresh) -> Figure:
    """Draw predicted against reference forces and energies of fresh frames."""
    figure, (forces, energies) = new_figure(2)
    heats = np.unique(fresh.temperature)
    by_atom = fresh.temperature[fresh.frame]
    # The hot ones first, so that they do not hide the others.
    for heat, color in reversed(list(zip(heats, HEATS, strict=False))):
        atoms, frames = by_atom == heat, fresh.temperature == heat
        label = f"{heat:.0f} K"
        forces.plot(
            fresh.forces[atoms].ravel(),
            fresh.predicted_forces[atoms].ravel(),
            ".",
            color=color,
            markersize=3,
            label=label,
        )
        energies.plot(
            fresh.energy[frames] - fresh.energy.mean(),
            fresh.predicted_energy[frames] - fresh.predicted_energy.mean(),
            "o",
            color=color,
            markersize=3.5,
            label=label,
        )
    for axes, title in (
        (forces, "force components, kcal/mol/A"),
        (energies, "energies about their mean, kcal/mol"),
    ):
        low, high = axes.get_xlim()
        axes.plot([low, high], [low, high], color=GRAY, linewidth=0.8, zorder=0)
        axes.set_xlabel("reference")
        axes.set_ylabel("committee")
        axes.set_title(title)
        axes.legend()
    return figure


@styled
def calibration_plot(fresh: Fresh, factor: float) -> Figure:
    """Draw the error of the force on an atom against its calibrated deviation."""
    figure, (axes,) = new_figure()
    deviation = factor * fresh.deviation
    errors = np.linalg.norm(fresh.errors, axis=1)
    axes.plot(deviation, errors, ".", color=GRAY, markersize=3, label="atoms")
    order = np.argsort(deviation)
    groups = np.array_split(order, max(1, min(8, len(order) // 12)))
    axes.plot(
        [np.sqrt(np.square(deviation[g]).mean()) for g in groups],
        [np.sqrt(np.square(errors[g]).mean()) for g in groups],
        "o-",
        color=BLUE,
        markersize=4,
        linewidth=1.2,
        label="root mean squares",
    )
    both = np.concatenate([deviation, errors])
    low, high = both[both > 0.0].min(), both.max()
    axes.plot([low, high], [low, high], color=ORANGE, linewidth=1, label="equal")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("calibrated deviation, kcal/mol/A")
    axes.set_ylabel("error, kcal/mol/A")
    axes.set_title("force on an atom: deviation and error")
    axes.legend()
    return figure


@styled
def torsion_plot(scans: Sequence[dict[str, Any]]) -> Figure:
    """Draw torsion scans of the committee and of the reference."""
    figure, all_axes = new_figure(2)
    for unused in all_axes[len(scans) :]:
        unused.set_axis_off()
    for axes, scan in zip(all_axes, scans, strict=False):
        angles = scan["angles"]
        if "reference" in scan:
            zero = min(scan["reference"])
            shifted = np.array(scan["reference"]) - zero
            axes.plot(
                angles, shifted, "o", color=ORANGE, markersize=4.5, label="reference"
            )
        else:
            zero = min(scan["model"])
        axes.plot(
            angles, np.array(scan["model"]) - zero, "-", color=BLUE, label="committee"
        )
        axes.set_title(f"{scan['name']}, kcal/mol")
        axes.set_xlabel("dihedral angle, degrees")
        axes.set_xticks([-180, -90, 0, 90, 180])
        axes.legend()
    return figure


@styled
def frequency_plot(found: dict[str, list[float]]) -> Figure:
    """Draw the differences of harmonic frequencies to the reference."""
    figure, (axes,) = new_figure()
    reference, model = (np.array(found[key]) for key in ("reference", "model"))
    axes.axhline(0.0, color=GRAY, linewidth=0.8)
    axes.vlines(reference, 0.0, model - reference, color=BLUE, linewidth=1)
    axes.plot(reference, model - reference, "o", color=BLUE, markersize=4)
    axes.set_xlabel("harmonic frequency of the reference, 1/cm")
    axes.set_title("committee less reference, 1/cm")
    return figure


@styled
def energy_plot(nve: dict[str, Any]) -> Figure:
    """Draw the change of the total energy without a thermostat."""
    figure, (axes,) = new_figure()
    colors = (BLUE, ORANGE, GREEN, GRAY)
    for energy, color in zip(nve["energies"], colors, strict=False):
        axes.plot(nve["times"], energy, color=color, linewidth=0.7)
    axes.set_xlabel("time, ps")
    axes.set_title("total energy less its first value, kcal/mol")
    return figure

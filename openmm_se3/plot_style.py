"""What all figures share: colours, style and axes of losses and errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_se3.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#2f6690", "#d1673c", "#3a7d44", "#8a8f98"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
}
TICKS = (1.0, 2.0, 5.0, 10.0)  # of a decade
FEW_DECADES = 2.0  # in which 1, 2 and 5 all have room


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def legend_above(axes: Axes, columns: int) -> None:
    """Put the legend above the axes, where it hides no data."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.2,
    )


def logarithmic(axes: Axes, values: Iterable[float]) -> None:
    """Make the y axis logarithmic, with ends and plain numbers at 1, 2 or 5 a decade.

    Args:
        axes: The axes.
        values: What is drawn; what is not positive and finite does not count.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    shown = [value for value in values if 0.0 < value < math.inf]
    if not shown:
        return
    low, high = _tick_below(min(shown)), _tick_above(max(shown))
    few = math.log10(high / low) <= FEW_DECADES
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=TICKS[:3] if few else (1.0,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)


def _tick_below(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value))
    return decade * max(tick for tick in TICKS if tick * decade <= value)


def _tick_above(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value))
    return decade * min(tick for tick in TICKS if tick * decade > value)

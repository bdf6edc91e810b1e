"""What all figures share: colors, style and axes of losses and errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_se3.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GRAY = "#2f6690", "#d1673c", "#3a7d44", "#8a8f98"
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
# Numbers of a decade that have room on an axis of at most so many decades.
TICKS = {2.0: (1.0, 2.0, 5.0), 4.0: (1.0, 3.0), math.inf: (1.0,)}


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def few_ticks(axis: Axis) -> None:
    """Put at most five round numbers on a linear axis."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def legend_above(axes: Axes, columns: int, title: str | None = None) -> None:
    """Put the legend above the axes, where it hides no data."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        title=title,
        alignment="left",
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.2,
    )


def logarithmic(axes: Axes, values: Iterable[float]) -> None:
    """Make the y axis logarithmic, with a few plain numbers and one at each end.

    Args:
        axes: The axes.
        values: What is drawn; what is not positive and finite does not count.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    shown = [value for value in values if 0.0 < value < math.inf]
    if not shown:
        return
    low, high = min(shown), max(shown)
    decades = math.log10(high / low)
    ticks = next(ticks for most, ticks in TICKS.items() if decades <= most)
    base = 10.0 ** math.floor(math.log10(low))
    low = base * max(tick for tick in ticks if base * tick <= low)
    base = 10.0 ** math.floor(math.log10(high))
    high = base * min(tick for tick in (*ticks, 10.0) if base * tick > high)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=ticks, numticks=12))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)

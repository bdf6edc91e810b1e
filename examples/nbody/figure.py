"""True and predicted trajectories, as in figure 3.1 of the thesis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbody.learning import AHEAD, NBodyModule
from nbody.particles import HALF_WIDTH, Trajectories

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by all
WALL = "0.75"
MARGIN = 0.08  # of the largest extent


@torch.no_grad()
def draw_trajectories(
    path: Path, module: NBodyModule, trajectories: Trajectories, shown: int
) -> None:
    """Draw trajectories and where the network sends each particle every 500 steps.

    Args:
        path: PNG file to write.
        module: The trained network.
        trajectories: Trajectories; the first of them are drawn.
        shown: How many.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from openmm_se3.plot_style import STYLE, few_ticks, save

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * shown, 4.1), layout="constrained")
        for axes, x, v, charges in zip(
            figure.subplots(1, shown, squeeze=False)[0],
            trajectories.positions,
            trajectories.velocities,
            trajectories.charges,
            strict=False,
        ):
            starts = np.arange(0, len(x) - AHEAD, AHEAD)
            batch = x[starts], v[starts], np.repeat(charges[None], len(starts), 0)
            moved = module.network(*(torch.from_numpy(a).float() for a in batch))
            _draw_one(axes, x, charges, starts, x[starts] + moved[:, :, 0].numpy())
            axes.set(xlabel="x", aspect="equal")
            few_ticks(axes.xaxis)
            few_ticks(axes.yaxis)
        figure.axes[0].set_ylabel("y")
        black: dict[str, Any] = {"color": "black", "linestyle": ""}
        handles = {
            "true path": Line2D([], [], color="black", linewidth=1.0),
            "every 500 steps": Line2D([], [], marker="o", markersize=3.5, **black),
            "where the network sends the dot before": Line2D(
                [], [], marker="x", markersize=6, **black
            ),
            "start, charge": Line2D([], [], marker="$\\pm$", markersize=8, **black),
            "wall of the box": Line2D([], [], color=WALL, linewidth=2.0),
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=5
        )
        save(path, figure)


def _draw_one(
    axes: Axes,
    x: np.ndarray,
    charges: np.ndarray,
    starts: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """Draw the x and y of one trajectory.

    Args:
        axes: Where to draw.
        x: Positions [n_saved, n_particles, 3].
        charges: Charges [n_particles].
        starts: Saved points that predictions start from [n_starts].
        predicted: Predicted positions [n_starts, n_particles, 3].
    """
    for particle, color in enumerate(COLORS):
        path, ends = x[:, particle, :2], x[starts + AHEAD, particle, :2]
        axes.plot(*path.T, color=color, linewidth=1.0)
        axes.plot(*ends.T, "o", color=color, markersize=3.5)
        axes.plot(*predicted[:, particle, :2].T, "x", color=color, markersize=6)
        for end, guess in zip(ends, predicted[:, particle, :2], strict=True):
            axes.plot(*np.stack([end, guess]).T, color="0.6", linewidth=0.8, zorder=0)
        sign = "$+$" if charges[particle] > 0 else "$-$"
        axes.plot(*path[0], marker=sign, color=color, markersize=10)
    low, high = x[..., :2].min((0, 1)), x[..., :2].max((0, 1))
    half = (0.5 + MARGIN) * float((high - low).max())
    x_middle, y_middle = 0.5 * (low + high)
    axes.set(
        xlim=(x_middle - half, x_middle + half), ylim=(y_middle - half, y_middle + half)
    )
    for wall in (-HALF_WIDTH, HALF_WIDTH):
        axes.axvline(wall, color=WALL, linewidth=2.0, zorder=0)
        axes.axhline(wall, color=WALL, linewidth=2.0, zorder=0)

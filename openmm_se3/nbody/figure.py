"""True and predicted trajectories, as in figure 3.1 of the thesis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from openmm_se3.files import atomic_write
from openmm_se3.nbody.learning import AHEAD, NBodyModule
from openmm_se3.nbody.particles import HALF_WIDTH, Trajectories

COLOURS = ("tab:red", "tab:green", "tab:blue", "tab:orange", "tab:purple")


@torch.no_grad()
def draw_trajectories(
    path: Path, module: NBodyModule, trajectories: Trajectories, shown: int = 4
) -> None:
    """Draw trajectories and where the network sends each particle every 500 steps.

    Args:
        path: PNG file to write.
        module: The trained network.
        trajectories: Trajectories it was not trained on.
        shown: How many.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * shown, 4.4), layout="constrained")
    for number in range(shown):
        axes = figure.add_subplot(1, shown, number + 1)
        x, v = trajectories.positions[number], trajectories.velocities[number]
        starts = np.arange(0, len(x) - AHEAD, AHEAD)
        charges = np.repeat(trajectories.charges[number][None], len(starts), 0)
        moved = module.network(
            *(torch.from_numpy(a).float() for a in (x[starts], v[starts], charges))
        )
        predicted = x[starts] + moved[:, :, 0].numpy()
        for particle, colour in enumerate(COLOURS):
            sign = "+" if trajectories.charges[number, particle] > 0 else "−"
            axes.plot(
                x[:, particle, 0], x[:, particle, 1], ".-", color=colour, ms=3, lw=0.8
            )
            axes.annotate(sign, x[0, particle, :2], color=colour, fontsize=13)
            for start, end in zip(starts, predicted[:, particle], strict=True):
                line = np.stack([x[start, particle], end])
                axes.plot(line[:, 0], line[:, 1], color="saddlebrown", lw=1.0)
                axes.plot(*end[:2], "x", color="saddlebrown", ms=5)
        axes.set(
            xlim=(-HALF_WIDTH, HALF_WIDTH), ylim=(-HALF_WIDTH, HALF_WIDTH), xlabel="x"
        )
        axes.set_aspect("equal")
        if number == 0:
            axes.set_ylabel("y")
    figure.suptitle(
        "True trajectories (coloured, a dot every 100 steps) and where the network "
        "sends each particle in 500 steps (brown)"
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)

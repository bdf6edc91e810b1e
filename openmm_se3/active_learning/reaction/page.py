"""The section of the report about a reaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_se3.active_learning.figures import new_figure, styled
from openmm_se3.active_learning.reaction.free_energy import RUNS
from openmm_se3.active_learning.reaction.path_check import (
    MOST_BARRIER_ERROR,
    MOST_PATH_ERROR,
)
from openmm_se3.active_learning.structures import System
from openmm_se3.plot_style import BLUE, GRAY, ORANGE, few_ticks
from openmm_se3.report.page import caption, figure, paragraph, table, viewer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEATS = 3  # of each image in the movie, which would be over at once


def reaction_parts(
    found: dict[str, Any], system: System, temperature: float
) -> tuple[list[str], list[str]]:
    """Return the parts of a page about a reaction.

    Args:
        found: What :class:`~openmm_se3.active_learning.reaction.compare.Comparison`
            found.
        system: The molecule.
        temperature: K.

    Returns:
        Figures, and tables of variables and transfers, both in two columns.
    """
    path, energy = found.get("path"), found["free_energy"]
    figures = []
    if path is None:
        figures.append(paragraph("No second minimum was found: there is no path."))
    else:
        figures.append(
            figure(
                path_plot(path),
                "Minimum-energy path of the committee (nudged elastic band); the "
                "reference at the same structures.",
            )
        )
    figures.append(
        figure(
            free_energy_plot(energy, found["variables"][0], path),
            f"Free energy at {temperature:.0f} K: mean of {RUNS} independent "
            f"metadynamics runs of {energy['picoseconds']:g} ps; the band is half "
            "their difference.  Dotted: the minima of the path.",
        )
    )
    if path is not None:
        figures.append(_movie(path, system))
        figures.append(_barriers(path, energy, temperature))
    return figures, [_variables(found), _transfers(found)]


def molecule_viewer(system: System, frames: np.ndarray, labels: Sequence[str]) -> str:
    """Return a viewer of a molecule, with the bonds that a reaction changes."""
    kept = [
        pair
        for pair in system.bonds.tolist()
        if tuple(sorted(pair)) not in system.changing
    ]
    return viewer(
        system.symbols,
        np.array(kept).reshape(-1, 2),
        frames,
        labels,
        changing=system.changing,
    )


def _movie(path: dict[str, Any], system: System) -> str:
    """Return the viewer with the path, there and back."""
    order = [*range(len(path["model"])), *range(len(path["model"]) - 1, -1, -1)]
    order = [index for index in order for _ in range(REPEATS)]
    frames = np.array(path["positions"])[order]
    labels = [f"{path['model'][index]:.2f} kcal/mol" for index in order]
    return molecule_viewer(system, frames, labels) + caption(
        "The path, there and back; energies of the committee."
    )


def _barriers(path: dict[str, Any], energy: dict[str, Any], temperature: float) -> str:
    rows = []
    for key, name in (("barrier", "barrier"), ("backward", "barrier back")):
        ours, theirs = path[key], path.get(f"reference_{key}")
        compared = (
            ["", ""] if theirs is None else [f"{theirs:.2f}", f"{ours - theirs:+.2f}"]
        )
        rows.append([name, f"{ours:.2f}", *compared])
    if "worst" in path:
        rows.append(["largest along the path", "", "", f"{path['worst']:.2f}"])
    for key, name in (("barrier", "free energy"), ("backward", "free energy back")):
        text = f"{energy[key]:.2f}\u00a0±\u00a0{energy[f'{key}_error']:.2f}"
        rows.append([name, text, "", ""])
    explained = (
        "kcal/mol.  The reference is at the committee's structures; free energies are "
        f"at {temperature:.0f} K along the first variable.  Limits of the "
        f"verdict: {MOST_BARRIER_ERROR:g} for the barrier, {MOST_PATH_ERROR:g} for "
        "every image."
    )
    return table(["", "committee", "reference", "difference"], rows) + caption(
        explained
    )


def _variables(found: dict[str, Any]) -> str:
    rows = [
        [
            v["name"],
            f"{v['low']:.2f}",
            f"{v['high']:.2f}",
            f"{v['width']:.3g}",
            v["unit"],
        ]
        for v in found["variables"]
    ]
    return table(["variable", "from", "to", "width", ""], rows) + caption(
        "Variables of the metadynamics: their range and the width of the Gaussians."
    )


def _transfers(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['temperature']:.0f}\u00a0K",
            row["forward"],
            row["backward"],
            row["broken"],
        ]
        for row in found.get("transfers", [])
    ]
    if not rows:
        return ""
    return table(["", "forward", "backward", "broken"], rows) + caption(
        "Reactions seen in the dynamics of the last round without a bias, and broken "
        "molecules."
    )


@styled
def path_plot(path: dict[str, Any]) -> Figure:
    """Draw the energies along a path, of the committee and of the reference."""
    drawn, (axes,) = new_figure()
    axes.plot(
        path["lengths"],
        path["model"],
        "o-",
        color=BLUE,
        markersize=3.5,
        linewidth=1.4,
        label="committee",
    )
    if "reference" in path:
        axes.plot(
            path["lengths"],
            path["reference"],
            "o",
            color=ORANGE,
            markersize=5.5,
            markerfacecolor="none",
            label="reference",
        )
    axes.set_xlabel("length of the path, A")
    axes.set_title("energy, kcal/mol")
    few_ticks(axes.yaxis)
    axes.legend()
    return drawn


@styled
def free_energy_plot(
    energy: dict[str, Any], variable: dict[str, Any], path: dict[str, Any] | None
) -> Figure:
    """Draw the free energy along the first variable with its error."""
    drawn, (axes,) = new_figure()
    x, mean, error = (np.array(energy[key]) for key in ("values", "mean", "error"))
    axes.fill_between(
        x, mean - error, mean + error, color=BLUE, alpha=0.25, linewidth=0
    )
    axes.plot(x, mean, color=BLUE, linewidth=1.4)
    if path is not None:
        ends = [path["variables"][0][0], path["variables"][-1][0]]
        for end in ends:
            axes.axvline(end, color=GRAY, linestyle=":", linewidth=1)
        # Walls are high; what matters is between the minima.
        between = (x >= min(ends)) & (x <= max(ends))
        top = float((mean + error)[between].max())
        axes.set_ylim(-0.1 * top - 0.2, 1.5 * top + 0.5)
    unit = f", {variable['unit']}" if variable["unit"] else ""
    axes.set_xlabel(f"{variable['name']}{unit}")
    axes.set_title("free energy, kcal/mol")
    few_ticks(axes.yaxis)
    return drawn

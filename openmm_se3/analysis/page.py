"""``report.html`` of an analysis: what was measured, and the trajectory to play."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import matplotlib
import mdtraj
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from openmm_se3.analysis.analysis import Analysis
from openmm_se3.analysis.figure import choose_panels
from openmm_se3.analysis.geometry import bonds
from openmm_se3.analysis.report import contents, notes, rows, verdict
from openmm_se3.elements import chemical_symbol
from openmm_se3.plot_style import STYLE
from openmm_se3.report.page import Page, caption, figure, repeat, stride, table, viewer
from openmm_se3.units import NM_TO_ANGSTROM
from openmm_se3.version import __version__, installed_versions

PANEL_INCHES = (4.7, 3.1)
PROGRAMS = ("openmm-se3", "mdtraj", "numpy")


def write_page(analysis: Analysis, path: Path, command: str = "") -> None:
    """Write the page of an analysis.

    Args:
        analysis: What was measured.
        path: The file.
        command: The command that repeats the analysis; that of the run, which
            ``run.json`` has, comes before it.
    """
    run, trajectory = analysis.recording.run, analysis.recording.trajectory
    what = contents(analysis).partition(";")[0]
    subtitle = f"openmm-se3 {__version__}"
    if run.get("model"):
        subtitle = f"model {run['model']} · {subtitle}"
    page = Page(f"Molecular dynamics of {what}", subtitle)
    judged = analysis.stability
    kind = "bad" if not judged.stable else "warn" if analysis.unfinished else "good"
    page.banner(verdict(analysis), analysis.missing, kind)
    page.section(
        "Trajectory",
        movie(trajectory, analysis.recording.times, trajectory.n_frames),
        table(["", ""], rows(analysis)),
        columns=True,
    )
    page.section(
        "Figures",
        *(panel(_on(draw, analysis)) for draw in choose_panels(analysis)),
        columns=True,
    )
    page.section("What the numbers mean", *map(caption, notes(analysis)))
    commands = [each for each in (run.get("command", ""), command) if each]
    versions = run.get("versions") or installed_versions(PROGRAMS)
    page.section("Repeat it", *repeat("\n".join(commands), versions, seed_of(run)))
    page.write(path)


def analyze_command(folder: Path) -> str:
    """Return the command that analyzes the folder of a run."""
    return shlex.join(["openmm-se3", "analyze", folder.resolve().name])


def seed_of(run: dict[str, object]) -> str:
    """Return the seed of a run as a sentence; empty for other trajectories."""
    options = run.get("options")
    return f"Seed: {options['seed']}." if isinstance(options, dict) else ""


def movie(
    trajectory: mdtraj.Trajectory, times: np.ndarray | None, n_frames: int
) -> str:
    """Return the viewer of a trajectory.

    Args:
        trajectory: The frames, or some of them.
        times: Their times [n_frames], ps; None if unknown.
        n_frames: How many frames there are.
    """
    symbols = [chemical_symbol(atom.element) for atom in trajectory.topology.atoms]
    if times is None:
        labels = [f"frame {number + 1}" for number in range(trajectory.n_frames)]
    else:
        labels = [f"{time:.2f} ps" for time in times]
    shown = viewer(
        symbols,
        bonds(trajectory.topology),
        trajectory.xyz * NM_TO_ANGSTROM,
        labels,
        align=trajectory.unitcell_lengths is None,
    )
    every = stride(n_frames, len(symbols))
    thinned = f"One of {every} frames is shown.  " if every > 1 else ""
    return shown + caption(f"{thinned}Drag to turn, wheel to zoom.")


def panel(draw: Callable[[Axes], None]) -> str:
    """Return one panel as a figure of its own."""
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(drawn.subplots())
        return figure(drawn)


def _on(
    draw: Callable[[Axes, Analysis], None], analysis: Analysis
) -> Callable[[Axes], None]:
    return lambda axis: draw(axis, analysis)

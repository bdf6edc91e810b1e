"""``openmm-se3 analyze``."""

from __future__ import annotations

from pathlib import Path

import click

from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.simulation.folder import PAGE

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", required=False, type=FOLDER)
@click.option("--trajectory", type=FILE, help="Any trajectory that mdtraj reads.")
@click.option(
    "--topology",
    type=FILE,
    help="PDB file for --trajectory, with a relaxed structure.",
)
@click.option(
    "--frame-interval",
    "frame_fs",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Time between the frames of --trajectory, fs, where the file has no times.",
)
@click.option(
    "--out",
    "-o",
    type=FOLDER,
    help="Folder of the results.  [default: FOLDER, or TRAJECTORY-analysis]",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    folder: Path | None,
    trajectory: Path | None,
    topology: Path | None,
    frame_fs: float | None,
    out: Path | None,
) -> None:
    """Measure stability, drift, geometry and spectra of a run or of any trajectory.

    FOLDER is one that `openmm-se3 water` or `openmm-se3 run` wrote, whether or not the
    run ended.  Other trajectories are given with --trajectory and --topology; what they
    cannot tell is said.

    Exit code 0 if the verdict is STABLE, 1 if it is UNSTABLE, 2 if there are no frames
    or no bonds to judge.
    """
    if (folder is None) == (trajectory is None):
        raise click.UsageError("give either FOLDER, or --trajectory and --topology")
    if (trajectory is None) != (topology is None):
        raise click.UsageError("--trajectory and --topology go together")
    if folder is not None and frame_fs is not None:
        raise click.UsageError(
            "--frame-interval is for --trajectory; a run knows its own"
        )
    from rich.console import Console

    from openmm_se3.analysis import (
        analyze,
        print_report,
        read_files,
        read_folder,
        write_results,
    )

    if trajectory is not None and topology is not None:
        recording = read_files(trajectory, topology, frame_fs)
        out = out or trajectory.with_name(f"{trajectory.stem}-analysis")
    else:
        assert folder is not None
        recording = read_folder(folder)
        out = out or folder
    analysis = analyze(recording)
    write_results(analysis, out, command_line(context, "analyze", ("out",)))
    console = Console(markup=False)
    print_report(analysis, console)
    results = f"Results in {out}; report: {out / PAGE}"
    console.print(results, markup=False, highlight=False, soft_wrap=True)
    if not analysis.stability.stable:
        raise click.exceptions.Exit(1)

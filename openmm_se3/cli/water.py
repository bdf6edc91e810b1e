"""``openmm-se3 water``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.cli.shared.run_options import (
    POSITIVE,
    advised,
    production_steps,
    run_options,
)
from openmm_se3.simulation.folder import PAGE
from openmm_se3.simulation.options import RunOptions
from openmm_se3.units import FS_TO_PS


@click.command(cls=renamed(engine="implementation"))
@click.option(
    "--molecules",
    "-n",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of water molecules, in vacuum.",
)
@click.option(
    "--length",
    "length_ps",
    type=POSITIVE,
    default=RunOptions.steps * RunOptions.dt_fs * FS_TO_PS,
    show_default=True,
    help="Length of the production, ps.",
)
@click.option("--steps", type=click.IntRange(min=1), hidden=True)
@click.option(
    "--ensemble",
    type=click.Choice(("nve", "nvt"), case_sensitive=False),
    default=RunOptions.ensemble,
    show_default=True,
    help="nve: VerletIntegrator; nvt: LangevinMiddleIntegrator.",
)
@click.option(
    "--model",
    default="water",
    show_default=True,
    help="Name of a shipped model, or the path of a model.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(file_okay=False),
    default="water-run",
    show_default=True,
    help="Folder of the results.",
)
@run_options
def command(length_ps: float, steps: int | None, out: str, **options: Any) -> None:
    """Run water molecules: equilibrate, run NVE or NVT, report.

    The start is minimized on the model, equilibrated with Langevin dynamics, then run.
    The folder then holds the trajectory, velocities, the log, a figure and a report.

    Exit code 0 if the verdict is STABLE, 1 if it is UNSTABLE.
    """
    from rich.console import Console

    from openmm_se3.simulation import WaterRunOptions, run_water

    if steps is None:
        steps = production_steps(length_ps, options["dt_fs"])
    else:
        click.echo(
            "Warning: --steps is now --length, in ps; the old name goes with the next "
            "release",
            err=True,
        )
    run = WaterRunOptions(steps=steps, out=out, **options)
    context = click.get_current_context()
    repeated = command_line(context, "water", ("overwrite", "resume"))
    console = Console(markup=False)
    with advised(run, console):
        run_water(run, console, repeated)
    from openmm_se3.analysis import analyze_folder, print_report

    analysis = analyze_folder(out)
    print_report(analysis, console)
    results = f"Results in {out}; report: {Path(out) / PAGE}"
    console.print(results, markup=False, highlight=False, soft_wrap=True)
    if not analysis.stability.stable:
        raise click.exceptions.Exit(1)

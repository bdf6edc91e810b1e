"""``openmm-se3 run``: molecular dynamics of a structure file."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote
from typing import Any

import click
from click.core import ParameterSource

from openmm_se3.cli.run_options import POSITIVE, advised, run_options
from openmm_se3.simulation.options import (
    ENSEMBLES,
    THERMOSTATS,
    TRAJECTORIES,
    RunOptions,
)

BACKENDS = ("auto", "torchforce", "pythonforce")
LENGTH_PS = 20.0
FRAME_FS = 50.0


@click.command()
@click.argument("structure", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--model",
    required=True,
    help="Name of a shipped model, or the path of a model.",
)
@click.option(
    "--length",
    "length_ps",
    type=POSITIVE,
    default=LENGTH_PS,
    show_default=True,
    help="Length of the production, ps.",
)
@click.option(
    "--ensemble",
    type=click.Choice(ENSEMBLES, case_sensitive=False),
    default=RunOptions.ensemble,
    show_default=True,
    help="nve: VerletIntegrator; nvt: with a thermostat; npt: with MonteCarloBarostat "
    "too, for structures with a box.",
)
@click.option(
    "--thermostat",
    type=click.Choice(THERMOSTATS, case_sensitive=False),
    default=RunOptions.thermostat,
    show_default=True,
    help="Of nvt and npt: LangevinMiddleIntegrator or NoseHooverIntegrator.",
)
@click.option(
    "--pressure",
    "pressure_bar",
    type=float,
    default=RunOptions.pressure_bar,
    show_default=True,
    help="Of npt, bar.",
)
@click.option(
    "--frame-interval",
    "frame_fs",
    type=POSITIVE,
    default=FRAME_FS,
    show_default=True,
    help="Time between saved frames and velocities, fs.  2.5 resolves vibrations.",
)
@click.option(
    "--trajectory",
    type=click.Choice(TRAJECTORIES, case_sensitive=False),
    default=RunOptions.trajectory,
    show_default=True,
    help="Format of the frames; xtc is smaller and rounds to 0.01 A.",
)
@click.option(
    "--checkpoint-interval",
    "checkpoint_ps",
    type=POSITIVE,
    default=RunOptions.checkpoint_ps,
    show_default=True,
    help="Time between checkpoints, ps: what a kill costs at most.",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="How OpenMM calls the model.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Folder of the results.  [default: STRUCTURE-run, here]",
)
@run_options
def command(structure: Path, length_ps: float, out: str | None, **options: Any) -> None:
    """Run molecular dynamics of STRUCTURE, a PDB or PDBx/mmCIF file, on a model.

    The structure is minimised, equilibrated with Langevin dynamics, then run.  It is
    periodic if the file has a box.  The folder then holds the trajectory, velocities, a
    log and checkpoints, from which --resume goes on as if the run had not been stopped;
    a longer --length prolongs a run.

    Exit code 0 if the run is complete, 1 if it was stopped because something in it
    cannot be right.
    """
    context = click.get_current_context()
    for name, option, ensembles in (
        ("thermostat", "--thermostat", ("nvt", "npt")),
        ("pressure_bar", "--pressure", ("npt",)),
    ):
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and options["ensemble"] not in ensembles:
            raise click.UsageError(
                f"{option} is for --ensemble {' or '.join(ensembles)}"
            )
    steps = 1000.0 * length_ps / options["dt_fs"]
    if not math.isfinite(steps):
        raise click.UsageError("--length and --dt must be finite numbers")
    from rich.console import Console

    from openmm_se3.simulation import ModelRun, run_structure

    run = ModelRun(
        steps=max(1, round(steps)),
        out=out or f"{structure.stem}-run",
        **options,
    )
    console = Console()
    with advised(run, console):
        record = run_structure(structure, run, console)
    lines = [
        f"{record.status.capitalize()} after {record.time_ps:g} ps, "
        f"{record.ns_per_day:.2f} ns/day",
        f"Results in {record.folder}; to measure them: "
        f"openmm-se3 analyze {quote(str(record.folder))}",
    ]
    if record.reason:
        lines.insert(1, f"Reason: {record.reason}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if record.status != "completed":
        raise click.exceptions.Exit(1)

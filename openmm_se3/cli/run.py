"""``openmm-se3 run``: molecular dynamics of a structure file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.cli.shared.run_options import (
    POSITIVE,
    advised,
    production_steps,
    run_options,
)
from openmm_se3.simulation.folder import PAGE
from openmm_se3.simulation.options import (
    ENSEMBLES,
    THERMOSTATS,
    TRAJECTORIES,
    RunOptions,
)
from openmm_se3.units import FS_TO_PS

BACKENDS = ("auto", "torchforce", "pythonforce")


@click.command(cls=renamed(engine="implementation"))
@click.argument("structure")
@click.option(
    "--model",
    default="organic",
    show_default=True,
    help="Name of a shipped model, or the path of a model.",
)
@click.option(
    "--length",
    "length_ps",
    type=POSITIVE,
    default=RunOptions.steps * RunOptions.dt_fs * FS_TO_PS,
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
    default=RunOptions.frame_fs,
    show_default=True,
    help="Time between saved frames and velocities, fs; above 3.9 there is no "
    "vibrational spectrum.",
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
    "-o",
    type=click.Path(file_okay=False),
    help="Folder of the results.  [default: STRUCTURE-run here, or molecule-run]",
)
@run_options
def command(structure: str, length_ps: float, out: str | None, **options: Any) -> None:
    """Run molecular dynamics of STRUCTURE on a model.

    STRUCTURE is a PDB or PDBx/mmCIF file, an SDF, MOL or XYZ file of one molecule,
    or SMILES, such as "CC(=O)Oc1ccccc1C(=O)O".

    The structure is minimized, equilibrated with Langevin dynamics, then run.  It is
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
    from rich.console import Console

    from openmm_se3.simulation import ModelRunOptions, run_structure
    from openmm_se3.simulation.structure import is_file_name

    repeated = command_line(context, "run", ("overwrite", "resume"))
    named = is_file_name(structure)
    run = ModelRunOptions(
        steps=production_steps(length_ps, options["dt_fs"]),
        out=out or f"{Path(structure).stem if named else 'molecule'}-run",
        **options,
    )
    console = Console(markup=False)
    with advised(run, console):
        record = run_structure(structure, run, console, repeated)
    from openmm_se3.analysis import write_run_page

    page = record.folder / PAGE
    if not page.exists():  # a run that was complete already may have been analyzed
        write_run_page(record.folder)
    lines = [
        f"{record.status.capitalize()} after {record.time_ps:g} ps, "
        f"{record.ns_per_day:.2f} ns/day",
        f"Report: {page}",
        f"Results in {record.folder}; to measure them: "
        + shlex.join(["openmm-se3", "analyze", str(record.folder)]),
    ]
    if record.reason:
        lines.insert(1, f"Reason: {record.reason}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if record.status != "completed":
        raise click.exceptions.Exit(1)

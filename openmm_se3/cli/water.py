"""``openmm-se3 water``: the main job."""

from __future__ import annotations

import click

from openmm_se3.simulation.options import ENSEMBLES, PRECISIONS, RunOptions

POSITIVE = click.FloatRange(min=0.0, min_open=True)
RECOMMENDED_DT_FS = 1.0


@click.command()
@click.option(
    "--molecules",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of water molecules, in vacuum.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=RunOptions.steps,
    show_default=True,
    help="Production steps.",
)
@click.option(
    "--dt",
    "dt_fs",
    type=POSITIVE,
    default=RunOptions.dt_fs,
    show_default=True,
    help="Time step, fs.",
)
@click.option(
    "--temperature",
    type=POSITIVE,
    default=RunOptions.temperature,
    show_default=True,
    help="Temperature of the equilibration and of NVT, K.",
)
@click.option(
    "--ensemble",
    type=click.Choice(ENSEMBLES, case_sensitive=False),
    default=RunOptions.ensemble,
    show_default=True,
    help="nve: VerletIntegrator; nvt: LangevinMiddleIntegrator.",
)
@click.option(
    "--equilibration",
    "equilibration_ps",
    type=click.FloatRange(min=0.0),
    default=RunOptions.equilibration_ps,
    show_default=True,
    help="Langevin dynamics before the production, ps.",
)
@click.option(
    "--model",
    default="water",
    show_default=True,
    help="Name of a shipped model, or the path of a model.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS, case_sensitive=False),
    default=RunOptions.precision,
    show_default=True,
    help="Floating-point precision of the model.",
)
@click.option(
    "--platform",
    help="OpenMM platform.  [default: the best one present]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default=RunOptions.out,
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=1, max=2**31 - 1),
    default=RunOptions.seed,
    show_default=True,
    help="Seed of everything random.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace the results of an earlier run."
)
def command(
    molecules: int,
    steps: int,
    dt_fs: float,
    temperature: float,
    ensemble: str,
    equilibration_ps: float,
    model: str,
    precision: str,
    platform: str | None,
    out: str,
    seed: int,
    overwrite: bool,
) -> None:
    """Run water molecules: equilibrate, run NVE or NVT, report.

    The start is minimised on the model, equilibrated with Langevin dynamics, then run.
    The folder then holds the trajectory, velocities, the log, a figure and a report.

    Exit code 0 if the verdict is STABLE, 1 if it is UNSTABLE.
    """
    from rich.console import Console

    from openmm_se3.simulation import WaterRun, run_water
    from openmm_se3.simulation.folder import was_cut_short

    options = WaterRun(
        steps=steps,
        dt_fs=dt_fs,
        temperature=temperature,
        ensemble=ensemble,
        equilibration_ps=equilibration_ps,
        precision=precision,
        platform=platform,
        seed=seed,
        out=out,
        overwrite=overwrite,
        molecules=molecules,
        model=model,
    )
    console = Console()
    if dt_fs > RECOMMENDED_DT_FS:
        console.print(
            f"A step of {dt_fs:g} fs is long for O-H stretches, whose period is "
            "8.5 fs; 0.5 fs is recommended.",
            style="yellow",
            soft_wrap=True,
        )
    try:
        run_water(options, console)
    except KeyboardInterrupt:
        if was_cut_short(out):
            text = f"Ended early; what there is: openmm-se3 analyze {out}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise
    from openmm_se3.analysis import analyze_folder, print_report

    analysis = analyze_folder(out)
    print_report(analysis, console)
    console.print(f"Results in {out}", markup=False, highlight=False, soft_wrap=True)
    if not analysis.stability.stable:
        raise click.exceptions.Exit(1)

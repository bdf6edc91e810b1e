"""``openmm-se3 train``: train a network on labeled data."""

from __future__ import annotations

import shlex
from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder of the run.  [default: CONFIG's name with -run, here]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
@click.option("--overwrite", is_flag=True, help="Start again in a folder with a run.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Pause after this time; --resume goes on.  The learning rate stays on its way "
    "to the last of training.steps.",
)
@click.option(
    "--max-epochs",
    type=click.FloatRange(min=0, min_open=True),
    help="Pause when the data were seen this often; --resume goes on.",
)
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    help="Minutes that the whole run is to take on this machine: replaces "
    "training.steps by as many as fit, so that the learning rate falls to its end.",
)
def command(
    config: Path,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    max_minutes: float | None,
    max_epochs: float | None,
    time_budget: float | None,
) -> None:
    """Train the network that CONFIG describes.

    CONFIG is a YAML file with the keys model, training and data, and optionally preset,
    the name of settings to start from; docs/training.md lists them.  The run can be
    stopped at any time (Ctrl-C, --max-minutes, a kill) and goes on with --resume as if
    it had not been.  --max-minutes and --max-epochs pause the run; the schedule still
    spans training.steps.  --time-budget chooses the steps.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from rich.console import Console

    from openmm_se3.training.config_file import read_config

    # First, because what a run needs takes seconds to import.
    settings = read_config(config)
    from openmm_se3.training.checkpoint import BEST
    from openmm_se3.training.distributed import is_first
    from openmm_se3.training.report import error_report
    from openmm_se3.training.run import PAGE, train

    folder = out if out is not None else Path(f"{config.stem}-run")
    console = Console(markup=False)
    outcome = train(
        settings,
        folder,
        resume=resume,
        overwrite=overwrite,
        max_minutes=max_minutes,
        max_epochs=max_epochs,
        time_budget=time_budget,
        console=console,
    )
    if not is_first():
        return
    if outcome.errors is not None:
        click.echo(error_report(outcome.errors, groups=False))
        click.echo(
            f"Finished after {outcome.step} steps. Errors by formula, size, element "
            f"and source: {folder / PAGE}"
        )
        exported = folder.with_name(f"{folder.name}-model")
        words = ["openmm-se3", "export", str(folder / BEST), "--out", str(exported)]
        click.echo(f"To use the model: {shlex.join(words)}")
        return
    total = settings.training.steps
    click.echo(
        f"Stopped at step {outcome.step} of {total}, nothing is lost. Go on with"
    )
    words = ["openmm-se3", "train", str(config), "--out", str(folder), "--resume"]
    click.echo(f"  {shlex.join(words)}")
    if outcome.signal is not None:
        raise click.exceptions.Exit(128 + outcome.signal)

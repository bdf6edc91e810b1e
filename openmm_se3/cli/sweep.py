"""``openmm-se3 sweep``: a grid of training runs, side by side."""

from __future__ import annotations

import datetime
from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="KEY=A,B,...",
    help="Values to try, such as training.learning_rate=1e-3,1e-2 or "
    "model.channels=16,32; once for each key.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of all runs.  [default: CONFIG's name with -sweep, here]",
)
def command(config: Path, settings: tuple[str, ...], out: Path | None) -> None:
    """Train the network of CONFIG with every combination of a few settings.

    Runs follow each other.  Stopped at any time, the same command goes on: finished
    runs are kept.  The folder ends with a table (sweep.csv) and the learning curves
    side by side (curves.png).
    """
    from rich.console import Console
    from rich.table import Table

    from openmm_se3.training.config_file import read_config
    from openmm_se3.training.sweep import (
        CURVES,
        TABLE,
        parse_settings,
        run_sweep,
        variants,
    )

    chosen = variants(read_config(config), parse_settings(settings))
    folder = out if out is not None else Path(f"{config.stem}-sweep")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False)
    try:
        results = run_sweep(chosen, folder, console)
    except KeyboardInterrupt:
        click.echo("Stopped, nothing is lost; the same command goes on.")
        raise
    table = Table(
        title="best validation of each run, kcal/mol and kcal/mol/A", box=None
    )
    table.add_column("run")
    for heading in ("parameters", "time", "energy MAE", "force MAE", "force RMSE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        row = result.errors["validation"]["all"]
        numbers = (
            f"{row[key]:.4f}" if key in row else ""
            for key in ("energy_mae", "force_mae", "force_rmse")
        )
        time = f"{datetime.timedelta(seconds=round(result.seconds))}"
        table.add_row(result.variant.title, f"{result.parameters:,}", time, *numbers)
    console.print(table)
    click.echo(f"{folder / TABLE}, {folder / CURVES}")

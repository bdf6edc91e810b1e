"""The thesis's toy problem: learn how charged particles in a box move.

    python examples/nbody/run.py --out nbody-run

Needs the extra "train".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from openmm_se3.files import atomic_write
from openmm_se3.progress import progress_bar
from openmm_se3.signals import stop_at_once

sys.path.insert(0, str(Path(__file__).parents[1]))
from nbody.figure import draw_trajectories  # noqa: E402
from nbody.learning import (  # noqa: E402
    NBodyConfig,
    errors_on,
    open_folder,
    split,
    train,
)
from nbody.network import layer_config  # noqa: E402
from nbody.particles import STEPS, simulate  # noqa: E402


@click.command()
@click.option(
    "--trajectories", type=click.IntRange(min=20), default=50_000, show_default=True
)
@click.option("--steps", type=click.IntRange(min=1), default=20_000, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--learning-rate", type=float, default=5e-3, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("nbody-run"),
    show_default=True,
    help="Folder of checkpoint, validation errors, test errors and figure.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
def command(
    trajectories: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    out: Path,
    resume: bool,
) -> None:
    """Simulate charged particles and learn where they go in 500 steps.

    Prints the mean square error on test trajectories beside the 0.0389 of the thesis
    and the 0.0511 of the original implementation of the network there.
    """
    config = NBodyConfig(
        trajectories, steps, batch_size, learning_rate, seed, layer_config()
    )
    try:
        open_folder(out, config, resume)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    with progress_bar("Simulating") as progress:
        made = simulate(trajectories, seed, STEPS, lambda step: progress(step, STEPS))
    data = split(made)
    try:
        with progress_bar("Training") as progress:
            module = train(config, data, out, progress)
    except KeyboardInterrupt:
        click.echo("Stopped; the same command with --resume goes on.")
        raise
    errors = errors_on(module, data["test"])
    with atomic_write(out / "errors.json") as temporary:
        temporary.write_text(json.dumps(errors, indent=1) + "\n")
    shown = min(4, max(trajectories // 10, 1))  # the first tenth are for the test
    draw_trajectories(out / "trajectories.png", module, made, shown)
    table = Table(title="mean square error, 500 steps ahead", box=None)
    table.add_column("prediction")
    table.add_column("MSE", justify="right")
    for name, value in errors.items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("the thesis", "0.0389")
    table.add_row("original implementation, in the thesis", "0.0511")
    Console().print(table)
    click.echo(f"{out / 'errors.json'}, {out / 'trajectories.png'}")


if __name__ == "__main__":
    with stop_at_once():
        command()

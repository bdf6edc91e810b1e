"""Options of molecular dynamics, and advice around a run: for ``run`` and ``water``."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openmm_se3.simulation.options import MAX_SEED, PRECISIONS, RunOptions
from openmm_se3.units import FS_TO_PS

if TYPE_CHECKING:
    from rich.console import Console

POSITIVE = click.FloatRange(min=0.0, min_open=True)
RECOMMENDED_DT_FS = 1.0

OPTIONS = (
    click.option(
        "--dt",
        "dt_fs",
        type=POSITIVE,
        default=RunOptions.dt_fs,
        show_default=True,
        help="Time step, fs.",
    ),
    click.option(
        "--temperature",
        type=POSITIVE,
        default=RunOptions.temperature,
        show_default=True,
        help="Temperature of the equilibration and of the thermostat, K.",
    ),
    click.option(
        "--equilibration",
        "equilibration_ps",
        type=click.FloatRange(min=0.0),
        default=RunOptions.equilibration_ps,
        show_default=True,
        help="Langevin dynamics before the production, ps.",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS, case_sensitive=False),
        default=RunOptions.precision,
        show_default=True,
        help="Floating-point precision of the model.",
    ),
    click.option(
        "--implementation",
        type=click.Choice(["auto", "compiled", "triton", "torchscript"]),
        default="auto",
        show_default=True,
        help="What computes the network: C++ compiled for this CPU, kernels of Triton "
        "for an NVIDIA GPU, or TorchScript.",
    ),
    click.option(
        "--platform",
        help="OpenMM platform.  [default: the best one present]",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=1, max=MAX_SEED),
        help="Seed of everything random.  [default: a new one, which is printed]",
    ),
    click.option(
        "--outside-domain",
        is_flag=True,
        help="Run molecules that the model's training data do not have.",
    ),
    click.option(
        "--reactive",
        is_flag=True,
        help="Bonds may break, as in a reaction that the model has learned.",
    ),
    click.option(
        "--committee/--no-committee",
        default=True,
        help="Of a committee run the mean of its members and record how far they "
        "deviate, or run the first.  [default: --committee]",
    ),
    click.option(
        "--stop-uncertainty",
        type=POSITIVE,
        help="Stop where the members of a committee deviate by more than this in the "
        "force on an atom, eV/A.  [default: only warn above the model's threshold]",
    ),
    click.option(
        "--overwrite", is_flag=True, help="Replace the results of an earlier run."
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with the run in the folder, after a stop or a kill.",
    ),
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as fields of ``ModelRunOptions``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def production_steps(length_ps: float, dt_fs: float) -> int:
    """Return the steps of a production, one at least.

    Raises:
        click.UsageError: A number is infinite.
    """
    steps = length_ps / (dt_fs * FS_TO_PS)
    if not math.isfinite(steps):
        raise click.UsageError("--length and --dt must be finite numbers")
    return max(1, round(steps))


@contextlib.contextmanager
def advised(options: RunOptions, console: Console) -> Iterator[None]:
    """Warn of a long time step before a run; after an interrupt say what is there."""
    from openmm_se3.simulation.folder import was_cut_short

    if options.dt_fs > RECOMMENDED_DT_FS:
        console.print(
            f"A step of {options.dt_fs:g} fs is long for O-H stretches, whose period "
            "is 8.5 fs; 0.5 fs is recommended.",
            style="yellow",
            soft_wrap=True,
        )
    try:
        yield
    except KeyboardInterrupt:
        lines = []
        if was_cut_short(options.out):
            analyze = shlex.join(["openmm-se3", "analyze", str(options.out)])
            lines = [f"Ended early; what there is: {analyze}"]
        if Path(options.out).exists():
            lines.append("To go on, give the same command with --resume.")
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        raise

"""``openmm-se3 bench MODEL``: how fast is a model on this machine?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.cli.shared.run_options import POSITIVE
from openmm_se3.files import atomic_write, require_new_file

WIDTH = 110  # of a table, in characters


@click.command(cls=renamed(engine="implementation"))
@click.argument("model")
@click.option(
    "--molecules",
    "-n",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 2, 8),
    show_default=True,
    help="Water molecules of a cluster; may be given several times.",
)
@click.option(
    "--structure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PDB or PDBx/mmCIF file to time instead of water; a box in it makes it "
    "periodic.",
)
@click.option(
    "--implementation",
    "implementations",
    multiple=True,
    type=click.Choice(["compiled", "triton", "torchscript"]),
    default=("compiled", "triton", "torchscript"),
    show_default=True,
    help="What computes the network.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["single", "double"]),
    default=("single",),
    show_default=True,
    help="Precision of the network.",
)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    help="OpenMM platform.  [default: all that are present]",
)
@click.option("--scale", help="Time also with a global parameter of this name.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Rounds of each configuration; they take turns.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=0.3,
    show_default=True,
    help="About how long a round lasts; at least one step.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of torch.  [default: 1 up to 60 atoms, else all]",
)
@click.option(
    "--dt",
    "dt_fs",
    type=POSITIVE,
    default=0.5,
    show_default=True,
    help="Time step that ns/day are given for, fs.",
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the result as JSON here.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that --out names.")
def command(out: Path | None, overwrite: bool, **options: Any) -> None:
    """Time the steps of MODEL with every backend, implementation and platform present.

    MODEL is the name of a shipped model or the path of a model.  A step is one of
    OpenMM's, all included; "no force" is what OpenMM needs alone.  The median round is
    printed, with the fastest, the slowest and the processor time, which on a busy
    machine is the better measure of what a step costs.
    """
    if out is not None:
        require_new_file(out, overwrite)

    from rich.console import Console

    from openmm_se3.benchmark import machine
    from openmm_se3.benchmark.bench import Settings, bench, table

    settings = Settings(**{**options, "platforms": options["platforms"] or None})
    console = Console(width=max(Console().width, WIDTH), markup=False)
    results = []

    def note(text: str) -> None:
        console.print(text, style="yellow", markup=False)

    if not console.is_terminal:  # where a status is not shown
        click.echo("timing; half a minute for each size", err=True)
    with console.status("timing"):
        for result in bench(settings, note):
            results.append(result)
            console.print(table(result))
    console.print(
        f"model {settings.model}, medians of {settings.rounds} rounds in turns, ns/day "
        f"for steps of {settings.dt_fs:g} fs; {machine.describe_line()}",
        highlight=False,
        markup=False,
    )
    if out is not None:
        values = {"model": settings.model, "dt_fs": settings.dt_fs}
        content = {**values, "machine": machine.describe(), "systems": results}
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        console.print(f"wrote {out}", markup=False, soft_wrap=True)

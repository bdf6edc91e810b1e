"""``openmm-se3 sample``: make structures to label."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from openmm_se3.cli.command_line import command_line
from openmm_se3.cli.old_names import renamed
from openmm_se3.files import atomic_write, require_new_file


@click.group()
def command() -> None:
    """Make structures to label with DFT."""


@command.command(cls=renamed(output="out"))
@click.option(
    "--molecules",
    "-n",
    type=click.IntRange(min=1),
    required=True,
    help="Water molecules per structure, 1 to 6.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=2026,
    show_default=True,
    help="Random seed.",
)
@click.option(
    "-o",
    "--out",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Extended XYZ file to write.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Worker processes.  [default: one per core]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.pass_context
def water(
    context: click.Context,
    molecules: int,
    seed: int,
    output: Path,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Make structures of water monomers or clusters.

    They come from GFN2-xTB molecular dynamics at several temperatures; for one molecule
    also from stretching and bending it, for two from approach curves.  Each carries its
    trajectory and its split: train, validation or test.
    """
    require_new_file(output, overwrite)

    from ase.io import write

    from openmm_se3.cli.progress_bar import progress_bar
    from openmm_se3.reference.executor import LocalExecutor
    from openmm_se3.reference.provenance import write_provenance
    from openmm_se3.reference.water_sampler import sample_water

    with progress_bar("Sampling") as progress:
        structures = sample_water(
            molecules, seed, LocalExecutor(workers), progress=progress
        )
    with atomic_write(output) as temporary:
        write(temporary, structures, format="extxyz")
    made_by = command_line(context, "sample water", ("workers", "overwrite"))
    write_provenance(output, made_by, seed)
    counts = Counter((a.info["kind"], a.info["split"]) for a in structures)
    click.echo(f"{len(structures)} structures: {output}")
    for (kind, split), count in sorted(counts.items()):
        click.echo(f"  {kind}, {split}: {count}")

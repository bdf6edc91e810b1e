"""``openmm-se3 sample``: make structures to label.

``sample water`` makes water; ``sample FILE`` makes structures of the molecules of a
file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.elements import numbers_of
from openmm_se3.files import atomic_write, require_new_file

NO_RESULT = ("workers", "overwrite")  # options that change nothing in the result
REJECTED_SHOWN = 20


class _ByFile(click.Group):
    """A group whose first argument is a verb of its own, or else a file."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take what is no verb as a file of molecules."""
        if args and self.get_command(ctx, args[0]) is None:
            return FILE, self.get_command(ctx, FILE), args
        return super().resolve_command(ctx, args)


FILE = "molecules"
OUTPUT_OPTIONS = (
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=2026,
        show_default=True,
        help="Random seed.",
    ),
    click.option(
        "-o",
        "--out",
        "output",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="Extended XYZ file to write.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Worker processes.  [default: one per core]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing output."),
)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that both commands have."""
    for option in reversed(OUTPUT_OPTIONS):
        command = option(command)
    return command


@click.group(cls=_ByFile)
def command() -> None:
    """Make structures to label: of water, or of the molecules of a file.

    "sample water" makes water.  "sample FILE" makes structures of the molecules of a
    SMILES, SDF, PDB or XYZ file; its options: "openmm-se3 sample molecules --help".
    """


@command.command(cls=renamed(output="out"))
@click.option(
    "--molecules",
    "-n",
    type=click.IntRange(min=1),
    required=True,
    help="Water molecules per structure, 1 to 6.",
)
@output_options
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

    from openmm_se3.data.labeling.executors import LocalExecutor
    from openmm_se3.data.labeling.water_sampler import sample_water
    from openmm_se3.progress import progress_bar

    with progress_bar("Sampling") as progress:
        structures = sample_water(
            molecules, seed, LocalExecutor(workers), progress=progress
        )
    with atomic_write(output) as temporary:
        write(temporary, structures, format="extxyz")
    counts = Counter((a.info["kind"], a.info["split"]) for a in structures)
    _report(output, counts, command_line(context, "sample water", NO_RESULT), seed)


@command.command(FILE)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--conformers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Most conformers of a molecule.",
)
@click.option(
    "--modes",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Normal modes displaced by thermal and zero-point motion, per molecule.",
)
@click.option(
    "--md",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Frames of Langevin dynamics per molecule.",
)
@click.option(
    "--torsions",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Turned rotatable bonds per molecule.",
)
@click.option(
    "--stretches",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Bonds stretched or compressed within zero-point motion, per molecule.",
)
@click.option(
    "--scans",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Bonds at 0.75 to 1.8 of their lengths, per molecule.",
)
@click.option(
    "--complexes",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Contacts with water or other molecules of the file, per molecule.",
)
@click.option(
    "--temperature",
    "temperatures",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Temperature of modes and dynamics, K; may be given several times.  "
    "[default: 200 to 1,000 K]",
)
@click.option(
    "--max-atoms",
    type=click.IntRange(min=1),
    help="Leave out larger molecules (hydrogens count).",
)
@click.option("--elements", help="Leave out molecules of others, such as H,C,N,O.")
@click.option("--neutral", is_flag=True, help="Leave out molecules with a charge.")
@click.option(
    "--exclude",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="List of molecules to leave out: SHA-256 of the first block of the InChIKey, "
    "one a line.",
)
@output_options
@click.pass_context
def molecules(
    context: click.Context,
    file: Path,
    conformers: int,
    modes: int,
    md: int,
    torsions: int,
    stretches: int,
    scans: int,
    complexes: int,
    temperatures: tuple[float, ...],
    max_atoms: int | None,
    elements: str | None,
    neutral: bool,
    exclude: Path | None,
    seed: int,
    output: Path,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Make structures of the molecules of a SMILES, SDF, PDB or XYZ file.

    Conformers, thermal distortions, turned and stretched bonds, and complexes.
    Protonation, tautomers and stereochemistry stay as given.  All structures of a
    molecule are in one split; entries that are left out are listed with the reason.
    """
    require_new_file(output, overwrite)
    chosen = None
    if elements is not None:
        chosen = frozenset(part.strip() for part in elements.split(","))
        numbers_of(chosen)

    from openmm_se3.data.labeling.executors import LocalExecutor
    from openmm_se3.data.labeling.molecule_sampler import Plan
    from openmm_se3.data.labeling.molecules import read_excluded, read_molecules
    from openmm_se3.data.labeling.sample_file import sample_to_file
    from openmm_se3.progress import progress_bar

    plan = Plan(
        conformers=conformers,
        modes=modes,
        dynamics=md,
        torsions=torsions,
        stretches=stretches,
        scans=scans,
        complexes=complexes,
        temperatures=temperatures or Plan().temperatures,
    )
    found, rejected = read_molecules(
        file,
        max_atoms=max_atoms,
        elements=chosen,
        neutral=neutral,
        excluded=frozenset() if exclude is None else read_excluded(exclude),
    )
    with progress_bar("Sampling") as progress:
        summary = sample_to_file(
            found, output, seed, LocalExecutor(workers), plan, progress
        )
    _report(output, summary.counts, command_line(context, "sample", NO_RESULT), seed)
    left_out = [(one.origin, one.reason) for one in rejected] + summary.failures
    sampled = len(found) - len(summary.failures)
    click.echo(f"{sampled} molecules sampled, {len(left_out)} left out")
    for origin, reason in left_out[:REJECTED_SHOWN]:
        click.echo(f"  {origin}: {reason}")
    if len(left_out) > REJECTED_SHOWN:
        click.echo(f"  and {len(left_out) - REJECTED_SHOWN} more")


def _report(
    output: Path, counts: Counter[tuple[str, str]], made_by: str, seed: int
) -> None:
    from openmm_se3.data.labeling.provenance import write_provenance

    write_provenance(output, made_by, seed)
    click.echo(f"{counts.total()} structures: {output}")
    for (kind, split), count in sorted(counts.items()):
        click.echo(f"  {kind}, {split}: {count}")

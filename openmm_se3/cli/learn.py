"""``openmm-se3 learn``: from a molecule to a validated force field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("molecule", required=False, metavar="[SMILES|FILE]")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the campaign.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Resume the campaign in this folder; --labels, --minutes and --workers may "
    "change.",
)
@click.option(
    "--from",
    "from_run",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="With --resume: also learn the frames of this simulation (folder of run) on "
    "which the networks deviate most.",
)
@click.option("--labels", type=int, help="Most labels.  [default: 300]")
@click.option("--minutes", type=float, help="Most minutes.  [default: no limit]")
@click.option(
    "--temperature",
    type=float,
    help="Temperature of the simulations to come, K; up to twice as much is learned "
    "and tested.  [default: 300]",
)
@click.option(
    "--level",
    help="Level of theory of DFT, METHOD/BASIS as PySCF names them, or ani or spice.  "
    "[default: wb97x/6-31g*]",
)
@click.option(
    "--reference",
    help="Label with a fast potential instead of DFT: aimnet2, gfn2, model:NAME, "
    "torchscript:FILE, ase:MODULE:NAME.",
)
@click.option(
    "--start",
    help="What the first networks start from: scratch, a model, or a fast potential "
    "to pretrain on.  [default: organic, or aimnet2, if they know the elements; "
    "scratch with --reference]",
)
@click.option(
    "--keep",
    type=float,
    help="Pull the weights back to those of the start, so that it forgets less; 10 is "
    "much.  [default: 0]",
)
@click.option(
    "--with-water", is_flag=True, help="Also learn complexes with one water molecule."
)
@click.option(
    "--charge", type=int, help="Total charge of a PDB or XYZ file.  [default: 0]"
)
@click.option(
    "--bias",
    multiple=True,
    metavar="VARIABLE",
    help="Learn a reaction: explore it with metadynamics along this collective "
    "variable, such as distance:O1-H5, difference:O1-H9,O2-H9, sum:A-B,C-D, "
    "angle:A-B-C, dihedral:A-B-C-D; or FILE.py, a Python file, which is executed.  "
    "Twice for two variables.  MOLECULE is a file with reactant and product.",
)
@click.option("--members", type=int, help="Networks of the committee.  [default: 4]")
@click.option(
    "--target",
    type=float,
    help="Wanted force error at the temperature, kcal/mol/A.  [default: 0.4]",
)
@click.option("--steps", type=int, help="Training steps of the first round.")
@click.option("--explore-steps", type=int, help="MD steps of a round, 0.5 fs each.")
@click.option(
    "--checks/--no-checks",
    default=None,
    help="Compare torsion scans and frequencies with the reference.  [default: checks]",
)
@click.option("--seed", type=int, help="Seed of everything random.  [default: 0]")
@click.option("--workers", type=int, help="Worker processes.  [default: one per core]")
@click.pass_context
def command(
    context: click.Context,
    /,
    molecule: str | None,
    out: Path | None,
    resume: Path | None,
    from_run: Path | None,
    with_water: bool,
    bias: tuple[str, ...],
    **options: Any,
) -> None:
    """Learn a force field for a molecule and say how far it can be trusted.

    MOLECULE is a SMILES string or a file (.smi, .sdf, .mol, .pdb, .xyz).  Networks are
    trained on labels of DFT, run dynamics, and are tested and trained on frames of
    these, until they are accurate or the budget is used up.  The folder then holds the
    model and report.html.
    """
    from openmm_se3.active_learning import learn
    from openmm_se3.cli.shared.recorded_command import command_line

    given: dict[str, Any] = {
        key: value for key, value in options.items() if value is not None
    }
    if with_water:
        given["with_water"] = True
    if bias:
        given["bias"] = bias
    if (resume is None) == (out is None):
        raise click.UsageError("give --out FOLDER, or --resume FOLDER")
    folder = resume or out
    try:
        verdict = learn(
            molecule,
            folder,
            resume=resume is not None,
            from_run=from_run,
            command=command_line(context, "learn", ("workers",)),
            **given,
        )
    except KeyboardInterrupt:
        click.echo(f"openmm-se3 learn --resume {folder} continues", err=True)
        raise
    click.echo(verdict.headline)
    context.exit(0 if verdict.trusted else 1)

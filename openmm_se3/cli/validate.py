"""``openmm-se3 validate MODEL``: is a model computed right, and how accurate is it?"""

from __future__ import annotations

from pathlib import Path

import click

from openmm_se3.cli.shared.recorded_command import command_line
from openmm_se3.files import require_new_file


@click.command()
@click.argument("model")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the result as JSON here.",
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the result as a page for a browser here.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace files that --out and --report name."
)
@click.option(
    "--structure",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Structure for dynamics (any file that ASE reads); by default "
    "molecules of the model's reference structure.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Steps of the comparison with the Verlet reference.",
)
@click.option(
    "--drift-ps",
    type=click.FloatRange(min=0.0),
    default=5.0,
    show_default=True,
    help="Length of each NVE run for the energy drift, at least 0.5 ps; 0 leaves it "
    "out.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="File of labels: errors on its frames that the model has not seen.",
)
@click.option(
    "--max-force-error",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Largest mean absolute force error on the labels that passes, kcal/mol/A.  "
    "[default: that of a model without forces]",
)
@click.option(
    "--relabel",
    type=click.IntRange(min=0),
    default=0,
    help="Compute DFT at the level of the model's labels for so many frames of its own "
    "dynamics, and for frequencies and torsions of a molecule.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Random seed.")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    structure: Path | None,
    steps: int,
    drift_ps: float,
    labels: tuple[Path, ...],
    max_force_error: float | None,
    relabel: int,
    seed: int,
) -> None:
    """Check that MODEL is computed right, and with --labels how accurate it is.

    Without labels the checks are of the code against the network's equations: symmetry,
    forces, Verlet dynamics, drift, backends, precisions.  A bad model passes them.
    --labels measures errors on held-out frames, --relabel computes DFT for that.

    MODEL is the name of a shipped model or the path of a model.  Exit code 0 if every
    check passed, 1 if one failed, 2 if the model cannot be checked.
    """
    for path in (out, page):
        if path is not None:
            require_new_file(path, overwrite)

    from rich.console import Console

    from openmm_se3.validation.validate import Settings, validate

    console = Console(markup=False)
    if max_force_error is not None and not labels:
        raise click.UsageError("--max-force-error needs --labels")
    settings = Settings(
        structure,
        steps,
        drift_ps,
        seed,
        labels=labels,
        max_force_error=max_force_error,
        relabel=relabel,
    )
    with console.status("loading the model") as status:

        def show(stage: str) -> None:
            status.update(stage)
            if not console.is_terminal:  # where a status is not shown
                click.echo(f"checking: {stage}", err=True)

        report = validate(model, settings, show)
    report.print(console)
    if out is not None:
        report.write(out)
        console.print(f"wrote {out}", markup=False, soft_wrap=True)
    if page is not None:
        from openmm_se3.validation.page import write_page

        repeated = command_line(context, "validate", ("overwrite",))
        write_page(report, page, repeated)
        console.print(f"wrote {page}", markup=False, soft_wrap=True)
    context.exit(0 if report.passed else 1)

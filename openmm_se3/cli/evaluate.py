"""``openmm-se3 evaluate MODEL DATA``: errors of a model on labeled frames."""

from __future__ import annotations

from pathlib import Path

import click

from openmm_se3.cli.shared.source_options import make_sources, source_options

# kcal/mol per atom: no model that has learned anything is so wrong.
OTHER_ZERO = 100.0


@click.command()
@click.argument("model")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@source_options
@click.option(
    "--split",
    type=click.Choice(["all", "train", "validation", "test"]),
    default="all",
    show_default=True,
    help="Which frames, as the files say, or as the model's training divided them.",
)
@click.option(
    "--precision",
    type=click.Choice(["single", "double"]),
    default="single",
    show_default=True,
)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write errors.json, report.md and parity.png into this folder.",
)
def command(
    model: str,
    files: tuple[Path, ...],
    split: str,
    precision: str,
    out: Path | None,
    **options: str,
) -> None:
    """Print the errors of MODEL on the labels in FILES.

    MODEL is the name of a shipped model or the path of a model.  Energies are compared
    as total energies, with the model's own energies of isolated atoms: where the labels
    are of another level of theory, look at the column "centered".
    """
    import torch

    from openmm_se3.data.level_of_theory import level_name
    from openmm_se3.data.load import read_sources
    from openmm_se3.model_file import load_model
    from openmm_se3.training.evaluation import (
        evaluate_model,
        read_as_trained,
        write_evaluation,
    )
    from openmm_se3.training.report import error_report

    loaded = load_model(model)
    sources = make_sources(files, **options)
    if split == "all":
        dataset = read_sources(sources, for_model=True)
        frames = dataset.frames
    else:
        dataset = read_as_trained(loaded, sources)
        frames = dataset.select(split)
        if not len(frames):
            raise ValueError(
                f"{', '.join(map(str, files))} hold no frames of the split {split!r}; "
                "--split all takes all frames, if the model was not trained on them"
            )
    for note in dataset.notes:
        click.echo(note)
    dtype = torch.float64 if precision == "double" else torch.float32
    evaluation = evaluate_model(loaded, frames, dtype)
    click.echo(error_report({split: evaluation.errors}))
    level = level_name(loaded.metadata["level_of_theory"])
    click.echo(f"model {loaded.metadata['name']} of {level}, labels of {dataset.level}")
    mean = evaluation.errors["all"].get("energy_mae_per_atom", 0.0)
    if mean > OTHER_ZERO:
        click.echo(
            f"Energies differ by {mean:.3g} kcal/mol per atom: the labels have another "
            "zero than the model, because of another program, level of theory or unit. "
            'Look at "centered" and at the forces.'
        )
    if out is not None:
        write_evaluation(out, split, evaluation)
        click.echo(f"wrote {out}")

"""``openmm-se3 export``: checkpoints to a model, model to one topology's file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openmm_se3.cli.shared.old_names import renamed
from openmm_se3.elements import chemical_symbol
from openmm_se3.files import require_new_file

if TYPE_CHECKING:
    import numpy as np


@click.command(cls=renamed(licence="license"))
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    required=True,
    help="Model folder to write, or with --topology the .pt file.",
)
@click.option(
    "--topology",
    type=click.Path(path_type=Path),
    help="PDB file: bake its atoms into a file that a bare TorchForce runs.",
)
@click.option(
    "--precision",
    type=click.Choice(["single", "double"]),
    default="single",
    show_default=True,
    help="Precision of the network in a file for one topology.",
)
@click.option(
    "--license",
    help="License of the weights.  [default: MIT; that of the models in a committee]",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="PDB or PDBx/mmCIF file of the free molecules, near a minimum, that the model "
    "keeps for its checks; by default the training frame of lowest energy.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Of a committee: deviation of the force on an atom above which frames are not "
    "trusted, eV/A.  [default: measured on the frames that all runs held out]",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def command(
    sources: tuple[str, ...],
    out: Path,
    topology: Path | None,
    precision: str,
    license: str | None,
    reference: Path | None,
    threshold: float | None,
    overwrite: bool,
) -> None:
    """Turn SOURCES into files for MD.

    A source is a training checkpoint (best.pt of a run) or its folder.  Two to eight of
    them become one model, a committee, which gives their mean and its uncertainty; they
    can also be models: a shipped model's name, a model folder or a model.pt.  With
    --topology give one source of either kind.
    """
    from openmm_se3.description import DESCRIPTION
    from openmm_se3.export import (
        checkpoint_of,
        export_model,
        export_topology,
        read_member,
        write_committee,
    )
    from openmm_se3.shipped import shipped_models
    from openmm_se3.training.checkpoint import BEST, load_checkpoint

    if len(sources) > 1 and topology is not None:
        raise click.UsageError("--topology takes one SOURCE: export a committee first")
    if len(sources) == 1 and threshold is not None:
        raise click.UsageError("--threshold is for several SOURCES, a committee")
    source, path = sources[0], Path(sources[0])
    if topology is None:
        structure = None if reference is None else _structure(reference)
        if len(sources) > 1:
            model = write_committee(
                sources,
                out,
                license=license,
                reference=structure,
                threshold=threshold,
                overwrite=overwrite,
                progress=_show,
            )
            own = "the mean of its members"
        else:
            checkpoint = checkpoint_of(source)
            if checkpoint is None and (path.exists() or source in shipped_models()):
                if path.is_dir() and not (path / DESCRIPTION).exists():
                    raise ValueError(
                        f"{source} is neither a training run, which has a {BEST}, nor "
                        f"a model, which has a {DESCRIPTION}"
                    )
                raise ValueError(
                    f"{source} is a model already; to make a file for one topology of "
                    "it, give --topology FILE.pdb"
                )
            model = export_model(
                load_checkpoint(checkpoint or path),
                out,
                license=license or "MIT",
                reference=structure,
                overwrite=overwrite,
                progress=_show,
            )
            own = "its checkpoint"
        click.echo(f"{out}: model '{model.metadata['name']}', equal to {own}")
        if model.n_members > 1:
            _show_threshold(model.n_members, model.metadata)
        command = shlex.join(["openmm-se3", "validate", str(out)])
        click.echo(f"To use it: SE3Potential({json.dumps(str(out))}), or {command}")
        return
    require_new_file(out, overwrite)
    model = read_member(source)
    _show(f"writing and comparing the network for {topology}")
    export_topology(model, topology, out, precision)
    click.echo(f"{out}: for {topology}; to use it:")
    click.echo("  import torch  # before openmm")
    click.echo("  from openmmtorch import TorchForce")
    click.echo(f"  force = TorchForce({json.dumps(str(out))})")
    click.echo("It returns energy and forces: call force.setOutputsForces(True).")


def _show_threshold(n_members: int, metadata: dict[str, Any]) -> None:
    threshold = metadata.get("uncertainty_threshold")
    known = f"{threshold:.3g} eV/A" if threshold else "none; --threshold gives one"
    click.echo(f"{n_members} members, threshold of their deviation: {known}")


def _show(stage: str) -> None:
    click.echo(f"export: {stage}", err=True)


def _structure(path: Path) -> tuple[list[str], np.ndarray]:
    """Return symbols and positions, A, of a structure file without a box."""
    from openmm_se3.simulation import read_structure

    topology, positions = read_structure(path)
    if topology.getPeriodicBoxVectors() is not None:
        raise ValueError(f"--reference {path} has a box: give free molecules")
    return [chemical_symbol(atom.element) for atom in topology.atoms()], positions

"""``openmm-se3 export``: checkpoint to model, model to one topology's file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openmm_se3.elements import chemical_symbol
from openmm_se3.files import require_new_file

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("source")
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
    "--licence", default="MIT", show_default=True, help="Licence of the weights."
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="PDB or PDBx/mmCIF file of the free molecules, near a minimum, that the model "
    "keeps for its checks; by default the training frame of lowest energy.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def command(
    source: str,
    out: Path,
    topology: Path | None,
    precision: str,
    licence: str,
    reference: Path | None,
    overwrite: bool,
) -> None:
    """Turn SOURCE into files for MD.

    SOURCE is a training checkpoint (best.pt of a run) or its folder; with --topology it
    can also be a model: a shipped model's name, a model folder or a model.pt.
    """
    from openmm_se3.export import export_model, export_topology, model_of_checkpoint
    from openmm_se3.model_file import DESCRIPTION, SCRIPT, load_model
    from openmm_se3.shipped import shipped_models
    from openmm_se3.training.checkpoint import BEST, load_checkpoint

    path = Path(source)
    checkpoint = path / BEST if (path / BEST).is_file() else path
    is_checkpoint = checkpoint.is_file() and checkpoint.name != SCRIPT
    if topology is None:
        named = source in shipped_models() and not path.exists()
        if named or (path / DESCRIPTION).is_file() or path.name == SCRIPT:
            raise ValueError(
                f"{source} is a model already; to make a file for one topology of it, "
                "give --topology FILE.pdb"
            )
        model = export_model(
            load_checkpoint(checkpoint),
            out,
            licence=licence,
            reference=None if reference is None else _structure(reference),
            overwrite=overwrite,
            progress=_show,
        )
        click.echo(f"{out}: model '{model.metadata['name']}', equal to its checkpoint")
        command = shlex.join(["openmm-se3", "validate", str(out)])
        click.echo(f"To use it: SE3Potential({json.dumps(str(out))}), or {command}")
        return
    require_new_file(out, overwrite)
    if is_checkpoint:
        model = model_of_checkpoint(load_checkpoint(checkpoint), path.stem, licence)
    else:
        model = load_model(source)
    _show(f"writing and comparing the network for {topology}")
    export_topology(model, topology, out, precision)
    click.echo(f"{out}: for {topology}; to use it:")
    click.echo("  import torch  # before openmm")
    click.echo("  from openmmtorch import TorchForce")
    click.echo(f"  force = TorchForce({json.dumps(str(out))})")
    click.echo("It returns energy and forces: call force.setOutputsForces(True).")


def _show(stage: str) -> None:
    click.echo(f"export: {stage}", err=True)


def _structure(path: Path) -> tuple[list[str], np.ndarray]:
    """Return symbols and positions, A, of a structure file without a box."""
    from openmm_se3.simulation import read_structure

    topology, positions = read_structure(path)
    if topology.getPeriodicBoxVectors() is not None:
        raise ValueError(f"--reference {path} has a box: give free molecules")
    return [chemical_symbol(atom.element) for atom in topology.atoms()], positions

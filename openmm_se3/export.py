"""From training checkpoints to a model folder, or to one topology's TorchScript."""

from __future__ import annotations

import dataclasses
import io
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmm_se3._moved import renamed_argument
from openmm_se3.committee import committee_of
from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.data.frames import Frames
from openmm_se3.description import DESCRIPTION
from openmm_se3.elements import chemical_symbol
from openmm_se3.files import atomic_write, sha256
from openmm_se3.model_file import (
    SCRIPT,
    WEIGHTS,
    ModelFile,
    contents,
    describe,
    load_model,
    write_model,
)
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.shipped import CHECKSUMS
from openmm_se3.structure_text import read_text, refuse_unread
from openmm_se3.torch_state import scripted, usual_torch
from openmm_se3.torchscript.build import ForceSettings, build_module, eager_force
from openmm_se3.torchscript.modules import GenericForce
from openmm_se3.torchscript.self_check import random_positions, require_equal
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint
from openmm_se3.training.uncertainty_threshold import (
    uncertainty_threshold,
    validation_frames,
)
from openmm_se3.version import __version__

CHECKED_SIZES = (1, 2, 3, 6, 24)


@renamed_argument("licence", "license")
def model_of_checkpoint(
    checkpoint: dict[str, Any],
    name: str,
    license: str,
    reference: tuple[list[str], np.ndarray] | None = None,
) -> ModelFile:
    """Return the model of a training checkpoint: its averaged weights.

    Args:
        checkpoint: Content of a checkpoint.
        name: Name of the model.
        license: License under which weights may be used, as an SPDX identifier.
        reference: Symbols and positions [n_atoms, 3], A, of the structure that the
            model keeps for its checks; None takes that of the checkpoint.
    """
    config = from_dict(ModelConfig, checkpoint["model"], "model")
    if reference is None:
        kept = checkpoint["reference"]
        reference = kept["symbols"], np.array(kept["positions"])
    versions = {
        **checkpoint["versions"],
        "openmm-se3": __version__,
        "python": platform.python_version(),
    }
    known = {"domain": checkpoint["domain"]} if "domain" in checkpoint else {}
    if "self_energies" in checkpoint["choices"]:
        known["self_energies_choice"] = checkpoint["choices"]["self_energies"]
    return describe(
        config,
        checkpoint["average"],
        reference,
        name=name,
        level_of_theory=checkpoint["level_of_theory"],
        self_energies=checkpoint["self_energies"],
        training_data={**checkpoint["data"], "split": checkpoint["choices"]["split"]},
        training=_without_places(checkpoint["training"]),
        steps=checkpoint["step"],
        errors=checkpoint.get("errors"),
        license=license,
        versions=versions,
        **known,
    )


def _without_places(training: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which initial weights are named without their folder."""
    start = training.get("initial")
    if start is None:
        return training
    # A run and its checkpoint, or the name of a model.
    return {**training, "initial": "/".join(Path(start).parts[-2:])}


@renamed_argument("licence", "license")
@usual_torch()
def export_model(
    checkpoint: dict[str, Any],
    folder: Path,
    *,
    license: str = "MIT",
    reference: tuple[list[str], np.ndarray] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> ModelFile:
    """Write a model folder from a training checkpoint.

    The TorchScript file is compared with the network for several numbers of atoms, over
    twenty calls each, before anything is written.

    Args:
        checkpoint: Content of a checkpoint.
        folder: Folder to write; its name is the model's name.
        license: License of the weights.
        reference: Structure that the model keeps for its checks; see
            :func:`model_of_checkpoint`.
        overwrite: Replace a model that is there.
        progress: Called with what comes next.

    Raises:
        FileExistsError: The folder holds a model and ``overwrite`` is not given.
        ExportError: The TorchScript module does not reproduce the network.
    """
    _refuse_model(folder, overwrite)
    model = model_of_checkpoint(checkpoint, folder.resolve().name, license, reference)
    _write(model, folder, progress)
    return model


@renamed_argument("licence", "license")
@usual_torch()
def write_committee(
    members: Sequence[str | Path | ModelFile],
    folder: str | Path,
    *,
    license: str | None = None,
    reference: tuple[list[str], np.ndarray] | None = None,
    validation: Frames | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> ModelFile:
    """Write a committee of 2 to 8 models of one shape as one model folder.

    Args:
        members: Folders of training runs, checkpoints, model folders, files
            ``model.pt``, names of shipped models, or models.
        folder: Folder to write; its name is the committee's name.
        license: License of the weights; None keeps those of the members, and is MIT for
            those of training runs.
        reference: Symbols and positions [n_atoms, 3], A, of the structure that the
            committee keeps for its checks; None takes that of the first member.
        validation: Frames that no member was trained on, for the threshold; None takes
            those that all runs held out, where all members are runs and their data
            files are still there.
        threshold: Deviation of the force on an atom above which frames are not trusted,
            eV/A.  None measures it, see
            :mod:`openmm_se3.training.uncertainty_threshold`; where there are no frames
            for that, the description has none.
        overwrite: Replace a model that is there.
        progress: Called with what comes next.

    Raises:
        FileExistsError: The folder holds a model and ``overwrite`` is not given.
        FileNotFoundError: There is no such run or model.
        ValueError: The members do not belong together, or are too few or too many.
        ExportError: The TorchScript module does not reproduce the network.
    """
    folder = Path(folder)
    _refuse_model(folder, overwrite)
    models = [m if isinstance(m, ModelFile) else read_member(m) for m in members]
    known: dict[str, Any] = {} if license is None else {"license": license}
    progress("checking that the members belong together")
    model = committee_of(models, folder.resolve().name, reference, **known)
    if threshold is None:
        if validation is None:
            found = [checkpoint_of(m) for m in members if not isinstance(m, ModelFile)]
            runs = [checkpoint.parent for checkpoint in found if checkpoint is not None]
            if len(runs) == len(members):
                validation = validation_frames(runs)
        if validation is not None:
            progress(f"measuring deviations on {len(validation)} held-out frames")
            threshold = uncertainty_threshold(model, validation)
    if threshold is not None:
        metadata = {**model.metadata, "uncertainty_threshold": threshold}
        model = dataclasses.replace(model, metadata=metadata)
    _write(model, folder, progress)
    return model


def read_member(path: str | Path) -> ModelFile:
    """Return the model of a training run, a checkpoint or a model.

    Args:
        path: Folder of a run, a checkpoint, a model folder, a ``model.pt``, or the name
            of a shipped model.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    checkpoint = checkpoint_of(path)
    if checkpoint is None:
        return load_model(path)
    name = checkpoint.resolve().parent.name
    return model_of_checkpoint(load_checkpoint(checkpoint), name, "MIT")


def checkpoint_of(path: str | Path) -> Path | None:
    """Return the checkpoint that a path names, or None where it names a model."""
    path = Path(path)
    if (path / DESCRIPTION).is_file() or path.name == SCRIPT:
        return None
    if (path / BEST).is_file():
        return path / BEST
    return path if path.is_file() else None


def _refuse_model(folder: Path, overwrite: bool) -> None:
    if (folder / DESCRIPTION).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a model; --overwrite replaces it")
    if any((folder / name).exists() for name in (BEST, LAST)):
        raise FileExistsError(
            f"{folder} is the folder of a training run; write the model to another one"
        )


def _write(model: ModelFile, folder: Path, progress: Callable[[str], None]) -> None:
    """Write a model's folder, once its TorchScript is equal to its network."""
    script = generic_script(model, progress)
    progress(f"writing {folder}")
    write_model(folder, model, script)
    with atomic_write(folder / CHECKSUMS) as temporary:
        lines = [
            f"{sha256(folder / name)}  {name}\n"
            for name in (DESCRIPTION, WEIGHTS, SCRIPT)
        ]
        temporary.write_text("".join(lines))


def generic_script(
    model: ModelFile, progress: Callable[[str], None] = lambda stage: None
) -> torch.jit.ScriptModule:
    """Return the module for any number of atoms, compared with the network.

    Args:
        model: The model.
        progress: Called with what comes next.

    Raises:
        ExportError: It does not reproduce the network.
    """
    network = model.network(torch.float32)
    progress("writing the network as TorchScript")
    script = scripted(GenericForce(network))
    nothing = torch.zeros(0, dtype=torch.int64)
    for n_atoms in CHECKED_SIZES:
        for periodic in (False, True):
            where = "in a box" if periodic else "in vacuum"
            progress(f"comparing it with the network, {n_atoms} atoms {where}")
            _check_generic(script, network, model, n_atoms, periodic)
    script.set_atoms(nothing, nothing, 0.0)
    return script


def _check_generic(
    script: torch.jit.ScriptModule,
    network: SE3Transformer,
    model: ModelFile,
    n_atoms: int,
    periodic: bool,
) -> None:
    species = torch.arange(n_atoms) % len(model.config.elements)
    atoms = torch.arange(n_atoms)
    script.set_atoms(species, atoms, 0.0)
    settings = ForceSettings(
        model,
        "single",
        tuple(species.tolist()),
        tuple(atoms.tolist()),
        n_atoms,
        periodic,
        0.0,
    )
    eager = eager_force(network, settings)
    # A triclinic box smaller than two cutoffs: several images of each neighbor count.
    box = torch.tensor([[0.9, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.3, 1.1]]).double()

    def call(module: Any) -> Any:
        def of_positions(positions: Tensor) -> tuple[Tensor, Tensor]:
            return module(positions, box) if periodic else module(positions)

        return of_positions

    positions = random_positions(n_atoms, model.config.cutoff)
    require_equal(call(script), call(eager), positions, "single")


@usual_torch()
def export_topology(
    model: ModelFile, topology_file: Path, output: Path, precision: str = "single"
) -> None:
    """Write the TorchScript of one topology, which a bare ``TorchForce(file)`` runs.

    Args:
        model: The model.
        topology_file: PDB file; every atom is one of the model's, without a box.
        output: File to write.
        precision: "single" or "double".

    Raises:
        FileNotFoundError: There is no topology file.
        ValueError: The topology holds unknown elements, has a box or cannot be read
            whole.
        ExportError: The module does not reproduce the network.
    """
    from openmm import app

    if not topology_file.is_file():
        raise FileNotFoundError(f"no topology file {topology_file}")
    text = read_text(topology_file)
    try:
        topology = app.PDBFile(io.StringIO(text)).topology
    except Exception as error:  # OpenMM's reader raises whatever it stumbles over
        raise ValueError(
            f"{topology_file} is not a PDB file, to which the topology must be "
            f"converted first ({error})"
        ) from error
    if topology.getPeriodicBoxVectors() is not None:
        raise ValueError(
            f"{topology_file} has a box (CRYST1): a file for a bare TorchForce is for "
            "free molecules; use SE3Potential.createSystem for periodic systems"
        )
    atoms = list(topology.atoms())
    if not atoms:
        raise ValueError(
            f"{topology_file} holds no atoms: give a PDB file with ATOM or HETATM "
            "records"
        )
    refuse_unread(topology_file, text, len(atoms))
    symbols = [chemical_symbol(atom.element) if atom.element else "?" for atom in atoms]
    unknown = sorted(set(symbols) - set(model.config.elements))
    if unknown:
        first = next(a for a, s in zip(atoms, symbols, strict=True) if s in unknown)
        raise ValueError(
            f"{topology_file} holds {unknown}; the model knows "
            f"{list(model.config.elements)}; the first such atom is {first.name} of "
            f"{first.residue.name} {first.residue.id}, serial number {first.id}"
        )
    n_atoms = len(symbols)
    settings = ForceSettings(
        model=model,
        precision=precision,
        species=tuple(model.config.elements.index(s) for s in symbols),
        atoms=tuple(range(n_atoms)),
        n_particles=n_atoms,
        periodic=False,
        offset=0.0,
        implementation="torchscript",  # the file is to run anywhere
    )
    module = build_module(settings)
    with atomic_write(output) as temporary:
        torch.jit.save(module, temporary, _extra_files=contents(model))

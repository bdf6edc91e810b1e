"""From a training checkpoint to a model folder, or to one topology's TorchScript."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.elements import chemical_symbol
from openmm_se3.files import atomic_write, sha256
from openmm_se3.model_file import (
    DESCRIPTION,
    SCRIPT,
    WEIGHTS,
    ModelFile,
    contents,
    describe,
    write_model,
)
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.shipped import CHECKSUMS
from openmm_se3.structure_text import read_text, refuse_unread
from openmm_se3.torch_state import scripted, usual_torch
from openmm_se3.torchscript.build import ForceSettings, build_module, eager_force
from openmm_se3.torchscript.modules import GenericForce
from openmm_se3.torchscript.self_check import random_positions, require_equal
from openmm_se3.version import __version__

CHECKED_SIZES = (1, 2, 3, 6, 24)


def model_of_checkpoint(
    checkpoint: dict[str, Any],
    name: str,
    licence: str,
    reference: tuple[list[str], np.ndarray] | None = None,
) -> ModelFile:
    """Return the model of a training checkpoint: its averaged weights.

    Args:
        checkpoint: Content of a checkpoint.
        name: Name of the model.
        licence: Licence under which weights may be used, as an SPDX identifier.
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
    return describe(
        config,
        checkpoint["average"],
        reference,
        name=name,
        level_of_theory=checkpoint["level_of_theory"],
        self_energies=checkpoint["self_energies"],
        training_data={**checkpoint["data"], "split": checkpoint["choices"]["split"]},
        training=checkpoint["training"],
        steps=checkpoint["step"],
        errors=checkpoint.get("errors"),
        licence=licence,
        versions=versions,
        **known,
    )


@usual_torch()
def export_model(
    checkpoint: dict[str, Any],
    folder: Path,
    *,
    licence: str = "MIT",
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
        licence: Licence of the weights.
        reference: Structure that the model keeps for its checks; see
            :func:`model_of_checkpoint`.
        overwrite: Replace a model that is there.
        progress: Called with what comes next.

    Raises:
        FileExistsError: The folder holds a model and ``overwrite`` is not given.
        ExportError: The TorchScript module does not reproduce the network.
    """
    if (folder / DESCRIPTION).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a model; --overwrite replaces it")
    model = model_of_checkpoint(checkpoint, folder.resolve().name, licence, reference)
    script = generic_script(model, progress)
    progress(f"writing {folder}")
    write_model(folder, model, script)
    with atomic_write(folder / CHECKSUMS) as temporary:
        lines = [
            f"{sha256(folder / name)}  {name}\n"
            for name in (DESCRIPTION, WEIGHTS, SCRIPT)
        ]
        temporary.write_text("".join(lines))
    return model


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
        engine="torchscript",  # the file is to run anywhere
    )
    module = build_module(settings)
    with atomic_write(output) as temporary:
        torch.jit.save(module, temporary, _extra_files=contents(model))

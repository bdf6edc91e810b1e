"""Model files: weights and a description that needs no other source.

A model is a folder with

    weights.safetensors   the parameters, the source of truth
    config.json           the description
    model.pt              TorchScript made from these two, with both of them inside

For the description see :mod:`openmm_se3.description`.

Reading never runs code from a file: tensors come from safetensors and the network is
built by this package, also where a ``model.pt`` is given.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from openmm_se3.config import ModelConfig, to_dict
from openmm_se3.description import (
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    REQUIRED,
    UNITS,
    ModelFileError,
    parse_description,
)
from openmm_se3.deviation import Deviation
from openmm_se3.domain import Domain, domain_from_dict
from openmm_se3.elements import ATOMIC_NUMBERS
from openmm_se3.files import atomic_write
from openmm_se3.nn.committee import Committee, members_of
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.shipped import damaged_files, shipped_models
from openmm_se3.single_point import evaluate
from openmm_se3.torch_state import usual_torch

MEMBER = "member"  # before the number of a member in the names of its weights
# Fields that describe a committee and not a member, or are made when it is written.
OF_COMMITTEES = {
    *("format", "format_version", "units", "model", "weights_sha256", "reference"),
    *("members", "member_descriptions", "uncertainty_threshold"),
}
WEIGHTS, SCRIPT = "weights.safetensors", "model.pt"
CHECKPOINTS = ("best.pt", "last.pt")  # of a training run
MAX_FILE_BYTES = 1 << 30  # what is read from an archive without further question
PRECISIONS = {"single": torch.float32, "double": torch.float64}  # of a network
# Rounding between machines and versions; a wrong weight or equation is far outside.
REFERENCE_TOLERANCE = 1e-4  # eV and eV/A


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model as read from its files.

    Attributes:
        config: Shape of the network.
        metadata: The description (see the module).
        weights: Parameters by name, as stored.
    """

    config: ModelConfig
    metadata: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def __repr__(self) -> str:
        """Say which model this is; its weights would fill screens."""
        weights = sum(value.numel() for value in self.weights.values())
        members = f"{self.n_members} members, " if self.n_members > 1 else ""
        return (
            f"ModelFile({self.metadata.get('name')!r}, {members}elements "
            f"{', '.join(self.config.elements)}, cutoff {self.config.cutoff:g} A, "
            f"{weights:,} weights)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the bytes of the files, which are checked when they are opened."""
        return _unpickled, tuple(contents(self).values())

    @property
    def n_members(self) -> int:
        """Members of a committee; 1 of any other model."""
        return int(self.metadata.get("members", 1))

    @property
    def boxes_only(self) -> bool:
        """Whether all frames that the model was trained on were periodic."""
        data = self.metadata.get("training_data", {})
        return bool(data.get("surroundings") == "periodic")

    @property
    def domain(self) -> Domain | None:
        """What the model was trained on by composition; None where it is not known."""
        domain = self.metadata.get("domain")
        return None if domain is None else domain_from_dict(domain)

    @usual_torch()
    def network(self, dtype: torch.dtype = torch.float32) -> SE3Transformer:
        """Return the network, or the mean of a committee's, in evaluation mode.

        Args:
            dtype: ``torch.float32`` or ``torch.float64``.

        Raises:
            ModelFileError: Weights and config do not belong together.
        """
        members = []
        for weights in self.member_weights():
            network = SE3Transformer(self.config)
            try:
                network.load_state_dict(weights, strict=True)
            except RuntimeError as error:
                raise ModelFileError(f"weights and config disagree: {error}") from error
            for parameter in network.parameters():
                parameter.requires_grad_(False)
            members.append(network.to(dtype).eval())
        return Committee(members).eval() if len(members) > 1 else members[0]

    def member_weights(self) -> list[dict[str, torch.Tensor]]:
        """Return the weights of each member by their names in the network.

        Raises:
            ModelFileError: Weights are of no member.
        """
        if self.n_members == 1:
            return [self.weights]
        members: list[dict[str, torch.Tensor]] = [{} for _ in range(self.n_members)]
        for key, tensor in self.weights.items():
            start, _, rest = key.partition(".")
            number, _, name = rest.partition(".")
            if start != MEMBER or number not in map(str, range(self.n_members)):
                raise ModelFileError(
                    f"weight {key!r} is of none of the {self.n_members} members"
                )
            members[int(number)][name] = tensor
        return members

    def member(self, number: int) -> ModelFile:
        """Return one member of a committee, from 0, as a model of its own."""
        kept = {k: v for k, v in self.metadata.items() if k not in OF_COMMITTEES}
        own = self.metadata["member_descriptions"][number]
        reference = self.metadata["reference"]
        return describe(
            self.config,
            self.member_weights()[number],
            (reference["symbols"], np.array(reference["positions"])),
            **{**kept, **own},
        )

    @property
    def self_energies(self) -> dict[int, float]:
        """Energies of isolated atoms, eV, by atomic number."""
        energies: dict[str, float] = self.metadata["self_energies"]
        return {ATOMIC_NUMBERS[symbol]: e for symbol, e in energies.items()}


@usual_torch()
def load_model(name_or_path: str | Path) -> ModelFile:
    """Read a model: the name of a shipped one, a folder, or a ``model.pt``.

    A model of the user's own whose path is also the name of a shipped one comes first,
    with a warning.

    Raises:
        FileNotFoundError: There is no shipped model of this name and no such path.
        ModelFileError: The file is not one of ours, damaged, of a newer version, or
            does not reproduce its own reference.
    """
    path = Path(name_or_path)
    shipped = shipped_models()
    named = str(name_or_path) in shipped
    if named and (path.is_file() or (path / DESCRIPTION).is_file()):
        warnings.warn(
            f"the model {name_or_path!s} is the one at {path.resolve()}, not the "
            "shipped model of that name; to use the shipped one, rename yours or work "
            "in another folder; to be clear, give a path such as "
            f"'./{name_or_path!s}'",
            stacklevel=3,
        )
    elif named:
        if any((path / checkpoint).is_file() for checkpoint in CHECKPOINTS):
            warnings.warn(
                f"the shipped model {name_or_path!s} is taken; the folder "
                f"{path.resolve()} holds a training run and no model: to use it, give "
                "it to 'openmm-se3 export' first, and the path of what that writes",
                stacklevel=3,
            )
        path = shipped[str(name_or_path)]
        faults = damaged_files(path)
        if faults:
            raise ModelFileError(
                f"the shipped model {name_or_path} is damaged ({'; '.join(faults)}): "
                "install openmm-se3 again"
            )
    elif not path.exists():
        raise FileNotFoundError(
            f"no model {str(name_or_path)!r}: shipped models are "
            f"{sorted(shipped) or 'none'}, and there is no such file or folder"
        )
    if path.is_dir():
        description, weights = _read_folder(path)
    else:
        description, weights = _read_archive(path)
    return _check(path, description, weights)


def _read_folder(path: Path) -> tuple[bytes, bytes]:
    contents = []
    for name in (DESCRIPTION, WEIGHTS):
        if not (path / name).is_file():
            raise ModelFileError(
                f"{path} is not a model folder: it has no {name}"
                + (
                    "; give a checkpoint to 'openmm-se3 export' first"
                    if any((path / name).is_file() for name in CHECKPOINTS)
                    else ""
                )
            )
        contents.append((path / name).read_bytes())
    return contents[0], contents[1]


def _read_archive(path: Path) -> tuple[bytes, bytes]:
    """Return description and weights from inside a ``model.pt`` without running it."""
    try:
        if not zipfile.is_zipfile(path):
            raise ModelFileError(
                f"{path} is not a model: expected a folder with {DESCRIPTION} and "
                f"{WEIGHTS}, or a {SCRIPT} made by 'openmm-se3 export'; files of other "
                "programs and PyTorch checkpoints cannot be read"
            )
        with zipfile.ZipFile(path) as archive:
            description = _extra_file(archive, path, DESCRIPTION)
            return description, _extra_file(archive, path, WEIGHTS)
    except ModelFileError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile raise
        raise ModelFileError(f"{path} is damaged: {error}") from error


def _extra_file(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    found = [i for i in archive.infolist() if i.filename.endswith(f"/extra/{name}")]
    if len(found) != 1:
        raise ModelFileError(
            f"{path} holds no {name}: it was not made by 'openmm-se3 export'"
        )
    if (
        found[0].compress_type != zipfile.ZIP_STORED
        or found[0].file_size > MAX_FILE_BYTES
    ):
        raise ModelFileError(f"{path}: {name} inside is compressed or too large")
    return archive.read(found[0])


def _unpickled(description: bytes, weights: bytes) -> ModelFile:
    """Return the model inside a pickle or a System's XML.

    Raises:
        ModelFileError: It is damaged, or this version computes other energies.
    """
    return _check(Path("the model inside"), description, weights)


def _check(path: Path, description: bytes, weights: bytes) -> ModelFile:
    metadata, config = parse_description(path, description)
    expected = metadata.get("weights_sha256")
    if hashlib.sha256(weights).hexdigest() != expected:
        raise ModelFileError(f"{path}: {WEIGHTS} does not match its SHA-256: damaged")
    try:
        # safetensors yields them in another order in each process
        tensors = dict(sorted(safetensors.torch.load(weights).items()))
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: {WEIGHTS} cannot be read: {error}") from error
    broken = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise ModelFileError(f"{path}: NaN or infinite weights in {broken}")
    model = ModelFile(config, metadata, tensors)
    check_reference(model, path)
    return model


def check_reference(model: ModelFile, path: Path) -> None:
    """Compute the reference structure again.

    Raises:
        ModelFileError: Energy or forces differ from those stored with the model.
    """
    reference = model.metadata["reference"]
    try:
        symbols = list(reference["symbols"])
        positions = np.array(reference["positions"], dtype=float)
        keys = ["energy", "forces"]
        keys += ["energy_std", "forces_std"] if model.n_members > 1 else []
        expected = [np.array(reference[key], dtype=float) for key in keys]
        known = symbols and set(symbols) <= set(model.config.elements)
        if not known or not positions.shape == expected[1].shape == (len(symbols), 3):
            raise ValueError(f"symbols {symbols}, positions {positions.shape}")
        if model.n_members > 1 and expected[3].shape != (len(symbols),):
            raise ValueError(f"forces_std {expected[3].shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: the reference structure is not usable: {error}"
        ) from error
    found = _reference_results(model, symbols, positions)
    difference = max(
        float(np.abs(found[key] - value).max())
        for key, value in zip(keys, expected, strict=True)
    )
    if not difference < REFERENCE_TOLERANCE:
        raise ModelFileError(
            f"{path}: this version of openmm-se3 gives other energies than the one "
            f"that wrote the model (difference {difference:.1e} eV or eV/A), or its "
            "config.json was edited; put the file back, or use the version in it: "
            f"{model.metadata.get('versions')}"
        )


def _reference_results(
    model: ModelFile, symbols: list[str], positions: np.ndarray
) -> dict[str, Any]:
    """Return energy and forces of a structure, and their deviation in a committee."""
    members = members_of(model.network(torch.float64))
    results = [evaluate(member, symbols, positions) for member in members]
    if len(results) == 1:
        return dict(zip(("energy", "forces"), results[0], strict=True))
    energies, forces = zip(*results, strict=True)
    return vars(Deviation.of(energies, forces))


def describe(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    reference: tuple[list[str], np.ndarray],
    **metadata: Any,
) -> ModelFile:
    """Return a model from its parts, with format, hash and reference filled in.

    Args:
        config: Shape of the network.
        weights: Parameters by name.
        reference: Symbols and positions [n_atoms, 3] (A) of the reference structure.
        **metadata: Further fields of the description; ``members`` of a committee.
    """
    weights = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    symbols, positions = reference
    results = _reference_results(
        ModelFile(config, metadata, weights), symbols, positions
    )
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "units": UNITS,
        "model": to_dict(config),
        "weights_sha256": hashlib.sha256(safetensors.torch.save(weights)).hexdigest(),
        "reference": {
            "symbols": symbols,
            "positions": np.asarray(positions).tolist(),
            **{key: np.asarray(value).tolist() for key, value in results.items()},
        },
        **metadata,
    }
    missing = [key for key in REQUIRED if key not in description]
    if missing:
        raise ModelFileError(f"a description needs {missing}")
    return ModelFile(config, description, weights)


def contents(model: ModelFile) -> dict[str, bytes]:
    """Return the bytes of the description and of the weights by file name."""
    return {
        DESCRIPTION: (json.dumps(model.metadata, indent=1) + "\n").encode(),
        WEIGHTS: safetensors.torch.save(model.weights),
    }


def write_model(folder: Path, model: ModelFile, script: torch.jit.ScriptModule) -> None:
    """Write description, weights and TorchScript into a folder, each file whole."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = contents(model)
    for name, content in parts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
    buffer = io.BytesIO()
    torch.jit.save(script, buffer, _extra_files=parts)
    with atomic_write(folder / SCRIPT) as temporary:
        temporary.write_bytes(buffer.getvalue())

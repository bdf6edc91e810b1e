"""Checkpoints: plain tensors, numbers, strings and containers of them, nothing else.

They load with ``weights_only=True``, which runs no code from the file.  Keys:

    format, format_version
    model, training        the configurations as plain values
    data                   sha256 of all data and of each file, names and digests
    self_energies          eV by chemical symbol
    level_of_theory        settings of the labels
    step, skipped          steps made; steps skipped as not finite
    history                one dict a validation
    running                sums since the last validation
    network, average       weights, and their moving average, which is what is exported
    optimizer, rng         the optimizer's state; PyTorch's random state
    errors                 errors of ``average`` by split and group, once measured
    versions               of the programs that wrote it
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from openmm_se3.config import DEFAULTS_OF_VERSION_1, differences, to_dict
from openmm_se3.data.load import hash_source
from openmm_se3.files import atomic_write
from openmm_se3.renamed_fields import with_new_names
from openmm_se3.training.config import CIRCUMSTANCES, RunConfig
from openmm_se3.version import installed_versions

FORMAT = "openmm-se3 checkpoint"
FORMAT_VERSION = 3  # 2 and 3: new names of settings
# They decide what training gives.
PROGRAMS = ("openmm-se3", "torch", "lightning-fabric", "dgl", "e3nn", "numpy")
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


def save_checkpoint(
    path: Path, content: dict[str, Any], previous: Path | None = None
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: File to write or replace.
        content: What to store beside the header and the versions.
        previous: Where the file that is replaced goes; by default it is lost.
    """
    header = {"format": FORMAT, "format_version": FORMAT_VERSION}
    with atomic_write(path) as temporary:
        torch.save(
            {**header, **content, "versions": installed_versions(PROGRAMS)}, temporary
        )
        if previous is not None and path.exists():
            path.replace(previous)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another kind, or of a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"checksum of {broken} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the zip or pickle reader meets
        raise ValueError(f"{path} is damaged or not a checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of openmm-se3")
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content['format_version']}; this program "
            f"reads up to {FORMAT_VERSION}: upgrade openmm-se3"
        )
    if content["format_version"] < 2:
        model = with_new_names("ModelConfig", content["model"])
        content["model"] = {**DEFAULTS_OF_VERSION_1, **model}
    if content["format_version"] < FORMAT_VERSION:
        content["training"] = with_new_names("TrainingConfig", content["training"])
    return content


def load_last(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint of a run that can be read; None if there is none.

    Raises:
        ValueError: There are checkpoints and none can be read.
    """
    problems = []
    for name in (LAST, PREVIOUS):
        try:
            content = load_checkpoint(folder / name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(
                f"{problems[0]}; it is removed and the run goes on from {name}, "
                f"step {content['step']}",
                stacklevel=2,
            )
            # It would replace the good one when the next checkpoint is written.
            (folder / LAST).unlink(missing_ok=True)  # by whichever process is first
        return content
    if problems:
        raise ValueError("; ".join(problems))
    return None


MOST_DIFFERENCES = 8  # shown; more do not help


def identity(config: RunConfig) -> dict[str, Any]:
    """Return what tells one run from another: its settings and hashes of its data."""
    sources = config.data.files
    paths = [Path(source.path) for source in sources]
    hashes = [hash_source(path) for path in paths]
    choices = config.data.to_dict()
    return {
        "model": to_dict(config.model),
        "training": to_dict(config.training),
        "choices": {key: choices[key] for key in ("split", "self_energies")},
        "data": {
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "files": [
                [path.name, digest] for path, digest in zip(paths, hashes, strict=True)
            ],
            "options": [source.options() for source in sources],
        },
    }


def refuse_changes(
    checkpoint: dict[str, Any], now: dict[str, Any], folder: Path
) -> None:
    """Compare a run with the one it wants to go on from, or whose results it takes.

    Args:
        checkpoint: A checkpoint of the run in the folder.
        now: Identity of the run that is asked for.
        folder: The folder, for the message.

    Raises:
        ValueError: Settings or data differ; each difference is shown.
    """
    lines = differences(_settings(checkpoint), _settings(now))
    old, new = checkpoint["data"], now["data"]
    if old["sha256"] != new["sha256"]:
        files = (
            {name: {"sha256": digest} for name, digest in data["files"]}
            for data in (old, new)
        )
        lines += [f"data {line}" for line in differences(*files)] or [
            "data: the same files in another order, or others of the same names"
        ]
    elif "options" in old:  # a checkpoint of an older version does not know
        for (name, _), *options in zip(
            new["files"], old["options"], new["options"], strict=True
        ):
            lines += [f"data {name}: {line}" for line in differences(*options)]
    if lines:
        shown = lines[:MOST_DIFFERENCES]
        if len(lines) > len(shown):
            shown.append(f"{len(lines) - len(shown)} more")
        raise ValueError(
            f"{folder} cannot be resumed, the run has changed: {'; '.join(shown)}. "
            "Undo the change, or start a new run with --out or --overwrite"
        )


def _settings(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings that change what a run computes, by section."""
    training = run["training"].items()
    choices = dict(run.get("choices", {}))
    if "split" in choices:  # runs of older versions did not stratify
        choices["split"] = {"stratify": False, **choices["split"]}
    return {
        "model": run["model"],
        "training": {key: value for key, value in training if key not in CIRCUMSTANCES},
        "data": choices,
    }

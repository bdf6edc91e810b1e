"""What makes a training run the same run: network, settings and data.

A run that is resumed must be the run that was stopped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from openmm_se3.config import to_dict
from openmm_se3.differences import differences
from openmm_se3.reference.sources import hash_source
from openmm_se3.training.settings import CIRCUMSTANCES, RunConfig

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

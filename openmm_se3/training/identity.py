"""What makes a training run the same run: network, settings and data.

A run that is resumed must be the run that was stopped.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from openmm_se3.config import to_dict
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
    lines = _differences(checkpoint, now)
    old_data, new_data = checkpoint["data"], now["data"]
    if old_data["sha256"] != new_data["sha256"]:
        old, new = dict(old_data["files"]), dict(new_data["files"])
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                was, is_now = (d.get(name, "absent")[:12] for d in (old, new))
                lines.append(
                    f"data {name}: sha256 {was} in the checkpoint, {is_now} now"
                )
        if not lines:
            lines.append("data: the same files in another order")
    else:
        lines += _option_differences(old_data, new_data)
    if lines:
        shown = lines[:MOST_DIFFERENCES]
        if len(lines) > len(shown):
            shown.append(f"{len(lines) - len(shown)} more")
        raise ValueError(
            f"{folder} cannot be resumed, the run has changed: {'; '.join(shown)}. "
            "Undo the change, or start a new run with --out or --overwrite"
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line for each setting that changes what a run computes.

    Args:
        old: ``{"model": ..., "training": ..., "choices": ...}`` of a checkpoint.
        new: The same of the run that wants to go on from it.
    """
    lines = []
    for section in ("model", "training", "choices"):
        name = "data" if section == "choices" else section
        was, is_now = old.get(section, {}), new[section]
        for key in sorted(was.keys() | is_now.keys()):
            if section == "training" and key in CIRCUMSTANCES:
                continue
            before, now = was.get(key), is_now.get(key)
            if before != now:
                lines.append(f"{name}.{key}: {before} in the checkpoint, {now} now")
    return lines


def _option_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line for each option with which a file is read in another way."""
    if "options" not in old:  # a checkpoint of an older version does not know
        return []
    lines = []
    for (name, _), was, now in zip(
        new["files"], old["options"], new["options"], strict=True
    ):
        lines += [
            f"data {name}: {key} {was.get(key, 'not given')} in the checkpoint, "
            f"{now.get(key, 'not given')} now"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]
    return lines

"""The list of frames without a label, beside the labels of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from openmm_se3.files import atomic_write


def failures_path(output: Path) -> Path:
    """Return where the frames that were set aside are listed."""
    return output.with_name(output.name + ".failed.json")


def write_failures(output: Path, failures: Sequence[tuple[int, str]]) -> None:
    """Write (index, reason) of each frame without a label; without any, no file."""
    path = failures_path(output)
    path.unlink(missing_ok=True)
    if failures:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(list(failures), indent=1))


def read_failures(output: Path) -> list[tuple[int, str]]:
    """Return what :func:`write_failures` wrote."""
    path = failures_path(output)
    if not path.exists():
        return []
    return [(int(i), str(reason)) for i, reason in json.loads(path.read_text())]

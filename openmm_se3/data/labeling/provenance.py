"""How a structure file was made, beside it as ``<file>.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openmm_se3.files import atomic_write, sha256
from openmm_se3.version import installed_versions

SAMPLER_PROGRAMS = ("ase", "tblite", "numpy")


def provenance_path(structures: Path) -> Path:
    """Return where the provenance of a structure file stands."""
    return structures.with_name(structures.name + ".json")


def write_provenance(structures: Path, command: str, seed: int) -> None:
    """Write how a structure file was made.

    Args:
        structures: The structure file, already written.
        command: The command that made it.
        seed: Its seed.
    """
    record = {
        "command": command,
        "seed": seed,
        "programs": installed_versions(SAMPLER_PROGRAMS),
        "sha256": sha256(structures),
    }
    with atomic_write(provenance_path(structures)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


def read_provenance(structures: Path) -> dict[str, Any]:
    """Return how a structure file was made; empty if that is not known.

    A record that belongs to an earlier content of the file is not used.
    """
    path = provenance_path(structures)
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
    except ValueError:
        return {}
    if not isinstance(record, dict) or record.pop("sha256", "") != sha256(structures):
        return {}
    return record

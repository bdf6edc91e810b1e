"""Model files, and ways to damage them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit
from random_model import (
    topology_of,
)

KJ_PER_MOL = 96.48533212331  # in 1 eV


def description_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def change(folder: Path, **fields: Any) -> None:
    """Replace fields of the description; None takes a field out."""
    content = {**description_of(folder), **fields}
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))


def write_weights(folder: Path, content: bytes) -> None:
    """Replace the weights and their hash, as somebody who means harm would."""
    (folder / "weights.safetensors").write_bytes(content)
    change(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def write_pdb(path: Path, symbols: list[str], positions: np.ndarray) -> Path:
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology_of(symbols), positions * unit.angstrom, file)
    return path

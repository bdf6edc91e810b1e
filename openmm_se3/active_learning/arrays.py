"""Files of named arrays: what a round saves to be read again after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.files import atomic_write


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, or what becomes one, by name."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: Path) -> dict[str, Any]:
    """Return what :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}

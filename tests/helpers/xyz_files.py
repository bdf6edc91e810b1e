"""Extended XYZ files of water, and frames of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame
from openmm_se3.data.load import (
    Source,
    read_source,
)

ROOT = Path(__file__).parents[2]

WATER = [str(ROOT / f"models/water/data/water{n}.h5") for n in (1, 2)]


def xyz_of(frame: Frame, comment: str = "", **columns: np.ndarray) -> str:
    """Return a frame as extended XYZ, with a comment and columns of three values."""
    names = "".join(f":{name}:R:3" for name in columns)
    rows = [f"{len(frame.numbers)}", f"Properties=species:S:1:pos:R:3{names} {comment}"]
    for atom, number in enumerate(frame.numbers):
        values = [frame.positions[atom], *(c[atom] for c in columns.values())]
        numbers = " ".join(f"{v:.10f}" for v in np.concatenate(values))
        rows.append(f"{'H' if number == 1 else 'O'} {numbers}")
    return "\n".join(rows) + "\n"


def read_xyz(path: Path, text: str, **options: Any) -> Dataset:
    path.write_text(text)
    return read_source(Source(str(path), **options))

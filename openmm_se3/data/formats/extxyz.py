"""Extended XYZ: any molecule or box, with the names and units of its author.

The format has no units of its own: eV and A unless said otherwise, as ASE has it.
:mod:`~openmm_se3.data.formats.label_names` finds the labels where they are not
named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.formats.charges import charge_and_spin
from openmm_se3.data.formats.label_names import (
    Labels,
    choose_labels,
    is_gradient,
)
from openmm_se3.data.formats.units_of_files import Units
from openmm_se3.data.formats.xyz_text import TextFrame, read_text_frames
from openmm_se3.data.frames import SPLITS, Frame, Frames

UNIT_KEYS = tuple(
    f"{what}{unit}"
    for what in (
        "",
        "energy_",
        "energies_",
        "force_",
        "forces_",
        "length_",
        "distance_",
    )
    for unit in ("unit", "units")
)


@dataclasses.dataclass(frozen=True)
class Names:
    """Where a file keeps its labels, and in which units.

    Attributes:
        energy: Key of the energy in the comment line; None looks for it.
        forces: Name of the forces' columns; None looks for them.
        units: Units of the file.
        gradient: The columns hold the gradient, not the force; None tells by their
            name.
    """

    energy: str | None
    forces: str | None
    units: Units
    gradient: bool | None = None


def read_extxyz(path: Path, names: Names) -> tuple[Frames, str]:
    """Return the frames of a file, and what the user should know about them.

    ``trajectory`` (or ``group``), ``kind`` (or ``config_type``), ``split``,
    ``temperature``, ``charge`` and ``spin`` or ``multiplicity`` are taken from the
    comment line where they stand there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not extended XYZ, a key is not there, labels of several
            methods are there, a value is no number, or a frame is periodic along some
            axes only.
    """
    texts = list(read_text_frames(path))
    try:
        labels = choose_labels(texts, names.energy, names.forces)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frames = []
    for index, text in enumerate(texts):
        try:
            frames.append(_frame(text, index, labels, names))
        except ValueError as error:
            raise ValueError(f"{path}, frame {index}: {error}") from error
    return Frames.of(frames, path.name), "; ".join(
        filter(None, (labels.note, _units(texts)))
    )


def _units(frames: Sequence[TextFrame]) -> str:
    """Return a note about units that comment lines name; they are not read."""
    said = {
        f"{key}={value}"
        for frame in frames
        for key, value in frame.info.items()
        if key.lower() in UNIT_KEYS
    }
    if not said:
        return ""
    return (
        f"units in comment lines are not read ({', '.join(sorted(said)[:4])}): "
        "energy_unit, length_unit and force_unit (--energy-unit, ...) say them"
    )


def _frame(text: TextFrame, index: int, labels: Labels, names: Names) -> Frame:
    units, info = names.units, text.info
    energy = next((text.number(k) for k in labels.energy if k in info), float("nan"))
    column = next((name for name in labels.forces if name in text.columns), None)
    forces = None
    if column is not None:
        gradient = is_gradient(column) if names.gradient is None else names.gradient
        forces = _vectors(column, text) * (-units.force if gradient else units.force)
    charge, spin = charge_and_spin(info, text.numbers)
    return Frame(
        numbers=text.numbers,
        positions=text.positions * units.length,
        energy=energy * units.energy,
        forces=forces,
        charge=charge or 0,
        spin=spin or 0,
        box=None if text.box is None else text.box * units.length,
        **origin(text, index),
    )


def origin(text: TextFrame, index: int) -> dict[str, Any]:
    """Return what the comment line tells of a frame's origin.

    Raises:
        ValueError: The split is none of ours, or the temperature not a number.
    """
    info = text.info
    split = info.get("split", "train")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return {
        "trajectory": info.get("trajectory", info.get("group", f"frame-{index}")),
        "kind": info.get("kind", info.get("config_type", "")),
        "split": split,
        "temperature": text.number("temperature"),
    }


def _vectors(column: str, text: TextFrame) -> np.ndarray:
    vectors = text.columns[column]
    if vectors.shape[1] != 3:
        raise ValueError(
            f"the column {column!r} has {vectors.shape[1]} values an atom; forces have "
            "three"
        )
    return vectors

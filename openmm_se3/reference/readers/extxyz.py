"""Extended XYZ: any molecule or box, with the names and units of its author.

Energy and forces are looked for under the names in ``ENERGY_KEYS`` and ``FORCES_KEYS``
if none is given.  The format has no units of its own: eV and A unless said otherwise,
as ASE has it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.reference.frames import SPLITS, Frame, Frames
from openmm_se3.units import ENERGY_UNITS, LENGTH_UNITS

ENERGY_KEYS = ("energy", "REF_energy", "Energy", "total_energy", "dft_energy")
FORCES_KEYS = ("forces", "force", "REF_forces", "dft_forces", "gradient")


@dataclasses.dataclass(frozen=True)
class Names:
    """Where a file keeps its labels, and in which units.

    Attributes:
        energy: Key of the energy in the comment line; None looks for the usual ones.
        forces: Name of the forces' columns; None looks for the usual ones.
        energy_unit: One of ``ENERGY_UNITS``; forces are in it per ``length_unit``.
        length_unit: One of ``LENGTH_UNITS``.
        gradient: The columns hold the gradient, not the force.
    """

    energy: str | None = None
    forces: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "angstrom"
    gradient: bool = False


def read_extxyz(path: Path, names: Names) -> Frames:
    """Return the frames of a file.

    ``trajectory`` (or ``group``, ``config_type`` as the kind), ``split`` and
    ``temperature`` are taken from the comment line where they stand there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not extended XYZ, a key is not there, a value is no
            number, or a frame is periodic along some axes only.
    """
    from ase.io import iread
    from ase.io.extxyz import XYZError

    if not path.is_file():
        raise FileNotFoundError(f"no structure file {path}")
    frames = []
    try:
        for index, atoms in enumerate(iread(path, index=":", format="extxyz")):
            try:
                frames.append(_frame(atoms, index, names))
            except ValueError as error:
                raise ValueError(f"{path}, frame {index}: {error}") from error
    except (XYZError, KeyError, IndexError, EOFError) as error:
        raise ValueError(f"{path} is not an extended XYZ file: {error}") from error
    if not frames:
        raise ValueError(f"{path} holds no structures")
    return Frames.of(frames, path.name)


def _frame(atoms: Any, index: int, names: Names) -> Frame:
    results = {} if atoms.calc is None else atoms.calc.results
    energy_factor = ENERGY_UNITS[names.energy_unit]
    length_factor = LENGTH_UNITS[names.length_unit]
    info, arrays = {**atoms.info, **results}, {**atoms.arrays, **results}
    _, energy = _find(info, names.energy, ENERGY_KEYS, "energy")
    column, forces = _find(arrays, names.forces, FORCES_KEYS, "forces")
    if energy is None and forces is None:
        raise ValueError(
            f"neither an energy (keys there: {sorted(info)}) nor forces (columns: "
            f"{sorted(arrays)}); name them with energy_key and forces_key"
        )
    sign = -1.0 if names.gradient or column == "gradient" else 1.0
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError(
            f"periodic along some axes only (pbc={atoms.pbc.tolist()}): the network "
            "knows free molecules and boxes; give a slab a box with empty space in it"
        )
    split = str(info.get("split", "train"))
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return Frame(
        numbers=np.asarray(atoms.numbers),
        positions=atoms.positions * length_factor,
        energy=float("nan") if energy is None else _number(energy) * energy_factor,
        forces=(
            None
            if forces is None
            else _array(forces, len(atoms)) * (sign * energy_factor / length_factor)
        ),
        trajectory=str(info.get("trajectory", info.get("group", f"frame-{index}"))),
        kind=str(info.get("kind", info.get("config_type", ""))),
        split=split,
        temperature=_number(info.get("temperature", float("nan"))),
        box=np.asarray(atoms.cell) * length_factor if atoms.pbc.all() else None,
    )


def _find(
    values: Any, key: str | None, usual: tuple[str, ...], what: str
) -> tuple[str | None, Any]:
    """Return the name under which something stands, and it; None twice if nowhere."""
    if key is not None and key not in values:
        raise ValueError(f"no {what} under {key!r}; there: {sorted(values)}")
    names = usual if key is None else (key,)
    return next(
        ((name, values[name]) for name in names if name in values), (None, None)
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None


def _array(value: Any, n_atoms: int) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.shape != (n_atoms, 3):
        raise ValueError(f"forces have shape {array.shape}, expected {(n_atoms, 3)}")
    return array

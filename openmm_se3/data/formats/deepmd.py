"""DeePMD-kit's folders: ``type.raw``, ``type_map.raw`` and ``set.*`` with NumPy arrays.

| file                  | shape                | unit |
|-----------------------|----------------------|------|
| type.raw              | [n_atoms]            |      |
| type_map.raw          | [n_types] symbols    |      |
| set.*/coord.npy       | [n_frames, 3 n_atoms]| A    |
| set.*/box.npy         | [n_frames, 9]        | A    |
| set.*/energy.npy      | [n_frames]           | eV   |
| set.*/force.npy       | [n_frames, 3 n_atoms]| eV/A |

https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from openmm_se3.data.formats.energy_steps import energy_step, note_of_step
from openmm_se3.data.formats.npy import read_numbers
from openmm_se3.data.formats.units_of_files import Units
from openmm_se3.data.frames import Block, Frames, Texts
from openmm_se3.elements import ATOMIC_NUMBERS

NO_BOX = "nopbc"  # a file of this name says that there is no box


UNREAD = {
    "forces": "DeePMD-kit calls it force.npy",
    "energies": "DeePMD-kit calls it energy.npy",
    "coords": "DeePMD-kit calls it coord.npy",
    "spin": "a model without spins cannot learn it",
    "charge": "write frames with a charge as extended XYZ (charge=)",
}


def read_deepmd(
    folder: Path, units: Units, gradient: bool = False
) -> tuple[Frames, str]:
    """Return the frames of a folder, and what is to be said of them.

    Each set is one trajectory.

    Args:
        folder: The folder.
        units: Units of the files.
        gradient: ``force.npy`` holds the gradient.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Shapes or types do not fit together.
    """
    numbers = _atomic_numbers(folder)
    sets = sorted(folder.glob("set.*"))
    if not sets:
        raise FileNotFoundError(f"{folder} has no set.* folder")
    periodic = not (folder / NO_BOX).exists()
    sign = -1.0 if gradient else 1.0
    frames = Frames([_read_set(path, numbers, periodic, units, sign) for path in sets])
    energies = [path / "energy.npy" for path in sets]
    steps = [energy_step(read_numbers(path)) for path in energies if path.exists()]
    return frames, note_of_step(units.energy * max(steps, default=0.0))


def _read_set(
    folder: Path, numbers: np.ndarray, periodic: bool, units: Units, sign: float
) -> Block:
    _refuse_names(folder)
    n_atoms = len(numbers)
    positions = _load(folder / "coord.npy", (n_atoms, 3), None)
    n_frames = len(positions)
    forces = energy = None
    if (folder / "force.npy").exists():
        forces = _load(folder / "force.npy", (n_atoms, 3), n_frames)
    if (folder / "energy.npy").exists():
        energy = _load(folder / "energy.npy", (), n_frames)
    if periodic and not (folder / "box.npy").exists():
        raise FileNotFoundError(
            f"{folder} has no box.npy; if the molecules are free, make an empty file "
            f"{folder.parent / NO_BOX}"
        )
    box = _load(folder / "box.npy", (3, 3), n_frames) if periodic else None
    return Block(
        numbers=numbers,
        positions=positions * units.length,
        energy=np.full(n_frames, np.nan) if energy is None else energy * units.energy,
        forces=None if forces is None else forces * (sign * units.force),
        trajectory=Texts.same(f"{folder.parent.name}/{folder.name}", n_frames),
        kind=Texts.same("", n_frames),
        split=np.zeros(n_frames, dtype=np.int8),
        temperature=np.full(n_frames, np.nan),
        box=None if box is None else box * units.length,
        source=folder.parent.name,
    )


def _refuse_names(folder: Path) -> None:
    """Refuse files that hold labels under other names, or what is not read.

    Raises:
        ValueError: Names the file.
    """
    for name, hint in UNREAD.items():
        if (folder / f"{name}.npy").exists():
            raise ValueError(f"{folder / name}.npy is not read: {hint}")


def _load(path: Path, shape: tuple[int, ...], n_frames: int | None) -> np.ndarray:
    """Return an array with one row a frame [n_frames, *shape].

    The numbers of a frame may stand in one row, as DeePMD-kit writes them.

    Args:
        path: The file.
        shape: Of one frame.
        n_frames: Number of frames; None takes as many as there are.
    """
    values = read_numbers(path).astype(np.float64)
    flat = (math.prod(shape),)
    fitting = {shape, flat}
    if not values.ndim or values.shape[1:] not in fitting:
        raise ValueError(
            f"{path} has shape {list(values.shape)}; expected [n_frames, {flat[0]}] "
            f"for the atoms in type.raw"
        )
    if n_frames is not None and len(values) != n_frames:
        raise ValueError(f"{path} has {len(values)} frames, coord.npy has {n_frames}")
    return values.reshape(len(values), *shape)


def _atomic_numbers(folder: Path) -> np.ndarray:
    for name in ("type.raw", "type_map.raw"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}")
    symbols = _words(folder / "type_map.raw")
    types = []
    for text in _words(folder / "type.raw"):
        if not re.fullmatch("-?[0-9]{1,6}", text, re.ASCII):
            raise ValueError(f"{folder / 'type.raw'} holds {text[:40]!r}, no integer")
        types.append(int(text))
    unknown = sorted(set(symbols) - set(ATOMIC_NUMBERS))
    if unknown or not types or min(types) < 0 or max(types) >= len(symbols):
        raise ValueError(
            f"{folder}: type_map.raw holds {symbols}, type.raw types from "
            f"{min(types, default=0)} to {max(types, default=-1)}; expected chemical "
            "symbols, one for each type from 0"
        )
    mixed = next(folder.glob("set.*/real_atom_types.npy"), None)
    if mixed is not None:
        raise ValueError(
            f"{folder} is of DeePMD's mixed type, whose frames differ in their "
            f"elements ({mixed.relative_to(folder)}); write it as one folder a "
            "composition first (dpdata: load as deepmd/npy/mixed, write as deepmd/npy)"
        )
    return np.array([ATOMIC_NUMBERS[symbols[i]] for i in types])


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split()

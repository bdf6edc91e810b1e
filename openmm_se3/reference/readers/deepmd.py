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

from pathlib import Path

import numpy as np

from openmm_se3.elements import ATOMIC_NUMBERS
from openmm_se3.reference.frames import Block, Frames, Texts

NO_BOX = "nopbc"  # a file of this name says that there is no box


def read_deepmd(folder: Path) -> Frames:
    """Return the frames of a folder; each set is one trajectory.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Shapes or types do not fit together.
    """
    numbers = _atomic_numbers(folder)
    sets = sorted(folder.glob("set.*"))
    if not sets:
        raise FileNotFoundError(f"{folder} has no set.* folder")
    periodic = not (folder / NO_BOX).exists()
    return Frames([_read_set(path, numbers, periodic) for path in sets])


def _read_set(folder: Path, numbers: np.ndarray, periodic: bool) -> Block:
    positions = _load(folder / "coord.npy")
    n_frames = len(positions)
    shape = (n_frames, len(numbers), 3)
    forces = _load(folder / "force.npy") if (folder / "force.npy").exists() else None
    energy = (
        _load(folder / "energy.npy").ravel()
        if (folder / "energy.npy").exists()
        else np.full(n_frames, np.nan)
    )
    box = _load(folder / "box.npy") if periodic else None
    for name, array, size in (
        ("coord.npy", positions, 3 * len(numbers)),
        ("force.npy", forces, 3 * len(numbers)),
        ("energy.npy", energy, 1),
        ("box.npy", box, 9),
    ):
        if array is not None and array.size != n_frames * size:
            raise ValueError(
                f"{folder / name} has shape {array.shape}; {n_frames} frames of "
                f"{len(numbers)} atoms need {n_frames * size} numbers"
            )
    return Block(
        numbers=numbers,
        positions=positions.reshape(shape),
        energy=energy,
        forces=None if forces is None else forces.reshape(shape),
        trajectory=Texts.same(f"{folder.parent.name}/{folder.name}", n_frames),
        kind=Texts.same("", n_frames),
        split=np.zeros(n_frames, dtype=np.int8),
        temperature=np.full(n_frames, np.nan),
        box=None if box is None else box.reshape(n_frames, 3, 3),
        source=folder.parent.name,
    )


def _atomic_numbers(folder: Path) -> np.ndarray:
    for name in ("type.raw", "type_map.raw"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}")
    symbols = (folder / "type_map.raw").read_text().split()
    types = [int(text) for text in (folder / "type.raw").read_text().split()]
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


def _load(path: Path) -> np.ndarray:
    try:
        # No pickle: an array of objects could run code.
        return np.load(path, allow_pickle=False).astype(np.float64)
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an array of numbers: {error}") from error

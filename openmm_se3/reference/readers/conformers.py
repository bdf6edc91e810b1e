"""ANI-1, ANI-1x and COMP6: HDF5 files with one group a molecule and many conformers.

| format | atoms          | energy          | forces           | level          |
|--------|----------------|-----------------|------------------|----------------|
| ani1   | species (text) | energies        | none             | wB97X/6-31G(d) |
| ani1x  | atomic_numbers | wb97x_dz.energy | wb97x_dz.forces  | wB97X/6-31G(d) |
| comp6  | species (text) | energies        | forces: gradient | wB97X/6-31G(d) |

Coordinates are in A, energies in hartree, forces in hartree/A.  ``forces`` of COMP6
holds the gradient, with the opposite sign (checked against DFT).  ANI-1x has other
levels under other keys, and NaN where a label was not computed.

ANI-1:  https://doi.org/10.1038/sdata.2017.193
ANI-1x: https://doi.org/10.1038/s41597-020-0473-z
COMP6:  https://doi.org/10.1063/1.5023802
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_se3.elements import ATOMIC_NUMBERS
from openmm_se3.reference.dataset import formula
from openmm_se3.reference.frames import Block, Rows, Texts
from openmm_se3.reference.safe_hdf5 import (
    FileRows,
    array,
    child,
    damage_named,
    open_hdf5,
    open_kept,
    place,
    read_array,
)
from openmm_se3.units import HARTREE_TO_EV

# Sources up to this size (bytes of coordinates and forces) are read at once.
READ_AT_ONCE = 1 << 30


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and signs of one format.

    Attributes:
        atoms: Name of the atomic numbers or symbols.
        energy: Name of the energies, hartree.
        forces: Name of the forces, hartree/A; None if there are none.
        sign: -1 where the gradient is stored.
        level: Level of theory of the default names.
    """

    atoms: str
    energy: str
    forces: str | None
    sign: float = 1.0
    level: str = "wB97X/6-31G(d)"


LAYOUTS = {
    "ani1": Layout("species", "energies", None),
    "ani1x": Layout("atomic_numbers", "wb97x_dz.energy", "wb97x_dz.forces"),
    "comp6": Layout("species", "energies", "forces", sign=-1.0),
}


def detect(path: Path) -> str | None:
    """Return the format of an HDF5 file from the names in its first molecule."""
    with open_hdf5(path) as file:
        group = next(molecules(file), None)
        if group is None:
            return None
        if "atomic_numbers" in group:
            return "ani1x"
        return "comp6" if "forces" in group else "ani1"


def read_conformers(path: Path, layout: Layout) -> list[Block]:
    """Return one block a molecule; large files stay on disk and are read by frame.

    The trajectory of all conformers of a molecule is the molecule.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, a name is missing, or shapes do not fit.
    """
    file = open_kept(path)
    with damage_named(path):
        groups = list(molecules(file))
        if not groups:
            raise ValueError(f"{path} holds no group with 'coordinates'")
        stored = sum(2 * array(group, "coordinates").nbytes for group in groups)
        lazy = stored > READ_AT_ONCE
        blocks = [_block(path, group, layout, lazy) for group in groups]
    if not lazy:
        file.close()
    return blocks


def molecules(group: h5py.Group) -> Iterator[h5py.Group]:
    """Yield all groups below one that hold coordinates."""
    for name in group:
        below = child(group, name)
        if not isinstance(below, h5py.Group):
            continue
        if "coordinates" in below:
            yield below
        else:
            yield from molecules(below)


def _block(path: Path, group: h5py.Group, layout: Layout, lazy: bool) -> Block:
    numbers = _atomic_numbers(group, layout.atoms)
    coordinates = array(group, "coordinates")
    n_frames = coordinates.shape[0]
    shape = (n_frames, len(numbers), 3)
    energy = read_array(group, layout.energy).astype(float).ravel()
    if coordinates.shape != shape or energy.shape != (n_frames,):
        raise ValueError(
            f"{place(group)}: coordinates {coordinates.shape} and energies "
            f"{energy.shape} should be {shape} and {(n_frames,)}"
        )
    forces: Rows | None = None
    if layout.forces is not None:
        stored = array(group, layout.forces)
        if stored.shape != shape:
            raise ValueError(
                f"{place(group)}: {layout.forces!r} has shape {stored.shape}, expected "
                f"{shape}"
            )
        forces = _rows(stored, layout.sign * HARTREE_TO_EV, lazy)
    name = f"{path.name}{group.name}"
    return Block(
        numbers=numbers,
        positions=_rows(coordinates, 1.0, lazy),
        energy=energy * HARTREE_TO_EV,
        forces=forces,
        trajectory=Texts.same(name, n_frames),
        kind=Texts.same(formula(numbers), n_frames),
        split=np.zeros(n_frames, dtype=np.int8),
        temperature=np.full(n_frames, np.nan),
        source=path.name,
    )


def _rows(dataset: h5py.Dataset, factor: float, lazy: bool) -> Rows:
    rows = FileRows(dataset, factor)
    return rows if lazy else rows[:]


def _atomic_numbers(group: h5py.Group, name: str) -> np.ndarray:
    """Return atomic numbers, stored as such or as symbols."""
    stored: Any = array(group, name, kinds="iuSO")[()]
    if stored.dtype.kind in "iu":
        return np.asarray(stored, dtype=np.int64)
    symbols = [s.decode() if isinstance(s, bytes) else str(s) for s in stored]
    unknown = sorted(set(symbols) - set(ATOMIC_NUMBERS))
    if unknown:
        raise ValueError(f"{place(group)}: {name!r} holds no elements: {unknown}")
    return np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols])

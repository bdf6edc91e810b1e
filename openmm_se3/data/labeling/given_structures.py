"""Structures of PDB and XYZ files that are molecules: atoms, positions, charge.

All hydrogens must be there.  The unit cell of a PDB file (CRYST1) plays no part; an XYZ
file with a box is refused.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.structure_text import read_text, refuse_alternates, refuse_unread

SUFFIXES = (".pdb", ".xyz")


@dataclasses.dataclass(frozen=True)
class GivenStructure:
    """A structure of a file.

    Attributes:
        origin: File and number of the structure, for messages.
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        charge: Total charge.
        unpaired: Unpaired electrons that the file says; 0 if it says nothing.
        names: Names of the atoms [n_atoms]; empty if the file has none.
    """

    origin: str
    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    unpaired: int = 0
    names: tuple[str, ...] = ()

    def open_shell(self) -> str:
        """Return why it is not a closed shell; empty if it may be one."""
        electrons = int(self.numbers.sum()) - self.charge
        if electrons % 2:
            return (
                f"with charge {self.charge:+d} it has {electrons} electrons, an odd "
                "number, so that one is unpaired; models know closed shells only: "
                "is a hydrogen missing, or is the charge another (--charge, or "
                "charge= in the comment line of an XYZ file)?"
            )
        if self.unpaired:
            return (
                f"the file says {self.unpaired} unpaired electrons; models know closed "
                "shells only"
            )
        return ""


def read_given_structures(path: Path, charge: int = 0) -> Iterator[GivenStructure]:
    """Yield the structures of a PDB or XYZ file.

    Args:
        path: The file.
        charge: Total charge of structures that do not say their own (``charge=`` in the
            comment line of an XYZ file).

    Raises:
        ValueError: The file cannot be read whole, gives atoms in two places, or has a
            box (XYZ); names the place.
    """
    return (_read_pdb if path.suffix.lower() == ".pdb" else _read_xyz)(path, charge)


def _read_xyz(path: Path, charge: int) -> Iterator[GivenStructure]:
    from openmm_se3.data.formats.charges import charge_and_spin, says_charge
    from openmm_se3.data.formats.xyz_text import read_text_frames

    for number, frame in enumerate(read_text_frames(path), start=1):
        origin = f"{path.name}, structure {number}"
        if frame.box is not None:
            raise ValueError(
                f"{origin} has a box; XYZ files are read as molecules in vacuum: "
                "leave the box out, or, to run a liquid or crystal, write a PDB file"
            )
        info = frame.info
        if not says_charge(info):
            info = {**info, "charge": str(charge)}
        try:
            own, unpaired = charge_and_spin(info, frame.numbers)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error
        yield GivenStructure(
            origin, frame.numbers, frame.positions, own or 0, unpaired or 0
        )


def _read_pdb(path: Path, charge: int) -> Iterator[GivenStructure]:
    from ase.io import read

    text = read_text(path)
    refuse_alternates(path, text)
    try:
        models: Any = read(io.StringIO(text), index=":", format="proteindatabank")
    except Exception as error:  # whatever its parsing meets
        raise ValueError(f"{path} cannot be read: {error}") from error
    refuse_unread(path, text, len(models[0]) if models else 0)
    for number, atoms in enumerate(models, start=1):
        yield GivenStructure(
            origin=f"{path.name}, structure {number}",
            numbers=atoms.numbers,
            positions=atoms.positions,
            charge=charge,
            names=tuple(str(name) for name in atoms.arrays["atomtypes"]),
        )

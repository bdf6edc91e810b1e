"""HDF5 files with one group a molecule and many conformers: ANI-1, ANI-1x, COMP6, ...

| format   | atoms                     | energy           | forces             |
|----------|---------------------------|------------------|--------------------|
| ani1     | species (text)            | energies         | none               |
| ani1x    | atomic_numbers            | wb97x_dz.energy  | wb97x_dz.forces    |
| comp6    | species (text)            | energies         | forces (gradient)  |
| torchani | species, of each conformer| energies         | forces             |
| spice    | atomic_numbers            | dft_total_energy | dft_total_gradient |

Coordinates are in A, energies in hartree, forces in hartree/A; SPICE has bohr for A.
Level of theory: wB97X/6-31G(d), of SPICE wB97M-D3(BJ)/def2-TZVPPD.  ``forces`` of COMP6
holds the gradient, with the opposite sign (checked against DFT); files of others in
that layout may not.  ANI-1x has other levels under other keys, and NaN where a label
was not computed.  TorchANI has one group a number of atoms, -1 for atoms that a
conformer lacks.

ANI-1:  https://doi.org/10.1038/sdata.2017.193
ANI-1x: https://doi.org/10.1038/s41597-020-0473-z
COMP6:  https://doi.org/10.1063/1.5023802
SPICE:  https://doi.org/10.1038/s41597-022-01882-6
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_se3.data.dataset import formula
from openmm_se3.data.formats.charges import charge_of_smiles
from openmm_se3.data.formats.energy_steps import energy_step, note_of_step
from openmm_se3.data.formats.safe_hdf5 import (
    FileRows,
    array,
    damage_named,
    open_hdf5,
    open_kept,
    place,
    read_array,
    read_texts,
    require_room,
    stated_unit,
    walk,
)
from openmm_se3.data.formats.units_of_files import Units, refuse_other_unit
from openmm_se3.data.frames import Block, Rows, Texts
from openmm_se3.elements import ATOMIC_NUMBERS, symbols_of

# Sources up to this size (bytes of coordinates and forces) are read at once.
READ_AT_ONCE = 1 << 30
WB97X = "wB97X/6-31G(d)"
# Arrays that say what a frame is, and what they hold for a free, neutral molecule.
UNREAD = {
    **dict.fromkeys(("cell", "cells", "lattice", "box", "pbc"), 0),
    **dict.fromkeys(("charge", "total_charge", "net_charge", "spin"), 0),
    **dict.fromkeys(("multiplicity", "mult"), 1),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and signs of one format.

    Attributes:
        atoms: Name of the atomic numbers or symbols, of a molecule [n_atoms] or of each
            conformer [n_frames, n_atoms].
        energy: Name of the energies.
        forces: Name of the forces; None if there are none.
        gradient: The gradient is stored.
        positions: Name of the coordinates.
        needs_forces: Each group must have forces.
        level: Level of theory of the default names.
    """

    atoms: str
    energy: str
    forces: str | None
    gradient: bool = False
    positions: str = "coordinates"
    needs_forces: bool = True
    level: str = WB97X


LAYOUTS = {
    "ani1": Layout("species", "energies", None),
    "ani1x": Layout("atomic_numbers", "wb97x_dz.energy", "wb97x_dz.forces"),
    "comp6": Layout("species", "energies", "forces", gradient=True),
    "torchani": Layout("species", "energies", "forces", needs_forces=False),
    "spice": Layout(
        "atomic_numbers",
        "dft_total_energy",
        "dft_total_gradient",
        gradient=True,
        positions="conformations",
        needs_forces=False,
        level="wB97M-D3(BJ)/def2-TZVPPD",
    ),
}
POSITIONS = {layout.positions for layout in LAYOUTS.values()}


def detect(path: Path) -> str | None:
    """Return the format of an HDF5 file from the names in its first molecule."""
    with open_hdf5(path) as file:
        group = next(molecules(file, POSITIONS), None)
        if group is None:
            return None
        if "conformations" in group:
            return "spice" if "dft_total_energy" in group else None
        if "atomic_numbers" in group:
            return "ani1x"
        if "species" in group and array(group, "species", kinds="iuSO").ndim == 2:
            return "torchani"
        return "comp6" if "forces" in group else "ani1"


def read_conformers(
    path: Path, layout: Layout, units: Units
) -> tuple[list[Block], str]:
    """Return the blocks of all molecules, and what is to be said of them.

    Large files stay on disk, read by frame.

    The trajectory of all conformers of a molecule is the molecule.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, larger than the memory, a name is missing, or
            shapes do not fit.
    """
    file = open_kept(path)
    with damage_named(path):
        groups = list(molecules(file, {layout.positions}))
        if not groups:
            raise ValueError(f"{path} holds no group with {layout.positions!r}")
        stored = sum(2 * array(group, layout.positions).nbytes for group in groups)
        lazy = stored > READ_AT_ONCE
        names = [layout.energy, layout.atoms]
        if not lazy:
            names += [n for n in (layout.positions, layout.forces) if n is not None]
        require_room(path, groups, names)
        blocks = [
            block for g in groups for block in _blocks(path, g, layout, units, lazy)
        ]
        step = max(energy_step(read_array(g, layout.energy)) for g in groups)
    if not lazy:
        file.close()
    return blocks, note_of_step(units.energy * step)


def molecules(file: h5py.File, positions: set[str]) -> Iterator[h5py.Group]:
    """Yield all groups of a file that hold coordinates, under one of these names."""
    return walk(file, lambda group: not positions.isdisjoint(group))


def _blocks(
    path: Path, group: h5py.Group, layout: Layout, units: Units, lazy: bool
) -> Iterator[Block]:
    """Yield a block for each molecule of a group."""
    coordinates = array(group, layout.positions)
    species = _atomic_numbers(group, layout.atoms)
    energy = read_array(group, layout.energy).astype(float).ravel()
    n_frames = len(energy)
    shape = (n_frames, species.shape[-1], 3)
    if coordinates.shape != shape or len(species) not in (n_frames, shape[1]):
        raise ValueError(
            f"{place(group)}: {layout.positions} {coordinates.shape}, {layout.atoms} "
            f"{species.shape} and energies {energy.shape} do not fit together; the "
            f"first should be {shape}"
        )
    _refuse_unread(group)
    forces = _forces(group, layout, shape)
    _refuse_other_units(group, layout, units)
    sign = -1.0 if layout.gradient else 1.0
    name = f"{path.name}{group.name}"
    charge, kind = _description(group)
    for numbers, present, rows in _compositions(species, n_frames):
        count = n_frames if rows is None else len(rows)

        def read(
            dataset: h5py.Dataset,
            factor: float,
            rows: np.ndarray | None = rows,
            present: np.ndarray | None = present,
        ) -> Rows:
            made = FileRows(dataset, factor, rows, present)
            return made if lazy else made[:]

        of_formula = formula(numbers)
        yield Block(
            numbers=numbers,
            positions=read(coordinates, units.length),
            energy=(energy if rows is None else energy[rows]) * units.energy,
            forces=None if forces is None else read(forces, sign * units.force),
            trajectory=Texts.same(
                name if rows is None else f"{name}/{of_formula}", count
            ),
            kind=Texts.same(kind or of_formula, count),
            split=np.zeros(count, dtype=np.int8),
            temperature=np.full(count, np.nan),
            source=path.name,
            charge=np.full(count, charge),
        )


def _refuse_unread(group: h5py.Group) -> None:
    """Refuse a box, a charge or a spin, which these layouts do not have.

    Raises:
        ValueError: Names the array.
    """
    for name in group:
        neutral = UNREAD.get(name.lower())
        if neutral is None:
            continue
        values = read_array(group, name, kinds="biuf")
        if values.size and (values != neutral).any():
            raise ValueError(
                f"{place(group)}: {name!r} is not read in this layout, and without it "
                "these would be other molecules: write the frames as extended XYZ "
                "(Lattice=, charge=, multiplicity=), or take the array out"
            )


def _refuse_other_units(group: h5py.Group, layout: Layout, units: Units) -> None:
    """Refuse arrays whose attribute names another unit than they are read in.

    Raises:
        ValueError: Names the array and the option.
    """
    for name, factor, option in (
        (layout.positions, units.length, "length_unit"),
        (layout.energy, units.energy, "energy_unit"),
        (layout.forces, units.force, "force_unit"),
    ):
        if name is None or name not in group:
            continue
        unit = stated_unit(array(group, name))
        if unit is not None:
            refuse_other_unit(f"{place(group)}: {name!r}", unit, factor, option)


def _forces(
    group: h5py.Group, layout: Layout, shape: tuple[int, ...]
) -> h5py.Dataset | None:
    name = layout.forces
    if name is None or (not layout.needs_forces and name not in group):
        return None
    stored = array(group, name)
    if stored.shape != shape:
        raise ValueError(
            f"{place(group)}: {name!r} has shape {stored.shape}, expected {shape}"
        )
    return stored


def _compositions(
    species: np.ndarray, n_frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """Yield the atomic numbers of each molecule, its atoms and its frames.

    Both are None where they are all.
    """
    if species.ndim == 1:
        yield species, None, None
        return
    kinds, member = np.unique(species, axis=0, return_inverse=True)
    for index, row in enumerate(kinds):
        present = np.flatnonzero(row >= 0)
        yield row[present], present, np.flatnonzero(member.ravel() == index)


def _description(group: h5py.Group) -> tuple[int, str]:
    """Return the charge and the subset of a molecule of SPICE; 0 and nothing else."""
    smiles = read_texts(group, "smiles") if "smiles" in group else []
    subset = read_texts(group, "subset") if "subset" in group else []
    return charge_of_smiles(smiles[0]) if smiles else 0, subset[0] if subset else ""


def _atomic_numbers(group: h5py.Group, name: str) -> np.ndarray:
    """Return atomic numbers, stored as such or as symbols; -1 for an absent atom."""
    stored: Any = array(group, name, kinds="iuSO")[()]
    if stored.dtype.kind in "iu":
        numbers = stored.astype(np.int64)
    else:
        texts = [
            text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
            for text in stored.ravel()
        ]
        unknown = sorted(set(texts) - set(ATOMIC_NUMBERS) - {""})
        if unknown:
            raise ValueError(f"{place(group)}: {name!r} holds no elements: {unknown}")
        symbols = {**ATOMIC_NUMBERS, "": -1}
        numbers = np.array([symbols[text] for text in texts]).reshape(stored.shape)
    if numbers.ndim == 2:
        numbers = np.where(numbers < 0, -1, numbers)
    present = numbers[numbers >= 0] if numbers.ndim == 2 else numbers.ravel()
    if numbers.ndim not in (1, 2) or not len(present):
        raise ValueError(f"{place(group)}: {name!r} has shape {stored.shape}")
    try:
        symbols_of(np.unique(present))
    except ValueError as error:
        raise ValueError(f"{place(group)}, {name!r}: {error}") from error
    return numbers

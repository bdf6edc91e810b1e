"""The formats of labeled data: their options, which one a file has, their readers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.deepmd import read_deepmd
from openmm_se3.data.formats.extxyz import Names, read_extxyz
from openmm_se3.data.formats.hdf5 import FORMAT, read_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import PublishedLevel

if TYPE_CHECKING:
    from openmm_se3.data.formats.ani import Layout
    from openmm_se3.data.load import Source

UNITS = ("energy_unit", "length_unit", "force_unit")


@dataclasses.dataclass(frozen=True)
class Format:
    """What a format has of its own, and what has to be said.

    Attributes:
        energy_unit: Unit of the energies, unless the source says otherwise.
        length_unit: Unit of lengths; the same.
        gradient: The gradient is stored; None tells by its name.
        takes: Options of a source that it can have.
    """

    energy_unit: str = "eV"
    length_unit: str = "angstrom"
    gradient: bool | None = False
    takes: tuple[str, ...] = ("energy_key", "forces_key", *UNITS, "gradient")


FORMATS = {
    "openmm-se3": Format(takes=()),
    "ani1": Format("hartree", takes=("energy_key", *UNITS)),
    "ani1x": Format("hartree"),
    "comp6": Format("hartree", gradient=True),
    "torchani": Format("hartree"),
    "spice": Format("hartree", "bohr", gradient=True),
    "extxyz": Format(gradient=None),
    "deepmd": Format(takes=(*UNITS, "gradient")),
}
# Options that not every format has.
FORMAT_OPTIONS = ("energy_key", "forces_key", *UNITS, "gradient")
UNKNOWN_LEVEL = "unknown"
XYZ_SUFFIXES = (".xyz", ".extxyz")


def detect_format(path: Path) -> str:
    """Return the format of a file or folder, a key of ``FORMATS``.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It is none of them.
    """
    from openmm_se3.data.formats import ani as conformers
    from openmm_se3.data.formats.safe_hdf5 import attribute, open_hdf5

    if not path.exists():
        raise FileNotFoundError(f"no data file {path}")
    if path.is_dir():
        if (path / "type.raw").is_file():
            return "deepmd"
        raise ValueError(f"{path} is a folder without type.raw; name a file")
    if path.suffix.lower() in XYZ_SUFFIXES:
        return "extxyz"
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            start = raw.read(20)
        raise ValueError(
            f"{path} is none of the formats that hold labels: HDF5 (of openmm-se3, "
            f"ANI-1, ANI-1x, COMP6, TorchANI, SPICE), extended XYZ "
            f"({', '.join(XYZ_SUFFIXES)}) and folders of DeePMD-kit; it "
            f"starts with {start!r}; structures without energies and forces get them "
            "from 'openmm-se3 label'"
        )
    with open_hdf5(path) as file:
        if attribute(file, "format") == FORMAT:
            return "openmm-se3"
    found = conformers.detect(path)
    if found is None:
        raise ValueError(
            f"{path} is HDF5 but neither ours nor of ANI-1, ANI-1x, COMP6, TorchANI or "
            "SPICE: no group holds 'coordinates', or 'conformations' and "
            "'dft_total_energy'"
        )
    return found


def refuse_options(source: Source, kind: str) -> None:
    """Refuse options that a format does not have.

    Raises:
        ValueError: Names the option.
    """
    for name in FORMAT_OPTIONS:
        if getattr(source, name) is not None and name not in FORMATS[kind].takes:
            raise ValueError(f"{source.path}: the format {kind} has no option {name}")


def read_format(source: Source, kind: str) -> Dataset:
    """Read a file or folder of one of ``FORMATS``.

    Args:
        source: The file or folder, and how to read it.
        kind: Its format.

    Raises:
        ValueError: It cannot be read so.
    """
    path = Path(source.path)
    if kind == "openmm-se3":
        dataset = read_hdf5(path)
        if source.level is None:
            return dataset
        return dataclasses.replace(dataset, level=PublishedLevel(source.level))
    units, level, note = source.units(kind), source.level or UNKNOWN_LEVEL, ""
    if kind == "extxyz":
        names = Names(source.energy_key, source.forces_key, units, source.gradient)
        frames, note = read_extxyz(path, names)
    elif kind == "deepmd":
        frames, note = read_deepmd(path, units, bool(source.gradient))
    else:
        from openmm_se3.data.formats.ani import read_conformers

        layout = _layout(source, kind)
        blocks, note = read_conformers(path, layout, units)
        frames = Frames(blocks)
        level = source.level or layout.level
    return Dataset(frames, PublishedLevel(level), {}, notes=(note,))


def _layout(source: Source, kind: str) -> Layout:
    """Return the layout of a format with the names and the sign of a source."""
    from openmm_se3.data.formats.ani import LAYOUTS

    layout = LAYOUTS[kind]
    if source.energy_key is not None or source.forces_key is not None:
        # Another level: its forces only if they are asked for.
        layout = dataclasses.replace(
            layout,
            energy=source.energy_key or layout.energy,
            forces=source.forces_key,
            level=source.level or f"{kind} {source.energy_key or layout.energy}",
            needs_forces=True,
        )
    if source.gradient is not None:
        layout = dataclasses.replace(layout, gradient=source.gradient)
    return layout

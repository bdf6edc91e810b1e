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
from openmm_se3.data.formats.units_of_files import Units
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import PublishedLevel

if TYPE_CHECKING:
    from openmm_se3.data.formats.ani import Layout

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


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is said of how a file is read; None leaves it to the format.

    Attributes are those of :class:`openmm_se3.data.load.Source`.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    gradient: bool | None = None
    level: str | None = None


def refuse_options(path: Path, kind: str, given: Reading) -> None:
    """Refuse options that a format does not have.

    Raises:
        ValueError: Names the option.
    """
    for name in FORMAT_OPTIONS:
        if getattr(given, name) is not None and name not in FORMATS[kind].takes:
            raise ValueError(f"{path}: the format {kind} has no option {name}")


def read_format(path: Path, kind: str, units: Units, given: Reading) -> Dataset:
    """Read a file or folder of one of ``FORMATS``.

    Args:
        path: The file or folder.
        kind: Its format.
        units: Its units.
        given: What is said of it besides.

    Raises:
        ValueError: It cannot be read so.
    """
    if kind == "openmm-se3":
        dataset = read_hdf5(path)
        if given.level is None:
            return dataset
        return dataclasses.replace(dataset, level=PublishedLevel(given.level))
    level, note = given.level or UNKNOWN_LEVEL, ""
    if kind == "extxyz":
        names = Names(given.energy_key, given.forces_key, units, given.gradient)
        frames, note = read_extxyz(path, names)
    elif kind == "deepmd":
        frames = read_deepmd(path, units, bool(given.gradient))
    else:
        from openmm_se3.data.formats.ani import read_conformers

        layout = _layout(kind, given)
        frames = Frames(read_conformers(path, layout, units))
        level = given.level or layout.level
    return Dataset(frames, PublishedLevel(level), {}, notes=(note,))


def _layout(kind: str, given: Reading) -> Layout:
    """Return the layout of a format with the names and the sign that are given."""
    from openmm_se3.data.formats.ani import LAYOUTS

    layout = LAYOUTS[kind]
    if given.energy_key is not None or given.forces_key is not None:
        # Another level: its forces only if they are asked for.
        layout = dataclasses.replace(
            layout,
            energy=given.energy_key or layout.energy,
            forces=given.forces_key,
            level=given.level or f"{kind} {given.energy_key or layout.energy}",
            needs_forces=True,
        )
    if given.gradient is not None:
        layout = dataclasses.replace(layout, gradient=given.gradient)
    return layout

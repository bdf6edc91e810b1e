"""From file names to one data set: format, keys, units, groups and splits by source."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_se3.files import sha256
from openmm_se3.reference.dataset import Dataset, combine
from openmm_se3.reference.frames import SPLITS, Frames, Texts
from openmm_se3.reference.hdf5 import FORMAT, read_hdf5
from openmm_se3.reference.level import PublishedLevel
from openmm_se3.reference.readers.deepmd import read_deepmd
from openmm_se3.reference.readers.extxyz import Names, read_extxyz
from openmm_se3.units import ENERGY_UNITS, LENGTH_UNITS

FORMATS = ("openmm-se3", "ani1", "ani1x", "comp6", "extxyz", "deepmd")
# Fields of a source that not every format has.
FORMAT_OPTIONS = (
    "energy_key",
    "forces_key",
    "energy_unit",
    "length_unit",
    "gradient",
)
XYZ_SUFFIXES = (".xyz", ".extxyz")
UNKNOWN_LEVEL = "unknown"


@dataclasses.dataclass(frozen=True)
class Source:
    """One file or folder of labels and how to read it.

    Attributes:
        path: File, or folder of DeePMD-kit.
        format: One of ``FORMATS``; "auto" finds out.
        energy_key: Name of the energies, where the format has several.
        forces_key: Name of the forces, where the format has several.
        energy_unit: Unit of extended XYZ, see ``units.ENERGY_UNITS``.
        length_unit: Unit of extended XYZ, see ``units.LENGTH_UNITS``.
        gradient: The forces of an extended XYZ file are the gradient.
        groups: NumPy file with the group of each frame [n_frames]; frames of one group
            stay in one split.
        level: Level of theory, where the file does not say it or says it otherwise.
        split: Puts all frames into one split, whatever ``SplitConfig`` does with other
            files; None leaves it to the file.
        forces_only: Leave the energies out.  A source of another level of theory than
            the others, whose energies have another zero, can only be added so.
    """

    path: str
    format: str = "auto"
    energy_key: str | None = None
    forces_key: str | None = None
    energy_unit: str = "eV"
    length_unit: str = "angstrom"
    gradient: bool = False
    groups: str | None = None
    level: str | None = None
    split: str | None = None
    forces_only: bool = False

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: A format, unit or split is unknown.
        """
        for value, known, what in (
            (self.format, ("auto", *FORMATS), "format"),
            (self.energy_unit, tuple(ENERGY_UNITS), "energy_unit"),
            (self.length_unit, tuple(LENGTH_UNITS), "length_unit"),
            (self.split, (None, *SPLITS), "split"),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {list(known)}, got {value!r}")

    def options(self) -> dict[str, Any]:
        """Return how the file is read where that is not the default.

        Groups are told by the hash of their file, as two files may have one name.
        """
        chosen = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "path" and getattr(self, field.name) != field.default
        }
        if self.groups is not None:
            chosen["groups"] = hash_source(Path(self.groups))
        return chosen


def detect_format(path: Path) -> str:
    """Return the format of a file or folder.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It is none of ``FORMATS``.
    """
    from openmm_se3.reference.readers import conformers
    from openmm_se3.reference.safe_hdf5 import open_hdf5

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
            f"ANI-1, ANI-1x, COMP6), extended XYZ ({', '.join(XYZ_SUFFIXES)}) and "
            f"folders of DeePMD-kit; it starts with {start!r}; structures without "
            "energies and forces get them from 'openmm-se3 label'"
        )
    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            return "openmm-se3"
    found = conformers.detect(path)
    if found is None:
        raise ValueError(
            f"{path} is HDF5 but neither ours nor of ANI-1, ANI-1x or COMP6: no group "
            "holds 'coordinates'"
        )
    return found


def read_source(source: Source) -> Dataset:
    """Read one file or folder.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It cannot be read, or an option does not go with its format.
    """
    path = Path(source.path)
    kind = detect_format(path) if source.format == "auto" else source.format
    _refuse_options(source, kind)
    if kind == "openmm-se3":
        dataset = read_hdf5(path)
        if source.level is not None:
            dataset = dataclasses.replace(dataset, level=PublishedLevel(source.level))
    elif kind == "extxyz":
        names = Names(
            source.energy_key,
            source.forces_key,
            source.energy_unit,
            source.length_unit,
            source.gradient,
        )
        dataset = _foreign(read_extxyz(path, names), source.level or UNKNOWN_LEVEL)
    elif kind == "deepmd":
        dataset = _foreign(read_deepmd(path), source.level or UNKNOWN_LEVEL)
    else:
        dataset = _read_conformers(source, kind)
    frames = dataset.frames
    if not len(frames):
        raise ValueError(f"{path} holds no frames")
    if source.groups is not None:
        frames = with_groups(frames, Path(source.groups))
    if source.split is not None:
        frames = _assigned(frames, source.split)
    dataset = dataclasses.replace(dataset, frames=frames)
    return _forces_of(dataset) if source.forces_only else dataset


def read_sources(sources: Sequence[Source]) -> Dataset:
    """Read several sources of one level of theory as one data set.

    Raises:
        ValueError: As :func:`read_source` and :func:`combine`; a source is given twice,
            or there is none.
    """
    if not sources:
        raise ValueError("no data files given")
    paths = [source.path for source in sources]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"a data file is given twice: {paths}")
    parts = {path: read_source(s) for path, s in zip(paths, sources, strict=True)}
    complete = [s.path for s in sources if not s.forces_only]
    for source in sources:
        if complete and source.forces_only:
            level = parts[complete[0]].level
            part = dataclasses.replace(parts[source.path], level=level)
            parts[source.path] = part
    return combine(parts)


def _forces_of(dataset: Dataset) -> Dataset:
    """Return a data set without energies; its provenance tells its level."""
    blocks = [
        dataclasses.replace(block, energy=np.full(len(block.energy), np.nan))
        for block in dataset.frames.blocks
    ]
    frames = dataset.frames
    return dataclasses.replace(
        dataset,
        frames=Frames(blocks, frames.block, frames.row),
        self_energies={},
        provenance={**dataset.provenance, "forces_only": dataset.level.to_json()},
    )


def read_datasets(paths: Sequence[str | Path]) -> Dataset:
    """Read files of formats that need no options as one data set."""
    return read_sources([Source(str(path)) for path in paths])


def hash_source(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return digest.hexdigest()


def with_groups(frames: Frames, path: Path) -> Frames:
    """Return the frames with the groups of a file as trajectories.

    Raises:
        ValueError: The file is no list of one group for each frame.
    """
    try:
        groups = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy file: {error}") from error
    if groups.shape != (len(frames),):
        raise ValueError(
            f"{path} has shape {groups.shape}, but there are {len(frames)} frames"
        )
    blocks = list(frames.blocks)
    for index, rows in frames.by_block():
        number = frames.block[index[0]]
        names = list(blocks[number].trajectory)
        for row, group in zip(rows, groups[index], strict=True):
            names[row] = f"group-{group}"
        blocks[number] = dataclasses.replace(blocks[number], trajectory=Texts.of(names))
    return Frames(blocks, frames.block, frames.row)


def with_splits(frames: Frames, splits: np.ndarray) -> Frames:
    """Return the frames with other splits.

    Args:
        frames: The frames.
        splits: Index into ``SPLITS`` of each frame [n_frames].
    """
    blocks = list(frames.blocks)
    for index, rows in frames.by_block():
        number = frames.block[index[0]]
        codes = blocks[number].split.copy()
        codes[rows] = splits[index]
        blocks[number] = dataclasses.replace(blocks[number], split=codes)
    return Frames(blocks, frames.block, frames.row)


def _assigned(frames: Frames, split: str) -> Frames:
    codes = np.full(len(frames), SPLITS.index(split), dtype=np.int8)
    frames = with_splits(frames, codes)
    blocks = [dataclasses.replace(block, assigned=True) for block in frames.blocks]
    return Frames(blocks, frames.block, frames.row)


def _foreign(frames: Frames, level: str) -> Dataset:
    return Dataset(frames, PublishedLevel(level), {})


def _read_conformers(source: Source, kind: str) -> Dataset:
    from openmm_se3.reference.readers.conformers import LAYOUTS, read_conformers
    from openmm_se3.reference.safe_hdf5 import damage_named

    layout = LAYOUTS[kind]
    if source.energy_key is not None or source.forces_key is not None:
        # Another level: its forces only if they are asked for.
        layout = dataclasses.replace(
            layout,
            energy=source.energy_key or layout.energy,
            forces=source.forces_key,
            level=source.level or f"{kind} {source.energy_key or layout.energy}",
        )
    with damage_named(source.path):
        blocks = read_conformers(Path(source.path), layout)
    return _foreign(Frames(blocks), source.level or layout.level)


def _refuse_options(source: Source, kind: str) -> None:
    """Refuse options that a format does not have.

    Raises:
        ValueError: Names the option.
    """
    default = Source(source.path)
    takes = {
        "extxyz": FORMAT_OPTIONS,
        "ani1": ("energy_key",),
        "ani1x": ("energy_key", "forces_key"),
        "comp6": ("energy_key", "forces_key"),
    }.get(kind, ())
    for name in FORMAT_OPTIONS:
        if getattr(source, name) != getattr(default, name) and name not in takes:
            raise ValueError(f"{source.path}: the format {kind} has no option {name}")

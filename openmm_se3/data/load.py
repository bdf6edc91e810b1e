"""From file names to one data set: groups, splits and levels by source."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.charged_frames import CHARGED, is_charged, refuse_charged
from openmm_se3.data.dataset import Dataset, combine
from openmm_se3.data.formats.npy import read_numbers
from openmm_se3.data.formats.registry import (
    FORMATS,
    detect_format,
    read_format,
    refuse_options,
)
from openmm_se3.data.formats.units_of_files import Units
from openmm_se3.data.frames import SPLITS, Frames, Texts
from openmm_se3.data.isolated_atoms import take_isolated_atoms
from openmm_se3.data.limits import fault_of
from openmm_se3.data.uncertain_frames import forces_std
from openmm_se3.files import sha256
from openmm_se3.units import ENERGY_UNITS, FORCE_UNITS, LENGTH_UNITS


@dataclasses.dataclass(frozen=True)
class Source:
    """One file or folder of labels and how to read it.

    Attributes:
        path: File, or folder of DeePMD-kit.
        format: One of ``FORMATS``; "auto" finds out.
        energy_key: Name of the energies, where the format has several.
        forces_key: Name of the forces, where the format has several.
        energy_unit: See ``units.ENERGY_UNITS``; None is the format's own.
        length_unit: See ``units.LENGTH_UNITS``; None is the format's own.
        force_unit: See ``units.FORCE_UNITS``; None is the energy unit per length unit.
        gradient: The forces are stored as the gradient, or not; None is as the format
            has it.
        groups: NumPy file with the group of each frame [n_frames]; frames of one group
            stay in one split.
        level: Level of theory, where the file does not say it or says it otherwise.
        split: Puts all frames into one split, whatever ``SplitConfig`` does with other
            files; None leaves it to the file.
        forces_only: Leave the energies out.  A source of another level of theory than
            the others, whose energies have another zero, can only be added so.
        charged: What a model does with frames that have a charge or unpaired electrons,
            which it cannot tell from others: "refuse" the file, "drop" the frames, or
            "keep" them, where all structures of one composition have the same charge.
        max_forces_std: Leave out frames on which the ensemble that labeled them
            disagrees: the root mean square of ``forces_std`` over the components is
            larger than this, eV/A.  Frames of no ensemble stay.
    """

    path: str
    format: str = "auto"
    energy_key: str | None = None
    forces_key: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    gradient: bool | None = None
    groups: str | None = None
    level: str | None = None
    split: str | None = None
    forces_only: bool = False
    charged: str = "refuse"
    max_forces_std: float | None = None

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: A format, unit or split is unknown.
        """
        for value, known, what in (
            (self.format, ("auto", *FORMATS), "format"),
            (self.energy_unit, (None, *ENERGY_UNITS), "energy_unit"),
            (self.length_unit, (None, *LENGTH_UNITS), "length_unit"),
            (self.force_unit, (None, *FORCE_UNITS), "force_unit"),
            (self.split, (None, *SPLITS), "split"),
            (self.charged, CHARGED, "charged"),
        ):
            if value not in known:
                names = [name for name in known if name is not None]
                raise ValueError(f"{what} must be one of {names}, got {value!r}")
        most = self.max_forces_std
        if most is not None and not most > 0.0:
            raise ValueError(f"max_forces_std must be positive (eV/A), got {most}")

    def options(self) -> dict[str, Any]:
        """Return how the file is read where that is not the default.

        Groups are told by the hash of their file, as two files may have one name.
        """
        chosen = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "path" and getattr(self, field.name) != field.default
        }
        if not chosen.keys().isdisjoint(("energy_unit", "length_unit", "gradient")):
            own = FORMATS[self.kind()]
            for name in ("energy_unit", "length_unit", "gradient"):
                if name in chosen and chosen[name] == (getattr(own, name) or False):
                    del chosen[name]
        if self.groups is not None:
            chosen["groups"] = hash_source(Path(self.groups))
        return chosen

    def kind(self) -> str:
        """Return the format; "auto" looks into the file."""
        return detect_format(Path(self.path)) if self.format == "auto" else self.format

    def units(self, kind: str) -> Units:
        """Return the units of the file, whose format is ``kind``."""
        own = FORMATS[kind]
        return Units.named(
            self.energy_unit or own.energy_unit,
            self.length_unit or own.length_unit,
            self.force_unit,
        )


def read_source(source: Source) -> Dataset:
    """Read one file or folder.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It cannot be read, or an option does not go with its format.
    """
    path = Path(source.path)
    kind = source.kind()
    refuse_options(source, kind)
    dataset = read_format(source, kind)
    frames = dataset.frames
    if not len(frames):
        raise ValueError(f"{path} holds no frames")
    if kind != "openmm-se3":  # whose reader does so
        _refuse_faults(path, frames)
    if source.groups is not None:
        frames = with_groups(frames, Path(source.groups))
    if source.split is not None:
        frames = _assigned(frames, source.split)
    notes = [*dataset.notes]
    self_energies = dataset.self_energies
    if kind != "openmm-se3":
        try:
            frames, self_energies, note = take_isolated_atoms(frames)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        notes.append(note)
    if source.charged == "drop" and (charged := is_charged(frames)).any():
        frames = frames[~charged]
        notes.append(f"{charged.sum()} frames with a charge or spin are left out")
    if source.max_forces_std is not None:
        uncertain = forces_std(frames) > source.max_forces_std
        if uncertain.all():
            raise ValueError(
                f"{path}: max_forces_std={source.max_forces_std:g} leaves no frame"
            )
        frames = frames[~uncertain]
        notes.append(f"{uncertain.sum()} frames with uncertain forces are left out")
    dataset = dataclasses.replace(
        dataset,
        frames=frames,
        self_energies=self_energies,
        notes=tuple(f"{path.name}: {note}" for note in notes if note),
    )
    return _forces_of(dataset) if source.forces_only else dataset


def _refuse_faults(path: Path, frames: Frames) -> None:
    """Refuse impossible values; those of arrays in files are looked at when read.

    Raises:
        ValueError: Names the frame and the value.
    """
    for block in frames.blocks:
        if not isinstance(block.positions, np.ndarray):
            continue
        forces, box = block.forces, block.box
        fault = fault_of(
            block.positions,
            block.energy,
            None if forces is None else np.asarray(forces[:]),
            None if box is None else np.asarray(box[:]),
        )
        if fault is not None:
            row, what = fault
            raise ValueError(
                f"{path}, frame {row} of {block.trajectory[row]}: {what}; is the unit "
                "right, or is the file damaged?"
            )


def read_sources(sources: Sequence[Source], for_model: bool = False) -> Dataset:
    """Read several sources of one level of theory as one data set.

    Args:
        sources: The sources.
        for_model: Refuse frames that a model cannot tell from others, see
            ``Source.charged``.

    Raises:
        ValueError: As :func:`read_source` and :func:`combine`; a source is given twice,
            there is none, or frames are charged.
    """
    if not sources:
        raise ValueError("no data files given")
    paths = [source.path for source in sources]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"a data file is given twice: {paths}")
    parts = {path: read_source(s) for path, s in zip(paths, sources, strict=True)}
    for source in sources:
        if for_model and source.charged == "refuse":
            refuse_charged(source.path, parts[source.path].frames)
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
    groups = read_numbers(path, "iu")
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

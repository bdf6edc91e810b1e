"""Labelled frames: in memory, and in our HDF5 format.

Layout of a file (format version 1): one group a composition (``H2O``, ``H4O2``, ...)
with

    atomic_numbers  [n_atoms]
    positions       [n_frames, n_atoms, 3]  A
    energy          [n_frames]              eV, total energy
    forces          [n_frames, n_atoms, 3]  eV/A, -dE/dx
    trajectory, kind, split  [n_frames]     strings
    temperature     [n_frames]              K, NaN where there is none

and, as attributes of the file, ``format``, ``format_version`` and, as JSON, ``units``,
``level_of_theory``, ``self_energies`` (eV, by atomic number) and ``provenance``
(commands, seeds, program versions).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.files import atomic_write
from openmm_se3.reference.level import LevelOfTheory

FORMAT = "openmm-se3 labels"
FORMAT_VERSION = 1
UNITS = {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"}
SPLITS = ("train", "validation", "test")
TEXTS = ("trajectory", "kind", "split")

# No structure is bound or strained by more than this (eV per atom) against its isolated
# atoms; a mixed-up unit or level of theory is off by hundreds.
MAX_INTERACTION = 50.0

# Files of one level agree on isolated atoms to this (eV); the direction of an open p
# shell alone moves them by 1e-4 eV.
SELF_ENERGY_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Structure:
    """A structure to be labelled, with what is known of its origin.

    Attributes:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        trajectory, kind, split, temperature: As in :class:`Frame`.
    """

    numbers: np.ndarray
    positions: np.ndarray
    trajectory: str = ""
    kind: str = ""
    split: str = "train"
    temperature: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Frame:
    """One labelled structure.

    Attributes:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        energy: Total energy, eV.
        forces: Forces [n_atoms, 3], eV/A.
        trajectory: Name shared by frames that belong together.
        kind: Where the structure comes from, such as "md" or "approach".
        split: "train", "validation" or "test".
        temperature: K; NaN where there is none.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    trajectory: str = ""
    kind: str = ""
    split: str = "train"
    temperature: float = float("nan")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled frames of one level of theory.

    Attributes:
        frames: The frames.
        level: Level of theory.
        self_energies: Energy of each isolated atom (eV), by atomic number.
        provenance: Commands, seeds and program versions.
    """

    frames: tuple[Frame, ...]
    level: LevelOfTheory
    self_energies: dict[int, float]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def select(self, split: str) -> list[Frame]:
        """Return the frames of one split.

        Raises:
            ValueError: ``split`` is not one of ``SPLITS``.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return [frame for frame in self.frames if frame.split == split]


def formula(numbers: np.ndarray) -> str:
    """Return the Hill formula of atomic numbers, such as ``H4O2``."""
    from ase.formula import Formula
    from ase.symbols import Symbols

    return str(Formula(str(Symbols(numbers))).convert("hill"))


def write_hdf5(path: str | Path, dataset: Dataset) -> None:
    """Write a data set, whole or not at all."""
    import h5py

    groups: dict[tuple[str, tuple[int, ...]], list[Frame]] = {}
    for frame in dataset.frames:
        key = (formula(frame.numbers), tuple(int(z) for z in frame.numbers))
        groups.setdefault(key, []).append(frame)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["units"] = json.dumps(UNITS)
        file.attrs["level_of_theory"] = dataset.level.to_json()
        file.attrs["self_energies"] = json.dumps(dataset.self_energies)
        file.attrs["provenance"] = json.dumps(dataset.provenance)
        names: dict[str, int] = {}
        for (name, numbers), frames in groups.items():
            # The same composition in another atom order gets a group of its own.
            names[name] = names.get(name, 0) + 1
            suffix = f"-{names[name]}" if names[name] > 1 else ""
            group = file.create_group(name + suffix)
            group["atomic_numbers"] = np.array(numbers, dtype=np.int64)
            compressed = {"compression": "gzip", "shuffle": True}
            for field in ("positions", "forces"):
                values = np.stack([getattr(frame, field) for frame in frames])
                group.create_dataset(field, data=values, **compressed)
            group["energy"] = np.array([frame.energy for frame in frames])
            group["temperature"] = np.array([frame.temperature for frame in frames])
            for field in TEXTS:
                texts = [getattr(frame, field) for frame in frames]
                group.create_dataset(field, data=texts, dtype=h5py.string_dtype())


def read_hdf5(path: str | Path) -> Dataset:
    """Read a data set.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of ours, of another version, damaged, or its
            content does not fit together.
    """
    from openmm_se3.reference.safe_hdf5 import groups, open_hdf5, text_attribute

    path = Path(path)
    frames: list[Frame] = []
    with open_hdf5(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path} is HDF5 but not a file of '{FORMAT}'")
        version = file.attrs.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version}; this program reads "
                f"{FORMAT_VERSION}: a newer file needs a newer openmm-se3"
            )
        try:
            units = json.loads(text_attribute(file, "units"))
            level = LevelOfTheory.from_json(text_attribute(file, "level_of_theory"))
            energies = json.loads(text_attribute(file, "self_energies"))
            self_energies = {int(z): float(energy) for z, energy in energies.items()}
            provenance = json.loads(text_attribute(file, "provenance"))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has a damaged description: {error}") from error
        if units != UNITS:
            raise ValueError(f"{path} has units {units}, expected {UNITS}")
        for name, group in groups(file):
            frames += _read_group(f"{path}, group {name}", name, group)
    if not frames:
        raise ValueError(f"{path} holds no frames")
    try:
        _check_self_energies(frames, self_energies)
        check_splits(frames)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Dataset(tuple(frames), level, self_energies, provenance)


def _read_group(place: str, name: str, group: Any) -> Iterator[Frame]:
    from openmm_se3.reference.safe_hdf5 import read_array, read_texts

    numbers = read_array(group, "atomic_numbers", "iu")
    positions, forces = read_array(group, "positions"), read_array(group, "forces")
    energy, temperature = read_array(group, "energy"), read_array(group, "temperature")
    texts = {field: read_texts(group, field) for field in TEXTS}
    shape = (len(energy), len(numbers), 3)
    if positions.shape != shape or forces.shape != shape:
        raise ValueError(
            f"{place}: positions {positions.shape} and forces {forces.shape} should "
            f"both be {shape}"
        )
    lengths = {field: len(texts[field]) for field in TEXTS}
    lengths["temperature"] = len(temperature)
    if set(lengths.values()) != {len(energy)}:
        raise ValueError(f"{place}: {len(energy)} energies, but {lengths}")
    if not all(np.isfinite(x).all() for x in (positions, forces, energy)):
        raise ValueError(f"{place}: NaN or infinite labels")
    for i in range(len(energy)):
        yield Frame(
            numbers=numbers,
            positions=positions[i],
            energy=float(energy[i]),
            forces=forces[i],
            temperature=float(temperature[i]),
            # Names are unique within a composition only.
            trajectory=f"{name}/{texts['trajectory'][i].removeprefix(name + '/')}",
            kind=texts["kind"][i],
            split=texts["split"][i],
        )


def _check_self_energies(
    frames: Iterable[Frame], self_energies: dict[int, float]
) -> None:
    """Refuse energies that cannot belong to the self-energies."""
    for frame in frames:
        missing = set(frame.numbers.tolist()) - set(self_energies)
        if missing:
            raise ValueError(f"no self-energy for atomic numbers {sorted(missing)}")
        isolated = sum(self_energies[z] for z in frame.numbers.tolist())
        interaction = (frame.energy - isolated) / len(frame.numbers)
        if abs(interaction) > MAX_INTERACTION:
            raise ValueError(
                f"a frame of {frame.trajectory} is {interaction:.1f} eV per atom away "
                "from its isolated atoms: are units or levels of theory mixed up?"
            )


def check_splits(
    frames: Iterable[Structure | Frame], trajectories: bool = True
) -> None:
    """Refuse splits that share a trajectory or a structure.

    Args:
        frames: Frames of one file, or of several.
        trajectories: Compare the names of trajectories too; these are unique within a
            file only.

    Raises:
        ValueError: Names the split, trajectory or structure.
    """
    splits: dict[tuple[bytes, bytes | str], str] = {}
    for index, frame in enumerate(frames):
        if frame.split not in SPLITS:
            raise ValueError(
                f"frame {index}: split must be one of {SPLITS}, got {frame.split!r}"
            )
        composition = frame.numbers.astype("<i8").tobytes()
        shared: list[tuple[str, bytes | str]] = [
            ("the same structure", frame.positions.tobytes())
        ]
        if trajectories:
            shared.append((f"trajectory {frame.trajectory!r}", frame.trajectory))
        for what, name in shared:
            other = splits.setdefault((composition, name), frame.split)
            if other != frame.split:
                raise ValueError(
                    f"frame {index}: {what} is in {other!r} and in {frame.split!r}; "
                    "a test on what was trained on proves nothing"
                )


def read_datasets(paths: Sequence[str | Path]) -> Dataset:
    """Read several files of one level of theory as one data set.

    Raises:
        ValueError: The levels of theory or the self-energies differ, the same structure
            is in two splits, a file is given twice, or there is none.
    """
    if not paths:
        raise ValueError("no data files given")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"a data file is given twice: {[str(path) for path in paths]}")
    parts = [read_hdf5(path) for path in paths]
    self_energies: dict[int, float] = {}
    for path, part in zip(paths, parts, strict=True):
        if part.level != parts[0].level:
            raise ValueError(
                f"{path} was labelled with {part.level.to_json()}, "
                f"{paths[0]} with {parts[0].level.to_json()}: train on one level only"
            )
        for number, energy in part.self_energies.items():
            known = self_energies.setdefault(number, energy)
            if abs(energy - known) > SELF_ENERGY_TOLERANCE:
                raise ValueError(
                    f"{path} has the self-energy {energy} eV for atomic number "
                    f"{number}, another file {known} eV"
                )
    frames = tuple(frame for part in parts for frame in part.frames)
    check_splits(frames, trajectories=False)
    return Dataset(
        frames=frames,
        level=parts[0].level,
        self_energies=self_energies,
        provenance={
            Path(path).name: part.provenance
            for path, part in zip(paths, parts, strict=True)
        },
    )

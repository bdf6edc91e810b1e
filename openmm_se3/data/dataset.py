"""A set of labeled frames of one level of theory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from openmm_se3.data.frames import SPLITS, Frame, Frames, Structure, join
from openmm_se3.data.level_of_theory import Level

# Files of one level agree on isolated atoms to this (eV); the direction of an open p
# shell alone moves them by 1e-4 eV.
SELF_ENERGY_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labeled frames of one level of theory.

    Attributes:
        frames: The frames.
        level: Level of theory.
        self_energies: Energy of each isolated atom (eV), by atomic number; empty if
            these are not known.
        provenance: Commands, seeds and program versions.
        notes: What was found or decided while reading, for the user.
    """

    frames: Frames
    level: Level
    self_energies: dict[int, float]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def select(self, split: str) -> Frames:
        """Return the frames of one split.

        Raises:
            ValueError: ``split`` is not one of ``SPLITS``.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return self.frames[self.frames.column("split") == SPLITS.index(split)]


def formula(numbers: np.ndarray) -> str:
    """Return the Hill formula of atomic numbers, such as ``H4O2``."""
    from ase.formula import Formula
    from ase.symbols import Symbols

    return str(Formula(str(Symbols(numbers))).convert("hill"))


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


def combine(parts: dict[str, Dataset]) -> Dataset:
    """Return several data sets of one level of theory as one.

    Args:
        parts: Data sets by the name of their source.

    Raises:
        ValueError: The levels of theory or the self-energies differ, or the same
            structure is in two splits.
    """
    first_name, first = next(iter(parts.items()))
    self_energies: dict[int, float] = {}
    for name, part in parts.items():
        if part.level != first.level:
            levels = [str(part.level), str(first.level)]
            if levels[0] == levels[1]:
                levels = [part.level.to_json(), first.level.to_json()]
            raise ValueError(
                f"{name} was labeled with {levels[0]}, {first_name} with {levels[1]}: "
                "energies of two levels, or of two programs, cannot be trained on "
                "together; forces_only: true leaves those of a file out"
            )
        for number, energy in part.self_energies.items():
            known = self_energies.setdefault(number, energy)
            if abs(energy - known) > SELF_ENERGY_TOLERANCE:
                raise ValueError(
                    f"{name} has the self-energy {energy} eV for atomic number "
                    f"{number}, another file {known} eV"
                )
    frames = join(part.frames for part in parts.values())
    check_splits(frames.in_memory(), trajectories=False)
    return Dataset(
        frames=frames,
        level=first.level,
        self_energies=self_energies,
        provenance={name: part.provenance for name, part in parts.items()},
        notes=tuple(note for part in parts.values() for note in part.notes),
    )

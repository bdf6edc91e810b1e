"""Labeled frames, one by one and by the million.

A :class:`Frame` is one structure with its labels.  :class:`Frames` is a sequence of
them that keeps positions, forces and boxes where they are, in memory or in an HDF5
file, and reads a frame when it is asked for: five million conformations need a few
numbers each, not their coordinates.

Missing labels are NaN, or None in place of all forces of a frame.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from openmm_se3.data.limits import fault_of

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Structure:
    """A structure to be labeled, with what is known of its origin.

    Attributes:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        trajectory, kind, split, temperature: As in :class:`Frame`.
        charge, spin: As in :class:`Frame`; None leaves them to the level of theory.
    """

    numbers: np.ndarray
    positions: np.ndarray
    trajectory: str = ""
    kind: str = ""
    split: str = "train"
    temperature: float = float("nan")
    charge: int | None = None
    spin: int | None = None


@dataclasses.dataclass(frozen=True)
class Frame:
    """One labeled structure.

    Attributes:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        energy: Total energy, eV; NaN if it is not known.
        forces: Forces [n_atoms, 3], eV/A; None if they are not known, NaN where one is
            not.
        trajectory: Name shared by frames that belong together.
        kind: Where the structure comes from, such as "md" or "approach".
        split: "train", "validation" or "test".
        temperature: K; NaN where there is none.
        box: Lattice vectors as rows [3, 3], A; None without a box.
        charge: Total charge, elementary charges.
        spin: Number of unpaired electrons (2S, the multiplicity less one).
        energy_std: Standard deviation of the energy over an ensemble that labeled the
            frame, eV; NaN where there was none.
        forces_std: The same of the forces [n_atoms, 3], eV/A; None where there was
            none.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray | None
    trajectory: str = ""
    kind: str = ""
    split: str = "train"
    temperature: float = float("nan")
    box: np.ndarray | None = None
    charge: int = 0
    spin: int = 0
    energy_std: float = float("nan")
    forces_std: np.ndarray | None = None

    def fault(self) -> str | None:
        """Return what no structure or label can be; None if all values are possible."""
        found = fault_of(
            self.positions[None],
            np.array([self.energy]),
            None if self.forces is None else self.forces[None],
            None if self.box is None else self.box[None],
        )
        return None if found is None else found[1]


class Rows(Protocol):
    """An array whose first axis is the frame and which may be a part of a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, the number of frames first."""
        ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return one frame, or the frames of a slice."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Texts(Sequence[str]):
    """One name a frame, where few names are many frames'.

    Attributes:
        names: The different names.
        codes: Index into ``names`` of each frame [n_frames].
    """

    names: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Return these texts."""
        index: dict[str, int] = {}
        codes = [index.setdefault(text, len(index)) for text in texts]
        return cls(tuple(index), np.array(codes, dtype=np.int32))

    @classmethod
    def same(cls, text: str, n_frames: int) -> Texts:
        """Return one text for all frames."""
        return cls((text,), np.zeros(n_frames, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> Any:
        """Return the text of one frame."""
        return self.names[self.codes[index]]


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Frames of the same atoms in the same order.

    Attributes:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_frames, n_atoms, 3], A.
        energy: Total energies [n_frames], eV; NaN where they are not known.
        forces: Forces [n_frames, n_atoms, 3], eV/A; None if there are none.
        trajectory, kind: Names by frame.
        split: Index into ``SPLITS`` by frame [n_frames].
        temperature: K, by frame [n_frames]; NaN where there is none.
        box: Lattice vectors as rows [n_frames, 3, 3], A; None without a box.
        source: File that the frames come from.
        assigned: The splits are those that the user gave the whole file; no rule
            divides it.
        charge: Total charges [n_frames], elementary charges; None if all are 0.
        spin: Numbers of unpaired electrons [n_frames]; None if all are 0.
        energy_std: Standard deviations of the energies [n_frames], eV, NaN where they
            are not known; None if none is.
        forces_std: Standard deviations of the forces [n_frames, n_atoms, 3], eV/A;
            None if there are none.
    """

    numbers: np.ndarray
    positions: Rows
    energy: np.ndarray
    forces: Rows | None
    trajectory: Texts
    kind: Texts
    split: np.ndarray
    temperature: np.ndarray
    box: Rows | None = None
    source: str = ""
    assigned: bool = False
    charge: np.ndarray | None = None
    spin: np.ndarray | None = None
    energy_std: np.ndarray | None = None
    forces_std: Rows | None = None

    def frame(self, row: int) -> Frame:
        """Return one frame."""
        return Frame(
            numbers=self.numbers,
            positions=np.asarray(self.positions[row]),
            energy=float(self.energy[row]),
            forces=None if self.forces is None else np.asarray(self.forces[row]),
            trajectory=self.trajectory[row],
            kind=self.kind[row],
            split=SPLITS[self.split[row]],
            temperature=float(self.temperature[row]),
            box=None if self.box is None else np.asarray(self.box[row]),
            charge=0 if self.charge is None else int(self.charge[row]),
            spin=0 if self.spin is None else int(self.spin[row]),
            energy_std=(
                float("nan") if self.energy_std is None else float(self.energy_std[row])
            ),
            forces_std=(
                None if self.forces_std is None else np.asarray(self.forces_std[row])
            ),
        )


def block_of(frames: Sequence[Frame], source: str = "") -> Block:
    """Return frames of the same atoms as a block in memory.

    Raises:
        ValueError: A split is unknown.
    """
    first = frames[0]
    for index, frame in enumerate(frames):
        if frame.split not in SPLITS:
            raise ValueError(
                f"frame {index}: split must be one of {SPLITS}, got {frame.split!r}"
            )
    return Block(
        numbers=first.numbers,
        positions=np.stack([frame.positions for frame in frames]),
        energy=np.array([frame.energy for frame in frames], dtype=float),
        forces=(
            None
            if first.forces is None
            else np.stack(
                [frame.forces for frame in frames if frame.forces is not None]
            )
        ),
        trajectory=Texts.of(frame.trajectory for frame in frames),
        kind=Texts.of(frame.kind for frame in frames),
        split=np.array([SPLITS.index(f.split) for f in frames], dtype=np.int8),
        temperature=np.array([frame.temperature for frame in frames], dtype=float),
        box=(
            None
            if first.box is None
            else np.stack([frame.box for frame in frames if frame.box is not None])
        ),
        source=source,
        charge=np.array([frame.charge for frame in frames], dtype=np.int64),
        spin=np.array([frame.spin for frame in frames], dtype=np.int64),
        energy_std=np.array([frame.energy_std for frame in frames], dtype=float),
        forces_std=(
            None
            if first.forces_std is None
            else np.stack(
                [frame.forces_std for frame in frames if frame.forces_std is not None]
            )
        ),
    )


class Frames(Sequence[Frame]):
    """A sequence of labeled frames in blocks; a slice or a choice copies no labels.

    Args:
        blocks: The blocks.
        block: Block of each frame [n_frames]; by default all frames, in order.
        row: Row of each frame in its block [n_frames].
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        block: np.ndarray | None = None,
        row: np.ndarray | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        if block is None or row is None:
            lengths = [len(b.energy) for b in self.blocks]
            block = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
            row = np.concatenate(
                [np.zeros(0, np.int32)]
                + [np.arange(n, dtype=np.int32) for n in lengths]
            )
        self.block, self.row = block, row

    def __repr__(self) -> str:
        """Say how many frames of how many atoms these are."""
        sizes = sorted({int(n) for n in np.unique(self.n_atoms)})
        atoms = f" of {sizes[0]} to {sizes[-1]} atoms" if sizes else ""
        return f"Frames({len(self):,} frames{atoms})"

    @classmethod
    def of(cls, frames: Iterable[Frame], source: str = "") -> Frames:
        """Return frames given one by one, in their order.

        Raises:
            ValueError: A split is unknown.
        """
        if isinstance(frames, Frames):
            return frames
        members: dict[tuple[Any, ...], list[Frame]] = {}
        places = []
        for frame in frames:
            numbers = tuple(int(z) for z in frame.numbers)
            missing = (
                frame.forces is None,
                frame.box is None,
                frame.forces_std is None,
            )
            key = (numbers, *missing)
            group = members.setdefault(key, [])
            places.append((key, len(group)))
            group.append(frame)
        index = {key: i for i, key in enumerate(members)}
        return cls(
            [block_of(group, source) for group in members.values()],
            np.array([index[key] for key, _ in places], dtype=np.int32),
            np.array([row for _, row in places], dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.block)

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Frames: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> Frame | Frames:
        """Return one frame, or the frames of a slice, of indices or of a mask."""
        if isinstance(index, (slice, np.ndarray)):
            return Frames(self.blocks, self.block[index], self.row[index])
        return self.blocks[self.block[index]].frame(int(self.row[index]))

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> np.ndarray:
        """Return a number of all frames [n_frames], such as the energy or the split."""
        values = [
            np.zeros(len(block.energy), dtype=np.int64)
            if getattr(block, name) is None
            else getattr(block, name)
            for block in self.blocks
        ]
        result = np.empty(len(self), dtype=values[0].dtype if values else float)
        for index, rows in self.by_block():
            result[index] = values[self.block[index[0]]][rows]
        return result

    @functools.cached_property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms of each frame [n_frames]."""
        sizes = np.array([len(block.numbers) for block in self.blocks], dtype=np.int32)
        return sizes[self.block]

    def in_memory(self) -> Frames:
        """Return the frames whose positions need not be read from a file."""
        held = np.array([isinstance(b.positions, np.ndarray) for b in self.blocks])
        return self[held[self.block]] if len(self) else self

    def by_block(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, for each block that occurs, indices of its frames and their rows."""
        if not len(self):
            return
        order = np.argsort(self.block, kind="stable")
        ends = np.flatnonzero(np.diff(self.block[order])) + 1
        for index in np.split(order, ends):
            yield index, self.row[index]

    def isolated_energies(self, self_energies: Mapping[int, float]) -> np.ndarray:
        """Return the energy of each frame's atoms far from each other [n_frames], eV.

        Raises:
            ValueError: An element has no self-energy.
        """
        sums = np.zeros(len(self.blocks))
        for index in np.unique(self.block):
            numbers = self.blocks[index].numbers.tolist()
            missing = sorted(set(numbers) - set(self_energies))
            if missing:
                raise ValueError(f"no self-energy for atomic numbers {missing}")
            sums[index] = sum(self_energies[z] for z in numbers)
        return sums[self.block]


def join(parts: Iterable[Frames]) -> Frames:
    """Return several sequences of frames as one."""
    blocks: list[Block] = []
    block, row = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for part in parts:
        block.append(part.block + np.int32(len(blocks)))
        row.append(part.row)
        blocks += part.blocks
    return Frames(blocks, np.concatenate(block), np.concatenate(row))

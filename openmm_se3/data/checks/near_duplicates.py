"""Near-duplicates: validation and test structures that training has nearly seen.

Structures of one formula are compared by their distances, sorted within each pair of
elements, which neither rotation nor the order of atoms changes.  Periodic frames are
left out: the sorted distances of a liquid are nearly the same in every frame.  So are
frames of more than ``MOST_ATOMS`` atoms, whose distances would fill the memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from openmm_se3.data.frames import SPLITS, Frames

TRAIN = SPLITS.index("train")

# Root mean square difference of distances (A) below which two structures are nearly the
# same.
NEAR = 0.02
# Frames compared at most, over all formulas: of validation and test, of training.
COMPARED, COMPARED_WITH = 5_000, 200_000
# Distances of a frame compared at most, evenly spaced in their order.
DISTANCES = 64
MOST_ATOMS = 500
# Frames compared at a time, so that differences of all pairs fit into memory.
AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """How near the structures of validation and test come to those of training.

    Attributes:
        compared: Structures compared with the training structures.
        near: How many of these are nearer than ``NEAR`` to one of them.
        closest: Smallest difference, A; infinite if nothing could be compared.
        pair: Trajectories of the closest pair.
        sampled: Not all structures were compared, but a random sample of them.
    """

    compared: int
    near: int
    closest: float
    pair: tuple[str, str]
    sampled: bool

    def __str__(self) -> str:
        which = "structures, of a random sample," if self.sampled else "structures"
        return (
            f"{self.near:,} of {self.compared:,} validation and test {which} are "
            f"nearly training structures; the closest, {self.pair[0]} and "
            f"{self.pair[1]}, differ by {self.closest:.4f} A"
        )


def near_duplicates(frames: Frames) -> NearDuplicates:
    """Compare validation and test structures with the training structures.

    Of formulas that only one side has nothing is read.

    Args:
        frames: The frames, in memory or in files.
    """
    rng = np.random.default_rng(0)
    compared, near, closest, pair, sampled = 0, 0, np.inf, ("", ""), False
    n_train = int((frames.column("split") == TRAIN).sum())
    n_other = len(frames) - n_train
    for train, other in _by_formula(frames):
        reference = _sample(train, COMPARED_WITH * len(train) // max(n_train, 1), rng)
        tested = _sample(other, COMPARED * len(other) // max(n_other, 1), rng)
        sampled |= len(reference) < len(train) or len(tested) < len(other)
        difference, nearest = _nearest(
            sorted_distances(tested), sorted_distances(reference)
        )
        compared += len(tested)
        near += int((difference < NEAR).sum())
        least = int(difference.argmin())
        if difference[least] < closest:
            closest = float(difference[least])
            first, second = tested[least], reference[int(nearest[least])]
            pair = (first.trajectory, second.trajectory)
    return NearDuplicates(compared, near, closest, pair, sampled)


def sorted_distances(frames: Frames) -> np.ndarray:
    """Return distances of frames of one formula [n_frames, n_distances], A.

    They are sorted within each pair of elements; of more than ``DISTANCES`` as many,
    evenly spaced, are taken.
    """
    n_atoms = int(frames.n_atoms[0])
    chosen = np.arange(n_atoms * (n_atoms - 1) // 2)
    if len(chosen) > DISTANCES:
        chosen = np.linspace(0, len(chosen) - 1, DISTANCES).round().astype(int)
    result = np.empty((len(frames), len(chosen)))
    i, j = np.triu_indices(n_atoms, 1)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        elements = np.sort(block.numbers[np.stack([i, j], axis=1)], axis=1)
        _, kind = np.unique(elements, axis=0, return_inverse=True)
        order = np.argsort(kind, kind="stable")
        ends = np.cumsum(np.bincount(kind))[:-1]
        for start in range(0, len(rows), AT_ONCE):
            positions = np.asarray(block.positions[rows[start : start + AT_ONCE]])
            vectors = positions[:, i[order]] - positions[:, j[order]]
            distances = np.linalg.norm(vectors, axis=-1)
            for of_kind in np.split(distances, ends, axis=1):
                of_kind.sort(axis=1)  # a view
            result[index[start : start + AT_ONCE]] = distances[:, chosen]
    return result


def _nearest(
    tested: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's difference from its nearest in the reference, A, and which.

    All are compared with all by products of matrices: no tree finds neighbors among
    so many distances faster.
    """
    center = reference.mean(axis=0)
    there = (reference - center).astype(np.float32)
    squares = (there**2).sum(axis=1)
    nearest = np.empty(len(tested), dtype=np.int64)
    for start in range(0, len(tested), AT_ONCE):
        here = (tested[start : start + AT_ONCE] - center).astype(np.float32)
        nearest[start : start + AT_ONCE] = (squares - 2.0 * here @ there.T).argmin(1)
    difference = tested - reference[nearest]
    return np.sqrt((difference**2).mean(axis=1)), nearest


def _by_formula(frames: Frames) -> Iterator[tuple[Frames, Frames]]:
    """Yield training and other frames of each formula that has both."""
    members: dict[bytes, list[np.ndarray]] = {}
    for index, _ in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        if block.box is None and 1 < len(block.numbers) <= MOST_ATOMS:
            members.setdefault(np.sort(block.numbers).tobytes(), []).append(index)
    training = frames.column("split") == TRAIN
    for parts in members.values():
        index = np.concatenate(parts)
        train, other = index[training[index]], index[~training[index]]
        if len(train) and len(other):
            yield frames[train], frames[other]


def _sample(frames: Frames, share: int, rng: np.random.Generator) -> Frames:
    most = max(share, 1)
    if len(frames) <= most:
        return frames
    return frames[np.sort(rng.choice(len(frames), most, replace=False))]

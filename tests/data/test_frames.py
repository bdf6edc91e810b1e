"""Frames in blocks: whatever is chosen, every label stays with its frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import SPLITS, Frame, Frames, join
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import hash_source, with_groups, with_splits

WATER, HYDROXYL, ANOTHER_ORDER = [8, 1, 1], [8, 1], [1, 8, 1]
KINDS = [WATER, HYDROXYL, WATER, ANOTHER_ORDER, WATER, HYDROXYL, WATER]


def numbered_frames(first: int = 0) -> list[Frame]:
    """Return frames whose every label tells which one it is."""
    return [
        Frame(
            numbers=np.array(numbers),
            positions=np.full((len(numbers), 3), float(i)),
            energy=-float(i),
            forces=np.full((len(numbers), 3), 0.1 * i),
            trajectory=f"t{i}",
            kind=f"k{i}",
            split=SPLITS[i % 3],
            temperature=100.0 + i,
            box=np.diag([10.0 + i] * 3) if numbers == HYDROXYL else None,
        )
        for i, numbers in enumerate(KINDS, start=first)
    ]


def assert_labels(frames: Frames, expected: list[int]) -> None:
    """Check every label of frames against the numbers of these."""
    assert len(frames) == len(expected)
    assert frames.column("energy").tolist() == [-i for i in expected]
    assert frames.column("temperature").tolist() == [100.0 + i for i in expected]
    assert frames.column("split").tolist() == [i % 3 for i in expected]
    sizes = [len(KINDS[i % len(KINDS)]) for i in expected]
    assert frames.n_atoms.tolist() == sizes
    energies = {1: 1.0, 8: 100.0}
    isolated = [sum(energies[z] for z in KINDS[i % len(KINDS)]) for i in expected]
    assert frames.isolated_energies(energies).tolist() == isolated
    for i, frame in zip(expected, frames, strict=True):
        assert frame.numbers.tolist() == KINDS[i % len(KINDS)]
        assert frame.energy == -i and frame.temperature == 100.0 + i
        # In a file the name has that of its group before it.
        assert frame.trajectory.split("/")[-1] == f"t{i}" and frame.kind == f"k{i}"
        assert frame.split == SPLITS[i % 3]
        assert (frame.positions == i).all()
        assert frame.forces is not None and np.allclose(frame.forces, 0.1 * i)
        assert (frame.box is not None) is (frame.numbers.tolist() == HYDROXYL)
        assert frame.box is None or frame.box[0, 0] == 10.0 + i


@pytest.mark.parametrize(
    "choice",
    [
        slice(None),
        slice(2, None),
        slice(None, None, -1),
        np.array([6, 1, 4, 4, 0]),
        np.array([False, True, True, False, False, True, True]),
        np.array([], dtype=int),
    ],
    ids=["all", "last", "reversed", "repeated", "mask", "none"],
)
def test_labels_of_chosen_frames(choice: slice | np.ndarray) -> None:
    frames = Frames.of(numbered_frames())
    assert_labels(frames[choice], np.arange(7)[choice].tolist())
    assert_labels(frames[choice][::2], np.arange(7)[choice][::2].tolist())


def test_labels_of_joined_frames() -> None:
    parts = [Frames.of(numbered_frames()), Frames.of(numbered_frames(7))]
    assert_labels(join([parts[0][1:4], parts[1][::3]]), [1, 2, 3, 7, 10, 13])
    assert_labels(join(parts)[8:], [8, 9, 10, 11, 12, 13])


@pytest.mark.parametrize("split", SPLITS)
def test_labels_of_a_split(split: str) -> None:
    data = Dataset(Frames.of(numbered_frames()), LevelOfTheory(), {})
    expected = [i for i in range(7) if SPLITS[i % 3] == split]
    assert_labels(data.select(split), expected)


def test_labels_of_chosen_frames_in_a_file(tmp_path: Path) -> None:
    chosen = Frames.of(numbered_frames())[np.array([6, 5, 2, 4])]
    path = tmp_path / "some.h5"
    write_hdf5(path, Dataset(chosen, LevelOfTheory(), {1: -1.0, 8: -2.0}))
    read = read_hdf5(path).frames
    found = [-int(energy) for energy in read.column("energy")]
    assert sorted(found) == [2, 4, 5, 6]
    assert_labels(read, found)


def test_groups_and_splits_go_to_their_frames(tmp_path: Path) -> None:
    chosen = Frames.of(numbered_frames())[np.array([5, 1, 6, 3, 0])]
    np.save(tmp_path / "groups.npy", np.array([50, 10, 60, 30, 0]))
    grouped = with_groups(chosen, tmp_path / "groups.npy")
    numbers = [5, 1, 6, 3, 0]
    assert [frame.trajectory for frame in grouped] == [
        f"group-{10 * n}" for n in numbers
    ]
    divided = with_splits(chosen, np.array([0, 1, 2, 1, 2]))
    assert divided.column("split").tolist() == [0, 1, 2, 1, 2]
    for changed in (grouped, divided):
        assert changed.column("energy").tolist() == [-n for n in numbers]
    assert_labels(chosen, numbers)  # which did not change


def test_hash_of_a_folder_is_that_of_names_and_contents(tmp_path: Path) -> None:
    contents = [
        {"a.npy": "1", "set/b.npy": "2"},
        {"set/b.npy": "2", "a.npy": "1"},
        {"a.npy": "2", "set/b.npy": "1"},
        {"a.npy": "1", "b.npy": "2"},
    ]
    hashes = []
    for number, files in enumerate(contents):
        for name, text in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        hashes.append(hash_source(tmp_path / str(number)))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3

"""Structures to label."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from cheap_labels import waters, write_xyz

from openmm_se3.data.dataset import check_splits
from openmm_se3.data.labeling.label import read_structures


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no structures"),
        ("<html>\n", "line 1.*number of atoms"),
        ("3\n\nO 0 0 0\nH 0 0 1\n", "ends after 2 of 3 atoms"),
        ("1\n\nQq 0 0 0\n", "frame 0.*Qq"),
        ("1\n\nX 0 0 0\n", "frame 0.*'X'"),
        ("1\n\nH nan 0 0\n", "frame 0: positions are not finite"),
        ('1\nLattice="9 0 0 0 9 0 0 0 9"\nH 0 0 0\n', "frame 0: periodic"),
        ("1\nsplit=dev\nH 0 0 0\n", "split must be one of"),
        ("1\ntemperature=hot\nH 0 0 0\n", "temperature 'hot'"),
        ("2\n\nH 0 0 0\nH 0 0 0.074\n", "are these nm"),
        (
            "1\ntrajectory=a split=train\nH 0 0 0\n"
            "1\ntrajectory=a split=test\nH 0 0 1\n",
            "frame 1: trajectory 'a' is in 'train' and in 'test'",
        ),
    ],
)
def test_wrong_structure_file(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.xyz"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_structures(path)


def test_structures_survive_extended_xyz(tmp_path: Path) -> None:
    structures = waters(3)
    for read, made in zip(
        read_structures(write_xyz(tmp_path / "in.xyz", structures)),
        structures,
        strict=True,
    ):
        assert np.abs(read.positions - made.positions).max() < 1e-8
        assert (read.trajectory, read.kind, read.split, read.temperature) == (
            made.trajectory,
            made.kind,
            made.split,
            made.temperature,
        )


def test_same_structure_in_two_splits_is_refused() -> None:
    one, two = waters(2)
    two = dataclasses.replace(two, positions=one.positions)
    with pytest.raises(ValueError, match="the same structure is in 'train' and in"):
        check_splits([one, two])

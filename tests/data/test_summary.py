"""The summary of data files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner
from data_files import write_conformers

from openmm_se3.cli import main
from openmm_se3.data.checks.summary import inspect
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.self_energies import self_energies


def test_inspect_says_what_is_there_and_what_is_wrong(
    frames: list[Frame], tmp_path: Path
) -> None:
    good = write_conformers(tmp_path / "good.h5", frames)
    result = CliRunner().invoke(main, ["data", "inspect", str(good)])
    assert result.exit_code == 0, result.output
    n = len(frames)
    for text in (
        f"{n:,}",
        "H4O2",
        "least squares",
        "standard deviation",
        "rank 1 of 2",
    ):
        assert text in result.output, text
    # The gradient of COMP6, read as ANI-1x's force.
    wrong = write_conformers(tmp_path / "wrong.h5", frames, sign=-1.0)
    result = CliRunner().invoke(main, ["data", "inspect", str(wrong)])
    assert result.exit_code == 1
    assert "FAIL" in result.output and "gradient" in result.output


def test_inspection_counts_what_was_planted(dataset: Dataset) -> None:
    frames = list(dataset.frames)
    clean = inspect(dataset, self_energies(dataset))
    assert clean.doubled == 0 and clean.no_energy == 0 and not clean.outliers
    planted = [
        frames[0],
        dataclasses.replace(frames[1], energy=float("nan")),
        dataclasses.replace(frames[2], forces=None),
        dataclasses.replace(frames[3], energy=frames[3].energy + 50.0),
        dataclasses.replace(frames[4], forces=100.0 * frames[4].forces),
    ]
    dirty = dataclasses.replace(dataset, frames=Frames.of([*frames, *planted]))
    found = inspect(dirty, self_energies(dataset))
    assert (found.doubled, found.no_energy, found.no_forces) == (5, 1, 1)
    assert len(found.outliers) == 2
    assert found.frames == len(frames) + 5
    interaction = dataset.frames.column("energy") - dataset.frames.isolated_energies(
        dataset.self_energies
    )
    assert clean.interaction == pytest.approx((interaction.mean(), interaction.std()))

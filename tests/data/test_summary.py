"""The summary of data files."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from data_files import write_conformers
from rich.console import Console

from openmm_se3.cli import main
from openmm_se3.data.checks.summary import inspect
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import Source
from openmm_se3.data.self_energies import self_energies
from openmm_se3.data.splits import SplitConfig
from openmm_se3.training.config import DataConfig
from openmm_se3.training.prepare import read_data


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


def test_brackets_of_the_users_are_text_and_not_markup(
    frames: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "labels.xyz"
    for number, frame in enumerate(frames):
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.info["kind"] = ("md[nvt]", "md[/npt]")[number % 2]
        atoms.calc = SinglePointCalculator(
            atoms, energy=frame.energy, forces=frame.forces
        )
        write(path, atoms, append=number > 0)
    level = "PBE[/tight]"
    arguments = ["data", "inspect", str(path), "--level", level]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    for text in ("md[nvt]", "md[/npt]", level):
        assert text in result.output
    shown = io.StringIO()
    source = Source(str(path), level=level)
    split = SplitConfig(by="trajectory")
    data = DataConfig(files=(source,), split=split)
    with pytest.warns(UserWarning, match="apart"):  # self-energies of one composition
        read_data(data, Console(file=shown, width=200))
    assert level in shown.getvalue()


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

"""Charge and spin of each frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from xyz_files import WATER

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.charges import charge_and_spin, charge_of_smiles
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling.label import (
    level_of,
    read_structures,
    structure_key,
)
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import (
    Source,
)
from openmm_se3.training.config import DataConfig
from openmm_se3.training.prepare import read_data


def test_charge_and_multiplicity_of_a_frame() -> None:
    water, hydroxyl = np.array([8, 1, 1]), np.array([8, 1])
    assert charge_and_spin({}, water) == (None, None)
    assert charge_and_spin({"charge": "2", "multiplicity": "1"}, water) == (2, 0)
    assert charge_and_spin({"charge": "+1", "spin": "1"}, water) == (1, 1)
    assert charge_and_spin({"Charge": "1", "MULT": "2"}, water) == (1, 1)
    assert charge_and_spin({"net_charge": "-1", "total_spin": "1"}, water) == (-1, 1)
    # A spin that does not go with the electrons is a multiplicity.
    assert charge_and_spin({"charge": "0", "spin": "1"}, water) == (0, 0)
    assert charge_and_spin({"spin": "3"}, water) == (None, 2)
    assert charge_and_spin({"spin": "2"}, hydroxyl) == (None, 1)
    for info in (
        {"charge": "0.5"},
        {"charge": "one"},
        {"multiplicity": "2"},
        {"multiplicity": "0"},
        {"spin": "2", "multiplicity": "1"},
        {"charge": "2", "total_charge": "4"},
    ):
        with pytest.raises(ValueError, match=next(iter(info.values()))):
            charge_and_spin(info, water)
    assert charge_of_smiles("[NH3+:1][CH2:2]C(=O)[O-:3].[Ca++].[Mg+2:7]") == 4


def test_label_uses_the_charge_of_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "a@1.xyz"  # an at sign means nothing
    path.write_text(
        "3\ncharge=2 multiplicity=1\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
        "3\n\nO 0 0 1\nH 0.96 0 1\nH -0.24 0.93 1\n"
    )
    dication, water = read_structures(path)
    assert (dication.charge, dication.spin) == (2, 0)
    assert (water.charge, water.spin) == (None, None)
    level = LevelOfTheory()
    assert level_of(dication, level).charge == 2
    assert level_of(water, dataclasses.replace(level, charge=2)).charge == 2
    # Journals of older versions hold neutral structures under the same key.
    neutral = dataclasses.replace(water, charge=0, spin=0)
    assert structure_key(neutral, level) == structure_key(water, level)
    charged = dataclasses.replace(water, charge=2)
    assert structure_key(charged, level) != structure_key(water, level)


def test_labels_are_those_of_each_frames_charge(tmp_path: Path) -> None:
    from openmm_se3.data.labeling.dft import label_frame
    from openmm_se3.data.labeling.executors import LocalExecutor
    from openmm_se3.data.labeling.label import label

    cheap = LevelOfTheory("pbe", "sto-3g", grid_level=0, grid_response=False)
    positions, numbers = np.array([[0.0, 0, 0], [0.97, 0, 0]]), np.array([8, 1])
    structures = [
        Structure(numbers, positions, "hydroxide", charge=-1),
        Structure(numbers, positions, "radical", spin=1),
    ]
    out = tmp_path / "a.h5"
    label(structures, out, cheap, LocalExecutor(1))
    read = read_hdf5(out).frames
    assert read.column("charge").tolist() == [-1, 0]
    assert read.column("spin").tolist() == [0, 1]
    for frame in read:
        level = dataclasses.replace(cheap, charge=frame.charge, spin=frame.spin)
        expected = label_frame(numbers, positions, level).energy
        assert frame.energy == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="2 of 2 frames.*--charged drop"):
        read_data(DataConfig((Source(str(out)),)), Console(quiet=True))
    result = CliRunner().invoke(main, ["evaluate", "water", str(out)])
    assert result.exit_code == 2 and "2 of 2 frames" in result.output


def test_charges_survive_our_format_and_older_files_open(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = Frames.of(
        Frame(
            np.array([8, 1, 1]),
            rng.normal(size=(3, 3)),
            -2060.0,
            np.zeros((3, 3)),
            trajectory=f"{i}",
            charge=i % 2,
            spin=i % 2,
        )
        for i in range(4)
    )
    level = LevelOfTheory()
    data = Dataset(made, level, {1: -13.5, 8: -2030.0})
    path = tmp_path / "a.h5"
    write_hdf5(path, data)
    read = read_hdf5(path).frames
    assert (
        read.column("charge").tolist() == read.column("spin").tolist() == [0, 1, 0, 1]
    )
    # Version 2 has one charge, that of the level.
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 2
        file.attrs["level_of_theory"] = dataclasses.replace(level, charge=-1).to_json()
        del file["H2O/charge"], file["H2O/spin"]
    assert set(read_hdf5(path).frames.column("charge").tolist()) == {-1}
    assert set(read_hdf5(WATER[0]).frames.column("charge").tolist()) == {0}

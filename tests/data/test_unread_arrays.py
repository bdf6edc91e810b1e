"""Arrays that say what a frame is, in layouts that do not have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.load import Source, read_source, read_sources

DATA = Path(__file__).parents[2] / "models/water/data"
FRAMES = 4
WATER = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
POSITIONS = WATER + 0.01 * np.random.default_rng(0).normal(size=(FRAMES, 3, 3))
ENERGY = -76.4 + 0.001 * np.arange(FRAMES)


def read(path: Path, **arrays: Any) -> Dataset:
    """Read a file of TorchANI's layout with more arrays."""
    with h5py.File(path, "w") as file:
        group = file.create_group("3")
        group["species"] = np.tile([8, 1, 1], (FRAMES, 1))
        group["coordinates"] = POSITIONS
        group["energies"] = ENERGY
        group["forces"] = 0.01 * POSITIONS
        for name, values in arrays.items():
            group[name] = values
    return read_sources([Source(str(path))])


def deepmd(tmp_path: Path) -> Path:
    """Write the same as a folder of DeePMD-kit, without forces."""
    folder = tmp_path / "water"
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0 1 1\n")
    (folder / "type_map.raw").write_text("O H\n")
    (folder / "nopbc").touch()
    np.save(folder / "set.000/coord.npy", POSITIONS.reshape(FRAMES, 9))
    np.save(folder / "set.000/energy.npy", 27.2114 * ENERGY)
    return folder


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cell", np.tile(9.0 * np.eye(3), (FRAMES, 1, 1))),
        ("pbc", np.ones((FRAMES, 3), dtype=bool)),
        ("charge", np.array([0, 0, 1, 0])),
        ("Multiplicity", np.full(FRAMES, 3)),
    ],
)
def test_what_makes_another_molecule_is_refused(
    name: str, values: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not read"):
        read(tmp_path / "a.h5", **{name: values})


def test_free_neutral_closed_shells_may_say_so(tmp_path: Path) -> None:
    dataset = read(
        tmp_path / "a.h5",
        cell=np.zeros((FRAMES, 3, 3)),
        pbc=np.zeros((FRAMES, 3), dtype=bool),
        charge=np.zeros(FRAMES, dtype=int),
        multiplicity=np.ones(FRAMES, dtype=int),
    )
    assert len(dataset.frames) == FRAMES


@pytest.mark.parametrize("subset", [True, False])
def test_the_charge_of_spice_is_that_of_its_smiles(
    subset: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        group = file.create_group("water")
        group["atomic_numbers"] = np.array([8, 1, 1])
        group["conformations"] = POSITIONS / 0.529177
        group["dft_total_energy"] = ENERGY
        group["dft_total_gradient"] = 0.01 * POSITIONS
        group.create_dataset("smiles", data=["[OH2+2]"], dtype=text)
        if subset:
            group.create_dataset("subset", data=["ions"], dtype=text)
    (block,) = read_sources([Source(str(path))]).frames.blocks
    assert block.charge.tolist() == [2] * FRAMES


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_self_energies_that_are_no_numbers_are_refused(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(next(DATA.glob("*.h5")), path)
    with h5py.File(path, "r+") as file:
        energies = json.loads(file.attrs["self_energies"])
        file.attrs["self_energies"] = json.dumps({**energies, "1": float(value)})
    with pytest.raises(ValueError, match="self-energies that are NaN"):
        read_sources([Source(str(path))])


@pytest.mark.parametrize("name", ["forces", "energies", "spin", "charge"])
def test_files_of_deepmd_that_are_not_read_are_named(name: str, tmp_path: Path) -> None:
    folder = deepmd(tmp_path)
    assert len(read_sources([Source(str(folder))]).frames) == FRAMES
    np.save(folder / f"set.000/{name}.npy", ENERGY)
    with pytest.raises(ValueError, match=f"{name}.npy is not read"):
        read_sources([Source(str(folder))])


@pytest.mark.parametrize(
    ("array", "unit", "message"),
    [
        ("energies", "kcal/mol", "give energy_unit"),
        ("energies", "kJ mol^-1", "give energy_unit"),
        ("coordinates", "bohr", "give length_unit"),
        ("forces", "eV/Angstrom", "give force_unit"),
        ("energies", "furlong", "none of"),
        ("energies", "Hartree", None),
        ("coordinates", "Å", None),
        ("forces", "Ha / A", None),
    ],
)
def test_units_that_an_array_states_are_those_it_is_read_in(
    array: str, unit: str, message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    read(path)
    with h5py.File(path, "r+") as file:
        file[f"3/{array}"].attrs["units"] = unit
    if message is None:
        assert len(read_sources([Source(str(path))]).frames) == FRAMES
        return
    with pytest.raises(ValueError, match=message):
        read_sources([Source(str(path))])


def test_a_stated_unit_that_is_also_given_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    read(path)
    with h5py.File(path, "r+") as file:
        file["3/energies"].attrs["unit"] = b"eV"
    source = Source(str(path), energy_unit="eV", force_unit="hartree/angstrom")
    assert read_sources([source]).frames.column("energy") == pytest.approx(ENERGY)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energies_in_single_precision_are_told(
    dtype: type[np.floating], tmp_path: Path
) -> None:
    """Of a large molecule they have steps of kcal/mol."""
    read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["3/energies"]
        file["3/energies"] = (ENERGY - 2000.0).astype(dtype)
    folder = deepmd(tmp_path)
    np.save(folder / "set.000/energy.npy", (27.2 * ENERGY - 54000.0).astype(dtype))
    for path in (tmp_path / "a.h5", folder):
        source = Source(str(path), force_unit="hartree/angstrom")
        notes = " ".join(read_source(source).notes)
        assert ("steps of 0.00" in notes) == (dtype is np.float32)


def test_a_folder_of_deepmd_without_a_box_tells_what_to_do(tmp_path: Path) -> None:
    folder = deepmd(tmp_path)
    (folder / "nopbc").unlink()
    with pytest.raises(FileNotFoundError, match=r"no box.npy; if the molecules are"):
        read_sources([Source(str(folder))])

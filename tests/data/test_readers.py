"""Readers of files: methods, units, isolated atoms, charges, hostile content."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from openmm_se3.cli import main
from openmm_se3.data.checks.pair_fit import energy_slope
from openmm_se3.data.checks.units import findings
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats import hdf5_check
from openmm_se3.data.formats.charges import charge_and_spin, charge_of_smiles
from openmm_se3.data.formats.detect import detect_format
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.formats.safe_hdf5 import open_hdf5, walk
from openmm_se3.data.formats.xyz_text import parse_comment, read_text_frames
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling.label import (
    level_of,
    read_structures,
    structure_key,
)
from openmm_se3.data.level_of_theory import LevelOfTheory, PublishedLevel
from openmm_se3.data.load import (
    Source,
    read_datasets,
    read_source,
    read_sources,
)
from openmm_se3.data.self_energies import self_energies
from openmm_se3.neighbors import neighbour_pairs
from openmm_se3.training.config import DataConfig
from openmm_se3.training.prepare import read_data
from openmm_se3.units import BOHR_TO_ANGSTROM, FORCE_UNITS, HARTREE_TO_EV

ROOT = Path(__file__).parents[2]
WATER = [str(ROOT / f"models/water/data/water{n}.h5") for n in (1, 2)]
H_ENERGY, O_ENERGY = -13.5872, -2042.0095


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Labels of water that do not resemble each other: every fortieth."""
    read = read_datasets(WATER).frames
    return [f for f in read[::40] if np.abs(f.forces).max() < 8.0]


def xyz_of(frame: Frame, comment: str = "", **columns: np.ndarray) -> str:
    """Return a frame as extended XYZ, with a comment and columns of three values."""
    names = "".join(f":{name}:R:3" for name in columns)
    rows = [f"{len(frame.numbers)}", f"Properties=species:S:1:pos:R:3{names} {comment}"]
    for atom, number in enumerate(frame.numbers):
        values = [frame.positions[atom], *(c[atom] for c in columns.values())]
        numbers = " ".join(f"{v:.10f}" for v in np.concatenate(values))
        rows.append(f"{'H' if number == 1 else 'O'} {numbers}")
    return "\n".join(rows) + "\n"


def read_xyz(path: Path, text: str, **options: Any) -> Dataset:
    path.write_text(text)
    return read_source(Source(str(path), **options))


# Labels of several methods.


def two_methods(frames: list[Frame], energies: str, forces: str) -> str:
    """Return frames with labels of ours, and of a method with half the forces."""
    return "".join(
        xyz_of(
            f,
            f"energy={f.energy!r} {energies}={f.energy + 1.5!r}",
            forces=f.forces,
            **{forces: 0.5 * f.forces},
        )
        for f in frames
    )


@pytest.mark.parametrize(
    ("energies", "forces"),
    [
        ("REF_energy", "REF_forces"),
        ("energy_mp2", "forces_mp2"),
        ("MACE_energy", "MACE_force"),
        ("dftTotalEnergy", "dftGradient"),
        ("E_ccsd", "F_ccsd"),
    ],
)
def test_labels_of_two_methods_are_refused_with_their_names(
    energies: str, forces: str, frames: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    text = two_methods(frames[:3], energies, forces)
    with pytest.raises(ValueError) as refused:
        read_xyz(path, text)
    for name in (energies, forces, "'energy'", "'forces'", "--energy-key"):
        assert name in str(refused.value)
    # One name chooses the method, its forces included.
    sign = -1.0 if "Gradient" in forces else 1.0
    for option in ({"energy_key": energies}, {"forces_key": forces}):
        other = read_xyz(path, text, **option).frames
        assert other[0].energy == pytest.approx(frames[0].energy + 1.5)
        np.testing.assert_allclose(
            other[0].forces, sign * 0.5 * frames[0].forces, atol=1e-8
        )
    ours = read_xyz(path, text, energy_key="energy").frames
    np.testing.assert_allclose(ours[0].forces, frames[0].forces, atol=1e-8)


def test_energy_of_one_method_is_not_read_with_forces_of_another(
    frames: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    f = frames[0]
    text = xyz_of(f, f"REF_energy={f.energy!r}", forces=f.forces)
    with pytest.raises(ValueError, match="REF_energy.*forces.*different methods"):
        read_xyz(path, text)
    both = read_xyz(path, text, energy_key="REF_energy", forces_key="forces").frames
    assert np.isfinite(both[0].energy) and both[0].forces is not None
    # Forces of which another energy says whose they are.
    text = xyz_of(
        f, f"energy={f.energy!r} REF_energy={f.energy + 1!r}", forces=f.forces
    )
    chosen = read_xyz(path, text, energy_key="REF_energy")
    assert chosen.frames[0].forces is None
    assert "forces" in chosen.notes[0] and "REF_energy" in chosen.notes[0]
    # Methods that take turns between frames.
    text = xyz_of(f, f"energy={f.energy!r}", forces=f.forces) + xyz_of(
        f, f"REF_energy={f.energy!r}", REF_forces=f.forces
    )
    with pytest.raises(ValueError, match="REF_energy"):
        read_xyz(path, text)


def test_other_energies_and_copies_are_no_second_method(
    frames: list[Frame], tmp_path: Path
) -> None:
    f = frames[0]
    text = xyz_of(
        f,
        f"energy={f.energy!r} free_energy={f.energy - 1!r} REF_energy={f.energy!r} "
        "dispersion_energy=-0.1 energy_weight=2 energy_unit=eV",
        forces=f.forces,
        forces_std=0.1 * f.forces,
        gradient=-f.forces,
    )
    read = read_xyz(tmp_path / "a.xyz", text).frames[0]
    assert read.energy == f.energy
    np.testing.assert_allclose(read.forces, f.forces, atol=1e-8)


def test_an_energy_without_a_usual_name(frames: list[Frame], tmp_path: Path) -> None:
    f = frames[0]
    path = tmp_path / "a.xyz"
    total = read_xyz(path, xyz_of(f, f"TotEnergy={f.energy!r}", forces=f.forces))
    assert total.frames[0].energy == f.energy
    strange = read_xyz(path, xyz_of(f, f"U={f.energy!r} run=3", forces=f.forces))
    assert np.isnan(strange.frames[0].energy)
    assert "'U'" in strange.notes[0] and "energy_key" in strange.notes[0]
    named = read_xyz(
        path, xyz_of(f, f"U={f.energy!r}", forces=f.forces), energy_key="U"
    )
    assert named.frames[0].energy == f.energy and named.frames[0].forces is not None


# Units.


def test_every_force_unit_beside_another_energy_unit(
    frames: list[Frame], tmp_path: Path
) -> None:
    f = frames[0]
    for unit, size in FORCE_UNITS.items():
        text = xyz_of(f, f"energy={f.energy / HARTREE_TO_EV!r}", forces=f.forces / size)
        read = read_xyz(
            tmp_path / "a.xyz", text, energy_unit="hartree", force_unit=unit
        ).frames[0]
        assert read.energy == pytest.approx(f.energy)
        np.testing.assert_allclose(read.forces, f.forces, atol=1e-6)


def test_units_of_deepmd_and_conformers(frames: list[Frame], tmp_path: Path) -> None:
    monomers = [f for f in frames if len(f.numbers) == 3]
    arrays = {
        name: np.stack([getattr(f, name) for f in monomers])
        for name in ("positions", "energy", "forces")
    }
    folder = tmp_path / "deepmd"
    (folder / "set.000").mkdir(parents=True)
    (folder / "nopbc").touch()
    (folder / "type_map.raw").write_text("H O\n")
    (folder / "type.raw").write_text(
        "\n".join("1" if z == 8 else "0" for z in monomers[0].numbers)
    )
    unit = HARTREE_TO_EV / BOHR_TO_ANGSTROM
    np.save(folder / "set.000/coord.npy", arrays["positions"].reshape(-1, 9))
    np.save(folder / "set.000/energy.npy", arrays["energy"] / HARTREE_TO_EV)
    np.save(folder / "set.000/force.npy", arrays["forces"].reshape(-1, 9) / unit)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = monomers[0].numbers
        file["w/coordinates"] = arrays["positions"]
        file["w/wb97x_dz.energy"] = arrays["energy"] / HARTREE_TO_EV
        file["w/wb97x_dz.forces"] = -arrays["forces"] / unit
    for source in (
        Source(str(folder), energy_unit="hartree", force_unit="hartree/bohr"),
        Source(str(path), force_unit="hartree/bohr", gradient=True),
    ):
        read = read_source(source).frames
        assert read.column("energy") == pytest.approx(arrays["energy"])
        np.testing.assert_allclose(read[3].forces, arrays["forces"][3], atol=1e-8)


def test_options_keep_their_names_of_before() -> None:
    """A run of an older version is the same run: what was the default says nothing."""
    assert Source("a.xyz", format="extxyz", energy_unit="eV").options() == {
        "format": "extxyz"
    }
    ani = Source("a.h5", format="ani1x", energy_unit="eV", gradient=False)
    assert ani.options() == {"format": "ani1x", "energy_unit": "eV"}
    assert Source("a.h5", format="comp6", gradient=False).options()["gradient"] is False


def test_a_wrong_force_unit_is_seen_on_unrelated_frames(frames: list[Frame]) -> None:
    assert len(frames) > 40
    right = energy_slope(frames)
    assert right is not None and 0.75 < right < 1.5
    wrong = [dataclasses.replace(f, forces=BOHR_TO_ANGSTROM * f.forces) for f in frames]
    assert energy_slope(wrong) == pytest.approx(right / BOHR_TO_ANGSTROM, rel=1e-3)
    failed = [f for f in findings(Frames.of(wrong)) if not f.passed]
    assert any("hartree/bohr read as hartree/angstrom" in f.advice for f in failed)
    assert all(f.passed for f in findings(Frames.of(frames)))
    assert energy_slope(frames[:15]) is None
    rng = np.random.default_rng(0)
    random = [dataclasses.replace(f, energy=float(rng.normal())) for f in frames]
    assert energy_slope(random) is None


# Atoms alone.


def test_isolated_atoms_become_self_energies(
    frames: list[Frame], tmp_path: Path
) -> None:
    atoms = (
        f'1\nenergy={H_ENERGY} config_type=IsolatedAtom Lattice="5 0 0 0 5 0 0 0 5"\n'
        f"H 0 0 0\n1\nProperties=species:S:1:pos:R:3:forces:R:3 energy={O_ENERGY}\n"
        "O 0 0 0 0 0 0\n"
    )
    text = atoms + "".join(
        xyz_of(f, f"energy={f.energy!r} config_type=Default", forces=f.forces)
        for f in frames[:5]
    )
    data = read_xyz(tmp_path / "a.xyz", text)
    assert len(data.frames) == 5 and {len(f.numbers) for f in data.frames} <= {3, 6}
    assert data.self_energies == {1: H_ENERGY, 8: O_ENERGY}
    assert "2 frames of one atom" in data.notes[0] and "H, O" in data.notes[0]
    # A file of its own, beside one without atoms.
    (tmp_path / "atoms.xyz").write_text(atoms)
    (tmp_path / "b.xyz").write_text(text[len(atoms) :])
    both = read_sources(
        [Source(str(tmp_path / "b.xyz")), Source(str(tmp_path / "atoms.xyz"))]
    )
    assert both.self_energies == data.self_energies and len(both.frames) == 5
    with pytest.raises(ValueError, match="isolated atoms of H"):
        read_xyz(tmp_path / "a.xyz", text + "1\nenergy=-13.0\nH 0 0 0\n")
    # One atom in a small cell is a crystal.
    crystal = '1\nLattice="3 0 0 0 3 0 0 0 3" energy=-2100\nO 0 0 0\n'
    assert len(read_xyz(tmp_path / "c.xyz", crystal).frames) == 1


def test_self_energies_of_some_elements_leave_the_others_to_the_fit() -> None:
    water = [
        Frame(np.array([8, 1, 1]), np.eye(3), 2 * H_ENERGY + O_ENERGY - 1.0, None),
        Frame(np.array([8, 1, 1]), 2 * np.eye(3), 2 * H_ENERGY + O_ENERGY + 1.0, None),
    ]
    data = Dataset(Frames.of(water), PublishedLevel("x"), {1: H_ENERGY})
    found = self_energies(data)
    assert found.energies[1] == H_ENERGY
    assert found.energies[8] == pytest.approx(O_ENERGY)
    assert found.warning == "" and "data" in found.origin


# HDF5 of others.


def test_species_of_each_conformer(frames: list[Frame], tmp_path: Path) -> None:
    monomers = [f for f in frames if len(f.numbers) == 3][:6]
    path = tmp_path / "a.h5"
    species = np.array([f.numbers for f in monomers])
    species[4:] = [[1, 8, -1]] * (len(monomers) - 4)
    with h5py.File(path, "w") as file:
        file["003/species"] = species
        file["003/coordinates"] = np.stack([f.positions for f in monomers])
        file["003/energies"] = [f.energy / HARTREE_TO_EV for f in monomers]
        file["003/forces"] = np.stack([f.forces for f in monomers]) / HARTREE_TO_EV
    for format_ in ("auto", "torchani"):
        read = read_source(Source(str(path), format=format_)).frames
        by_size = {n: [f for f in read if len(f.numbers) == n] for n in (2, 3)}
        assert [len(by_size[n]) for n in (2, 3)] == [len(monomers) - 4, 4]
        np.testing.assert_allclose(by_size[3][2].forces, monomers[2].forces)
        assert by_size[2][0].energy == pytest.approx(monomers[4].energy)
        np.testing.assert_allclose(by_size[2][0].positions, monomers[4].positions[:2])
        assert by_size[2][0].trajectory != by_size[3][0].trajectory


def test_true_forces_in_the_layout_of_comp6(
    frames: list[Frame], tmp_path: Path
) -> None:
    monomers = [f for f in frames if len(f.numbers) == 3]
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        names = ["H" if z == 1 else "O" for z in monomers[0].numbers]
        file["w/species"] = np.array(names, dtype="S1")
        file["w/coordinates"] = np.stack([f.positions for f in monomers])
        file["w/energies"] = [f.energy / HARTREE_TO_EV for f in monomers]
        file["w/forces"] = np.stack([f.forces for f in monomers]) / HARTREE_TO_EV
    gradient = read_source(Source(str(path))).frames
    np.testing.assert_allclose(gradient[0].forces, -monomers[0].forces)
    forces = read_source(Source(str(path), gradient=False)).frames
    np.testing.assert_allclose(forces[0].forces, monomers[0].forces)
    result = CliRunner().invoke(main, ["data", "inspect", str(path)])
    assert result.exit_code == 1 and "--no-gradient" in result.output
    result = CliRunner().invoke(main, ["data", "inspect", "--no-gradient", str(path)])
    assert result.exit_code == 0, result.output


def test_spice(frames: list[Frame], tmp_path: Path) -> None:
    monomers = [f for f in frames if len(f.numbers) == 3]
    path = tmp_path / "spice.h5"
    smiles = {"water": "[O:1]([H:2])[H:3]", "oxonium": "[OH2+:1][H:2].[Cl-].[Na+]"}
    with h5py.File(path, "w") as file:
        for name, text in smiles.items():
            group = file.create_group(name)
            group["atomic_numbers"] = monomers[0].numbers.astype("i2")
            group["conformations"] = (
                np.stack([f.positions for f in monomers]) / BOHR_TO_ANGSTROM
            ).astype("f4")
            group["dft_total_energy"] = [f.energy / HARTREE_TO_EV for f in monomers]
            group["dft_total_gradient"] = -np.stack([f.forces for f in monomers]) / (
                HARTREE_TO_EV / BOHR_TO_ANGSTROM
            )
            group.create_dataset("subset", data=[b"SPICE Dipeptides"])
            group.create_dataset("smiles", data=[text], dtype=h5py.string_dtype())
    data = read_source(Source(str(path), charged="keep"))
    assert str(data.level) == "wB97M-D3(BJ)/def2-TZVPPD"
    assert {f.trajectory for f in data.frames} == {
        "spice.h5/water",
        "spice.h5/oxonium",
    }
    assert {f.kind for f in data.frames} == {"SPICE Dipeptides"}
    water = next(f for f in data.frames if f.trajectory.endswith("water"))
    assert water.energy == pytest.approx(monomers[0].energy)
    np.testing.assert_allclose(water.positions, monomers[0].positions, atol=1e-6)
    np.testing.assert_allclose(water.forces, monomers[0].forces, atol=1e-8)
    assert {f.charge for f in data.frames if "oxonium" in f.trajectory} == {1}
    with pytest.raises(ValueError, match="oxonium.*charge \\+1"):
        read_sources([Source(str(path))], for_model=True)
    left = read_sources([Source(str(path), charged="drop")], for_model=True)
    assert {f.charge for f in left.frames} == {0} and len(left.frames) == len(monomers)


# Charges.


def test_charge_and_multiplicity_of_a_frame() -> None:
    water, hydroxyl = np.array([8, 1, 1]), np.array([8, 1])
    assert charge_and_spin({}, water) == (None, None)
    assert charge_and_spin({"charge": "2", "multiplicity": "1"}, water) == (2, 0)
    assert charge_and_spin({"charge": "+1", "spin": "1"}, water) == (1, 1)
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
        {"charge": "1", "total_charge": "2"},
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


# Damaged and hostile files.

GOOD = "2\nenergy=-1 \nH 0 0 0\nH 0 0 0.74\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1000000000\n" + GOOD[2:], "line 1.*1000000000 atoms"),
        ("9" * 23 + "\n" + GOOD[2:], "line 1"),
        (GOOD + "1\nenergy=-1\nH 0 0 0\nH 0 0 1\n" + GOOD, "frame 2.*line 8"),
        (GOOD + "3\nenergy=-1\nH 0 0 0\nH 0 0 1\n" + GOOD, "frame 1.*line 9"),
        (GOOD + "\n\n2\nenergy=-1\nH 0 0 0\n\nH 0 0 1\n", "frame 1.*line 10"),
        (GOOD + "0\n\n", "frame 1.*no atoms"),
        (GOOD + "2\n", "frame 1.*ends"),
        (GOOD.replace("energy=-1", "Properties=F"), "Properties='F'"),
        (GOOD.replace("energy=-1", "Properties=species:S:1:pos:R"), "Properties"),
        (GOOD.replace("energy=-1", "Properties=species:S:1:pos:R:99999"), "Properties"),
        (
            GOOD.replace("energy=-1", "Properties=species:S:1:pos:R:2"),
            "line 3 has 4 columns",
        ),
        (GOOD.replace("energy=-1", "Properties=pos:R:3"), "columns"),
        (GOOD.replace("energy=-1", "energy=-1 temperature=hot"), "temperature"),
        (GOOD.replace("energy=-1", 'energy=-1 temperature="1 2"'), "temperature"),
        (GOOD.replace("0.74", "0.7x4"), "line 4.*0.7x4"),
        (GOOD.replace("0.74", "1e12"), "position is 1e\\+12"),
        (GOOD.replace("0.74", "nan"), "position is nan"),
        (GOOD.replace("-1 ", '-1 Lattice="1e9 0 0 0 5 0 0 0 5"'), "box vector is 1e"),
        (GOOD.replace("-1 ", '-1 Lattice="5 0 0 5 0 0 0 0 5"'), "no volume"),
        (GOOD.replace("-1 ", '-1 Lattice="5 0 0"'), "nine numbers"),
        (GOOD.replace("-1 ", '-1 Lattice="0 0 0 0 0 0 0 0 0" pbc="T T T"'), "pbc="),
        (GOOD.replace("-1 ", '-1 pbc="T T T"'), "Lattice is missing"),
        (GOOD.replace("-1 ", "1e30"), "energy is 1e\\+30"),
        (GOOD.replace("-1 ", "inf"), "energy is inf"),
    ],
)
def test_damaged_extended_xyz_names_the_place(
    text: str, place: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=place):
        read_xyz(tmp_path / "a.xyz", text)


def test_extended_xyz_that_others_write(tmp_path: Path) -> None:
    path = tmp_path / "d@1.xyz"
    text = GOOD + "\n\n" + GOOD.replace("-1 ", '-1 stress="0 0 0 0 0 0"') + "\n \n"
    assert len(read_xyz(path, text).frames) == 2
    byte_order_mark = "\ufeff" + GOOD.replace("\n", "\r\n")
    assert len(read_xyz(path, byte_order_mark).frames) == 1
    zeros = GOOD.replace("-1 ", '-1 Lattice="0 0 0 0 0 0 0 0 0"')
    assert read_xyz(path, zeros).frames[0].box is None
    rows = "2\nProperties=Z:I:1:pos:R:3 energy=-1\n1 0 0 0\n8 0 0 1\n"
    assert read_xyz(path, rows).frames[0].numbers.tolist() == [1, 8]
    assert parse_comment('a=1 b = \'x y\' c="p \\"q\\"" word u=[1 2] n=007') == {
        **{"a": "1", "b": "x y", "c": 'p "q"', "word": "T", "u": "1 2", "n": "007"}
    }
    path.write_bytes(b"\x1f\x8b" + b"\x00" * 20)
    with pytest.raises(ValueError, match="compressed"):
        next(read_text_frames(path))


def test_a_line_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.data.formats import xyz_text

    monkeypatch.setattr(xyz_text, "MAX_LINE", 1000)
    path = tmp_path / "a.xyz"
    path.write_text("2\n" + "x" * 5000)
    with pytest.raises(ValueError, match="line 2 is longer"):
        next(read_text_frames(path))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e20])
def test_impossible_forces_are_named_while_reading(
    value: float, frames: list[Frame], tmp_path: Path
) -> None:
    monomers = [f for f in frames if len(f.numbers) == 3][:4]
    forces = np.stack([f.forces for f in monomers])
    forces[2, 1, 0] = value
    text = "".join(
        xyz_of(f, f"energy={f.energy!r}", forces=forces[i])
        for i, f in enumerate(monomers)
    )
    with pytest.raises(ValueError, match="frame-2.*force"):
        read_xyz(tmp_path / "a.xyz", text)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = monomers[0].numbers
        file["w/coordinates"] = np.stack([f.positions for f in monomers])
        file["w/wb97x_dz.energy"] = [f.energy / HARTREE_TO_EV for f in monomers]
        file["w/wb97x_dz.forces"] = forces
    with pytest.raises(ValueError, match="frame 2 .*force"):
        read_source(Source(str(path)))


def header(text: str) -> bytes:
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def bytes_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "coord",
            header("{'descr':'<f8','fortran_order':False,'shape':(1000000000000,9)}"),
        ),
        ("coord", header("{'descr':'<f8','fortran_order':False,'shape':(-1,9)}")),
        ("coord", header("{'descr':'<f8','fortran_order':False,")),
        ("coord", header("{'descr':[('a','<f8')],'fortran_order':False,'shape':(9,)}")),
        ("coord", header("{'descr':'|O','fortran_order':False,'shape':(4,9)}")),
        ("coord", b"\x93NUMPY\x09\x00"),
        ("coord", b""),
        ("coord", bytes_of(np.float64(3.0))),
        ("coord", bytes_of(np.zeros((4, 8)))),
        ("coord", bytes_of(np.full((4, 9), 1e12))),
        ("force", bytes_of(np.zeros((9, 4)))),
        ("force", bytes_of(np.full((4, 9), np.inf))),
        ("force", bytes_of(np.zeros((4, 9)))[:-3]),
        ("box", bytes_of(np.full((4, 9), 1e12))),
        ("box", bytes_of(np.zeros((4, 9)))),
        ("energy", bytes_of(np.zeros(5))),
    ],
)
def test_damaged_numpy_files_of_deepmd_are_named(
    name: str, content: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "set.000"
    folder.mkdir()
    (tmp_path / "type_map.raw").write_text("O H")
    (tmp_path / "type.raw").write_text("0 1 1")
    rng = np.random.default_rng(0)
    np.save(folder / "coord.npy", rng.normal(size=(4, 9)))
    np.save(folder / "force.npy", rng.normal(size=(4, 9)))
    np.save(folder / "energy.npy", rng.normal(size=4))
    np.save(folder / "box.npy", np.tile(9.0 * np.eye(3).ravel(), (4, 1)))
    source = Source(str(tmp_path))
    assert len(read_source(source).frames) == 4
    (folder / f"{name}.npy").write_bytes(content)
    what = {"coord": "position", "force": "a force", "box": "box"}.get(name, name)
    with pytest.raises(ValueError, match=f"{name}.npy|set.000.*{what}"):
        read_source(source)


def test_a_file_on_which_the_hdf5_library_hangs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of size 0 in the heap of texts is passed by for ever."""
    probe = tmp_path / "probe.py"
    text = hdf5_check.PROBE.read_text()
    probe.write_text(text.replace("CPU_SECONDS = 5", "CPU_SECONDS = 1"))
    monkeypatch.setattr(hdf5_check, "PROBE", probe)
    monkeypatch.setattr(hdf5_check, "_probes", {})
    path, broken = tmp_path / "a.h5", tmp_path / "b.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["more"] = "some text", "other text"
    content = bytearray(path.read_bytes())
    size = content.index(b"GCOL") + 24
    content[size : size + 8] = bytes(8)
    broken.write_bytes(content)
    try:
        with pytest.raises(ValueError, match="b.h5.*does not end"):
            detect_format(broken)
        with open_hdf5(path) as file:  # the next file has a probe of its own
            assert file.attrs["format"] == "some text"
    finally:
        hdf5_check._end()


def test_links_in_circles_and_deep_groups_end(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        # Two ways to the next group at each of 30 levels: 2^30 paths, 30 groups.
        group = file
        for _ in range(30):
            below = group.create_group("a")
            group["b"] = below
            group = below
        group["c"] = file["/"]
        group["molecule/coordinates"] = np.zeros((1, 1, 3))
        assert len(list(walk(file, lambda g: "coordinates" in g))) == 1
        for _ in range(10):
            group = group.create_group("deeper")
        with pytest.raises(ValueError, match="groups in each other"):
            list(walk(file, lambda g: False))


def test_arrays_that_compress_too_well_or_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.data.formats import safe_hdf5

    path = tmp_path / "a.h5"
    n = 1_000_000
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = np.array([8, 1, 1])
        file["w/wb97x_dz.energy"] = np.zeros(1)
        for name in ("coordinates", "wb97x_dz.forces"):
            file.create_dataset(
                f"w/{name}", shape=(n, 3, 3), dtype="f8", compression="gzip",
                chunks=(n, 3, 3),
            )  # fmt: skip
            file[f"w/{name}"][0] = 0.0
    with pytest.raises(ValueError, match="declares 72000000 bytes"):
        read_source(Source(str(path)))
    monkeypatch.setattr(safe_hdf5, "available_memory", lambda: 1e-6)
    with pytest.raises(ValueError, match="memory"):
        read_hdf5(WATER[0])


def test_a_frame_of_many_atoms_is_checked_in_little_memory(tmp_path: Path) -> None:
    """All pairs of 30,000 atoms would take 22 GB for vectors alone."""
    rng = np.random.default_rng(0)
    n = 30_000
    frame = Frame(np.ones(n, dtype=int), rng.uniform(0, 60, (n, 3)), -1.0, None)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = frame.numbers.astype("u1")
        file["w/coordinates"] = frame.positions[None]
        file["w/wb97x_dz.energy"] = np.array([-1.0])
        file["w/wb97x_dz.forces"] = np.zeros((1, n, 3))
    from openmm_se3.data.checks.summary import inspect

    data = read_source(Source(str(path)))
    assert inspect(data, self_energies(data)).frames == 1


@pytest.mark.parametrize(
    ("positions", "cell"),
    [
        (np.eye(3) * 1e9, None),
        (np.eye(3) * np.nan, None),
        (np.eye(3), np.diag([20.0, 20.0, 1e9])),
        (np.eye(3), np.eye(3) * 0.01),
        (np.eye(3), np.array([[20.0, 0, 0], [0, 20, 0], [20, 20, 0]])),
        (np.eye(3), np.full((3, 3), np.nan)),
    ],
)
def test_neighbor_list_refuses_what_would_end_the_process(
    positions: np.ndarray, cell: np.ndarray | None
) -> None:
    box = None if cell is None else torch.tensor(cell)
    with pytest.raises(ValueError, match="units right"):
        neighbour_pairs(torch.tensor(positions), 6.0, box)

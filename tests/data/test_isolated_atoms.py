"""Isolated atoms among the frames, and HDF5 files of others."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from xyz_files import read_xyz, xyz_of

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import PublishedLevel
from openmm_se3.data.load import (
    Source,
    read_source,
    read_sources,
)
from openmm_se3.data.self_energies import self_energies
from openmm_se3.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

H_ENERGY, O_ENERGY = -13.5872, -2042.0095


def test_isolated_atoms_become_self_energies(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    atoms = (
        f'1\nenergy={H_ENERGY} config_type=IsolatedAtom Lattice="5 0 0 0 5 0 0 0 5"\n'
        f"H 0 0 0\n1\nProperties=species:S:1:pos:R:3:forces:R:3 energy={O_ENERGY}\n"
        "O 0 0 0 0 0 0\n"
    )
    text = atoms + "".join(
        xyz_of(f, f"energy={f.energy!r} config_type=Default", forces=f.forces)
        for f in unlike_frames[:5]
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


def test_species_of_each_conformer(unlike_frames: list[Frame], tmp_path: Path) -> None:
    monomers = [f for f in unlike_frames if len(f.numbers) == 3][:6]
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
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    monomers = [f for f in unlike_frames if len(f.numbers) == 3]
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


def test_spice(unlike_frames: list[Frame], tmp_path: Path) -> None:
    monomers = [f for f in unlike_frames if len(f.numbers) == 3]
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

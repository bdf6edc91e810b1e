"""Other people's formats: values, units, signs."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from data_files import by_size, write_conformers, write_deepmd

from openmm_se3.data.checks.units import (
    require_plausible,
)
from openmm_se3.data.formats import ani as conformers
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import (
    Source,
    read_source,
)
from openmm_se3.data.self_energies import least_squares
from openmm_se3.training.prepare import frames_without_forces
from openmm_se3.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV


def write_xyz(path: Path, frames: list[Frame], **units: float) -> Path:
    energy, length = units.get("energy", 1.0), units.get("length", 1.0)
    images = []
    for f in frames:
        atoms = Atoms(f.numbers, f.positions / length, info={"trajectory": "t"})
        atoms.info["E"] = f.energy / energy
        atoms.arrays["g"] = -f.forces / (energy / length)
        images.append(atoms)
    write(path, images, format="extxyz")
    return path


def assert_same(read: Frames, written: list[Frame], tolerance: float = 1e-9) -> None:
    assert len(read) == len(written)
    for a, b in zip(read, written, strict=True):
        assert (a.numbers == b.numbers).all()
        np.testing.assert_allclose(a.positions, b.positions, atol=tolerance)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)
        np.testing.assert_allclose(a.forces, b.forces, atol=tolerance)


def sorted_by_size(frames: list[Frame]) -> list[Frame]:
    return [frame for members in by_size(frames).values() for frame in members]


def test_ani1x(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "ani1x.h5", frames)
    data = read_source(Source(str(path)))
    assert str(data.level) == "wB97X/6-31G(d)" and data.self_energies == {}
    assert_same(data.frames, sorted_by_size(frames))


def test_comp6_holds_the_gradient(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(
        tmp_path / "comp6.h5", frames, "energies", "forces", symbols=True, sign=-1.0
    )
    assert_same(read_source(Source(str(path))).frames, sorted_by_size(frames))


def test_ani1_has_energies_only(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "a.h5", frames, "energies", None, symbols=True)
    read = read_source(Source(str(path))).frames
    expected = sorted_by_size(frames)
    assert all(frame.forces is None for frame in read)
    assert [f.energy for f in read] == pytest.approx([f.energy for f in expected])


def test_extended_xyz_in_any_unit(frames: list[Frame], tmp_path: Path) -> None:
    path = write_xyz(
        tmp_path / "a.xyz", frames, energy=HARTREE_TO_EV, length=BOHR_TO_ANGSTROM
    )
    source = Source(
        str(path),
        energy_key="E",
        forces_key="g",
        energy_unit="hartree",
        length_unit="bohr",
        gradient=True,
        level="wB97X/6-31G(d)",
    )
    data = read_source(source)
    assert_same(data.frames, frames, 1e-6)  # the file has eight digits
    assert str(data.level) == "wB97X/6-31G(d)"
    assert {f.trajectory for f in data.frames} == {"t"}


def test_extended_xyz_with_usual_names(frames: list[Frame], tmp_path: Path) -> None:
    images = []
    for f in frames[:5]:
        atoms = Atoms(f.numbers, f.positions, cell=np.diag([9.0, 8.0, 7.0]), pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=f.energy, forces=f.forces)
        images.append(atoms)
    write(tmp_path / "a.extxyz", images, format="extxyz")
    read = read_source(Source(str(tmp_path / "a.extxyz"))).frames
    assert_same(read, frames[:5], 1e-6)
    np.testing.assert_allclose(read[0].box, np.diag([9.0, 8.0, 7.0]))
    for f, atoms in zip(frames, images, strict=False):
        atoms.calc = None
        atoms.info["energy"], atoms.arrays["gradient"] = f.energy, -f.forces
    write(tmp_path / "b.extxyz", images, format="extxyz")
    read = read_source(Source(str(tmp_path / "b.extxyz"))).frames
    assert_same(read, frames[:5], 1e-6)
    images[3].pbc = (True, True, False)
    write(tmp_path / "c.extxyz", images, format="extxyz")
    with pytest.raises(ValueError, match="frame 3.*periodic along some axes only"):
        read_source(Source(str(tmp_path / "c.extxyz")))


def test_deepmd_with_groups(frames: list[Frame], tmp_path: Path) -> None:
    monomers = by_size(frames)[3]
    folder = write_deepmd(tmp_path / "water", monomers)
    np.save(tmp_path / "groups.npy", np.arange(len(monomers)) % 7)
    groups = str(tmp_path / "groups.npy")
    read = read_source(Source(str(folder), groups=groups)).frames
    assert_same(read, monomers)
    np.testing.assert_allclose(read[3].box, 20.0 * np.eye(3))
    assert [f.trajectory for f in read[:9]][-2:] == ["group-0", "group-1"]
    np.save(tmp_path / "groups.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"shape \(3,\), but there are"):
        read_source(Source(str(folder), groups=groups))


# Rows are lattice vectors, A; no other order or unit gives these numbers.
SLANTED = np.array([[9.0, 0.0, 0.0], [1.5, 8.0, 0.0], [-2.0, 0.7, 7.0]])


def test_slanted_boxes_of_extended_xyz_in_bohr(
    frames: list[Frame], tmp_path: Path
) -> None:
    f = by_size(frames)[3][0]
    bohr = f.positions / BOHR_TO_ANGSTROM
    atoms = Atoms(f.numbers, bohr, cell=SLANTED / BOHR_TO_ANGSTROM, pbc=True)
    forces = f.forces * BOHR_TO_ANGSTROM
    atoms.calc = SinglePointCalculator(atoms, energy=f.energy, forces=forces)
    write(tmp_path / "a.extxyz", atoms, format="extxyz")
    source = Source(str(tmp_path / "a.extxyz"), length_unit="bohr")
    read = read_source(source).frames
    assert_same(read, [f], 1e-6)
    np.testing.assert_allclose(read[0].box, SLANTED, atol=1e-6)


def test_slanted_boxes_of_deepmd(frames: list[Frame], tmp_path: Path) -> None:
    folder = write_deepmd(tmp_path / "water", by_size(frames)[3][:2])
    boxes = np.array([SLANTED.ravel(), 2.0 * SLANTED.ravel()])
    np.save(folder / "set.000" / "box.npy", boxes)
    read = read_source(Source(str(folder))).frames
    np.testing.assert_array_equal(read[0].box, SLANTED)
    np.testing.assert_array_equal(read[1].box, 2.0 * SLANTED)


def test_large_files_are_read_by_frame(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_conformers(tmp_path / "a.h5", frames, dtype="f4")
    at_once = read_source(Source(str(path))).frames
    monkeypatch.setattr(conformers, "READ_AT_ONCE", 0)
    by_frame = read_source(Source(str(path))).frames
    assert not isinstance(by_frame.blocks[0].positions, np.ndarray)
    assert_same(by_frame, list(at_once), 1e-12)
    some = np.array([5, 2, 2, len(at_once) - 1])
    assert_same(by_frame[some], list(at_once[some]), 1e-12)
    assert len(by_frame.in_memory()) == 0


def test_missing_labels_are_kept_as_missing(
    frames: list[Frame], tmp_path: Path
) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    with h5py.File(path, "r+") as file:
        group = file["set/H2O1"]
        group["wb97x_dz.energy"][1] = np.nan
        group["wb97x_dz.forces"][2] = np.nan
    read = read_source(Source(str(path))).frames
    assert np.isnan(read.column("energy")).sum() == 1
    assert np.isnan(read[2].forces).all() and np.isfinite(read[1].forces).all()
    assert frames_without_forces(read) == 1
    require_plausible(read)
    fitted = least_squares(read)
    assert np.isfinite(list(fitted.energies.values())).all()

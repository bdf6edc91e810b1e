"""Other people's formats: values, units, signs, splits, and what gives them away."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner, Result
from random_model import SELF_ENERGIES, SMALLEST, WATER, random_checkpoint

from openmm_se3.cli import main, source_options
from openmm_se3.config import to_dict
from openmm_se3.data import load as sources
from openmm_se3.data.checks import near_duplicates as resembling
from openmm_se3.data.checks.near_duplicates import resemblance
from openmm_se3.data.checks.summary import inspect
from openmm_se3.data.checks.units import (
    findings,
    require_plausible,
    strain_ratio,
)
from openmm_se3.data.dataset import Dataset, formula
from openmm_se3.data.formats import ani as conformers
from openmm_se3.data.frames import SPLITS, Frame, Frames, join
from openmm_se3.data.load import (
    Source,
    hash_source,
    read_datasets,
    read_source,
    read_sources,
    with_splits,
)
from openmm_se3.data.self_energies import least_squares, self_energies
from openmm_se3.data.splits import (
    SplitConfig,
    distribution,
    group_numbers,
    make_splits,
    one_sided,
)
from openmm_se3.export import export_model, model_of_checkpoint
from openmm_se3.model_file import load_model
from openmm_se3.single_point import evaluate
from openmm_se3.training.checkpoint import refuse_changes
from openmm_se3.training.evaluation import evaluate_model, read_as_trained
from openmm_se3.training.prepare import frames_without_forces
from openmm_se3.units import BOHR_TO_ANGSTROM, EV_TO_KCAL_PER_MOL, HARTREE_TO_EV

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/data"
WATER_DATA = [ROOT / f"models/water/data/water{n}.h5" for n in (1, 2)]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """DFT labels of water at the level of ANI-1x: monomers and dimers."""
    whole = read_datasets(WATER_DATA)
    md = np.array([kind == "md" for kind in kinds(whole.frames)])
    return dataclasses.replace(whole, frames=whole.frames[md][::8])


@pytest.fixture(scope="module")
def frames(dataset: Dataset) -> list[Frame]:
    return list(dataset.frames)


def kinds(frames: Frames) -> list[str]:
    pairs = zip(frames.block, frames.row, strict=True)
    return [frames.blocks[block].kind[row] for block, row in pairs]


def by_size(frames: list[Frame]) -> dict[int, list[Frame]]:
    return {n: [f for f in frames if len(f.numbers) == n] for n in (3, 6)}


def write_conformers(
    path: Path,
    frames: list[Frame],
    energy: str = "wb97x_dz.energy",
    forces: str | None = "wb97x_dz.forces",
    symbols: bool = False,
    sign: float = 1.0,
    dtype: str = "f8",
) -> Path:
    with h5py.File(path, "w") as file:
        for n, members in by_size(frames).items():
            group = file.create_group(f"set/H{2 * n // 3}O{n // 3}")
            numbers = members[0].numbers
            if symbols:
                names = ["H" if z == 1 else "O" for z in numbers]
                group["species"] = np.array(names, dtype="S1")
            else:
                group["atomic_numbers"] = numbers.astype("u1")
            stack = {
                name: np.stack([getattr(f, name) for f in members])
                for name in ("positions", "forces", "energy")
            }
            group["coordinates"] = stack["positions"].astype(dtype)
            group[energy] = stack["energy"] / HARTREE_TO_EV
            if forces is not None:
                group[forces] = (sign * stack["forces"] / HARTREE_TO_EV).astype(dtype)
    return path


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


def write_deepmd(folder: Path, frames: list[Frame]) -> Path:
    (folder / "set.000").mkdir(parents=True)
    (folder / "type_map.raw").write_text("O\nH\n")
    types = ["0" if z == 8 else "1" for z in frames[0].numbers]
    (folder / "type.raw").write_text(" ".join(types))
    for name, values in (
        ("coord", [f.positions.ravel() for f in frames]),
        ("force", [f.forces.ravel() for f in frames]),
        ("energy", [f.energy for f in frames]),
        ("box", [20.0 * np.eye(3).ravel() for f in frames]),
    ):
        np.save(folder / "set.000" / f"{name}.npy", np.array(values))
    return folder


def assert_same(read: Frames, written: list[Frame], tolerance: float = 1e-9) -> None:
    assert len(read) == len(written)
    for a, b in zip(read, written, strict=True):
        assert (a.numbers == b.numbers).all()
        np.testing.assert_allclose(a.positions, b.positions, atol=tolerance)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)
        np.testing.assert_allclose(a.forces, b.forces, atol=tolerance)


# Values.


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


# What is wrong is refused.


def drop(group: str, name: str) -> Callable[[h5py.File], None]:
    return lambda file: file[group].__delitem__(name)


def replace(group: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[group][name]
        file[group][name] = value

    return change


H2O = "set/H2O1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(H2O, "wb97x_dz.energy"), r"H2O1 lacks 'wb97x_dz.energy'; it has \['at"),
        (replace(H2O, "wb97x_dz.forces", np.zeros((4, 3, 3))), "H2O1.*shape"),
        (replace(H2O, "coordinates", np.zeros((4, 3, 3))), "H2O1.*should be"),
        (replace(H2O, "coordinates", h5py.SoftLink("/x")), "link to elsewhere"),
        (replace(H2O, "atomic_numbers", np.array([b"X"] * 3)), "holds no elements"),
    ],
)
def test_wrong_content_names_the_group(
    change: Callable[[h5py.File], None],
    message: str,
    frames: list[Frame],
    tmp_path: Path,
) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        read_source(Source(str(path), format="ani1x"))


def test_truncated_file(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_source(Source(str(path)))


def test_no_damage_ends_in_a_raw_error(frames: list[Frame], tmp_path: Path) -> None:
    whole = write_conformers(tmp_path / "a.h5", frames).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        start = int(rng.integers(len(content)))
        content[start : start + 64] = rng.bytes(64)
        (tmp_path / "b.h5").write_bytes(content)
        try:
            with np.errstate(all="ignore"):  # numbers may be damaged too
                read_source(Source(str(tmp_path / "b.h5")))
        except ValueError:
            refused += 1
    assert refused > 5


def test_deepmd_of_mixed_type_is_refused(frames: list[Frame], tmp_path: Path) -> None:
    monomers = by_size(frames)[3]
    folder = write_deepmd(tmp_path / "water", monomers)
    (folder / "type.raw").write_text("0 1 -1")
    with pytest.raises(ValueError, match=r"type.raw types from -1 to 1"):
        read_source(Source(str(folder)))
    (folder / "type.raw").write_text("0 0 0")  # what stands there in that format
    types = np.tile([0, 1, 1], (len(monomers), 1))
    np.save(folder / "set.000" / "real_atom_types.npy", types)
    with pytest.raises(ValueError, match="mixed type.*dpdata"):
        read_source(Source(str(folder)))


def test_unknown_and_foreign_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="no group holds 'coordinates'"):
        read_source(Source(str(tmp_path / "a.h5")))
    with pytest.raises(FileNotFoundError):
        read_source(Source(str(tmp_path / "b.h5")))
    with pytest.raises(ValueError, match="without type.raw"):
        read_source(Source(str(tmp_path)))
    (tmp_path / "c.xyz").write_text("2\n\nH 0 0 0\n")
    with pytest.raises(ValueError, match="c.xyz"):
        read_source(Source(str(tmp_path / "c.xyz")))
    (tmp_path / "d.xyz").write_text("1\nProperties=species:S:1:pos:R:3 e=1\nH 0 0 0\n")
    with pytest.raises(ValueError, match="neither an energy"):
        read_source(Source(str(tmp_path / "d.xyz")))
    with pytest.raises(ValueError, match=r"no energy under 'f'; there: \['e'\]"):
        read_source(Source(str(tmp_path / "d.xyz"), energy_key="f"))


def test_the_command_line_knows_the_formats() -> None:
    assert source_options.FORMATS == ("auto", *sources.FORMATS)


def test_options_that_a_format_lacks(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    ours = str(WATER_DATA[0])
    with pytest.raises(ValueError, match="openmm-se3 has no option energy_unit"):
        read_source(Source(ours, energy_unit="hartree"))
    with pytest.raises(ValueError, match=r"energy_unit must be one of \['eV'"):
        Source("a.xyz", energy_unit="Hartree")
    with pytest.raises(ValueError, match="given twice"):
        read_sources([Source(str(path)), Source(str(path))])


# Units and signs.


def scaled(frames: list[Frame], **factors: float) -> Frames:
    return Frames.of(
        dataclasses.replace(
            f,
            positions=f.positions * factors.get("positions", 1.0),
            energy=f.energy * factors.get("energy", 1.0),
            forces=f.forces * factors.get("forces", 1.0),
        )
        for f in frames
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"forces": -1.0}, "gradient was read as the force"),
        (
            {"forces": 1.0 / HARTREE_TO_EV},
            "forces in hartree/angstrom read as eV/angstrom",
        ),
        ({"forces": 23.06}, "forces in kcal/mol/angstrom read as eV/angstrom"),
        ({"forces": HARTREE_TO_EV}, "forces in eV/angstrom read as hartree/angstrom"),
        (
            {"forces": BOHR_TO_ANGSTROM},
            "forces in hartree/bohr read as hartree/angstrom",
        ),
        ({"forces": 3e3}, "fits no mistake of units"),
        ({"positions": 0.1}, "positions in nm were read as A"),
        ({"positions": 1.0 / BOHR_TO_ANGSTROM}, "positions in bohr were read as A"),
        ({"energy": 1.0 / HARTREE_TO_EV}, "energies in hartree read as eV"),
        ({"energy": 23.06}, "energies in kcal/mol read as eV"),
        ({"energy": 627.5}, "fits energies in kcal/mol read as hartree[^ ]"),
    ],
)
def test_wrong_units_and_signs_are_refused(
    frames: list[Frame], factors: dict[str, float], message: str
) -> None:
    monomers = by_size(frames)[3]
    require_plausible(scaled(monomers))
    with pytest.raises(ValueError, match=message):
        require_plausible(scaled(monomers, **factors))


def test_wrong_energies_without_forces_are_refused_by_their_fit() -> None:
    names = [ROOT / f"models/water/data/water{n}.h5" for n in (1, 2)]
    frames = read_datasets(names).frames

    def checked(factor: float) -> None:
        alone = Frames.of(
            dataclasses.replace(f, forces=None, energy=factor * f.energy)
            for f in frames
        )
        require_plausible(alone, least_squares(alone).energies)

    checked(1.0)
    with pytest.raises(ValueError, match="energy against isolated atoms.* is 20"):
        checked(627.5)


@pytest.mark.parametrize("factor", [1.0 / HARTREE_TO_EV, 23.06])
def test_wrong_energies_of_structures_unlike_each_other(factor: float) -> None:
    hexamers = list(read_datasets([ROOT / "models/water/data/water6.h5"]).frames[::3])
    found = {f.name: f for f in findings(scaled(hexamers))}
    work = found["energy differences over the work of the forces"]
    assert work.verdict == "not checked"
    strain = found["spread of energies over that of the strain"]
    assert strain.verdict == "pass"
    wrong = {f.name: f for f in findings(scaled(hexamers, energy=factor))}
    assert wrong[strain.name].value == pytest.approx(factor * strain.value)
    assert wrong[strain.name].verdict == "FAIL"


def test_energies_that_strain_does_not_explain_are_not_judged(
    frames: list[Frame],
) -> None:
    rng = np.random.default_rng(0)
    shuffled = [dataclasses.replace(f, energy=rng.normal(scale=100.0)) for f in frames]
    assert strain_ratio(frames, 50.0) is not None
    assert strain_ratio(shuffled, 50.0) is None
    assert strain_ratio(frames, None) is strain_ratio(frames, -3.0) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_named(
    frames: list[Frame], value: float
) -> None:
    broken = frames[3]
    positions = broken.positions.copy()
    positions[0, 1] = value
    bad = dataclasses.replace(broken, positions=positions, trajectory="run-7")
    with pytest.raises(ValueError, match="run-7, a position is (nan|inf)"):
        findings(Frames.of([*frames[:3], bad, *frames[4:]]))
    box = 20.0 * np.eye(3)
    box[2, 1] = value
    bad = dataclasses.replace(broken, box=box, trajectory="run-8")
    with pytest.raises(ValueError, match="run-8.* box"):
        findings(Frames.of([*frames[:3], bad, *frames[4:]]))


def test_energies_that_do_not_go_with_the_isolated_atoms(dataset: Dataset) -> None:
    require_plausible(dataset.frames, dataset.self_energies)
    with pytest.raises(ValueError, match="against isolated atoms"):
        require_plausible(dataset.frames, {1: -13.6, 8: -1000.0})


def test_the_checks_see_something(dataset: Dataset) -> None:
    found = findings(dataset.frames, dataset.self_energies)
    assert len(found) == 6 and all(f.value is not None for f in found)
    assert {f.verdict for f in found} == {"pass"}
    assert found[1].value == pytest.approx(50.0, rel=0.3)  # O-H, eV/A^2
    assert found[2].value == pytest.approx(1.0, abs=0.15)
    assert found[3].value == pytest.approx(1.1, abs=0.25)


# Self-energies.


def test_least_squares_finds_the_energies_of_atoms() -> None:
    rng = np.random.default_rng(0)
    exact = {1: -13.6, 6: -1030.0, 8: -2042.0}
    molecules = [[1, 1, 8], [6, 1, 1, 1, 1], [6, 8], [6, 8, 8], [1, 8]]
    frames = [
        Frame(
            np.array(numbers),
            rng.normal(size=(len(numbers), 3)),
            sum(exact[z] for z in numbers),
            None,
        )
        for numbers in molecules
        for _ in range(3)
    ]
    missing = dataclasses.replace(frames[0], energy=float("nan"))
    fitted = least_squares(Frames.of([*frames, missing]))
    assert fitted.energies == pytest.approx(exact) and not fitted.warning


def test_every_frame_counts_alike_in_the_fit() -> None:
    """Where no self-energies explain all energies, frames decide, not formulas."""
    rng = np.random.default_rng(2)
    counts = {(1, 1): 9, (1, 8): 4, (1, 1, 8): 1, (8, 8): 2}
    rows, energies = [], []
    for numbers, n_frames in counts.items():
        for _ in range(n_frames):
            rows.append([numbers.count(1), numbers.count(8)])
            energies.append(rng.normal(scale=3.0) - 10.0 * sum(numbers))
    expected = np.linalg.lstsq(np.array(rows, float), np.array(energies))[0]
    frames = [
        dataclasses.replace(numbered("t", numbers), energy=energies.pop(0))
        for numbers, n_frames in counts.items()
        for _ in range(n_frames)
    ]
    fitted = least_squares(Frames.of(frames))
    assert [fitted.energies[1], fitted.energies[8]] == pytest.approx(expected.tolist())


def test_pure_water_gives_the_smallest_energies_and_a_warning(
    dataset: Dataset,
) -> None:
    fitted = self_energies(dataset, "least-squares")
    assert "rank 1 of 2" in fitted.warning
    # Of all (H, O) with 2 H + O fixed, the shortest has H = 2 O.
    assert fitted.energies[1] == pytest.approx(2.0 * fitted.energies[8])
    mean = dataset.frames.column("energy") / (dataset.frames.n_atoms / 3)
    total = 2 * fitted.energies[1] + fitted.energies[8]
    assert total == pytest.approx(mean.mean(), abs=0.2)
    assert self_energies(dataset).energies == dataset.self_energies
    given = self_energies(dataset, {"H": -13.0, "O": -2000.0})
    assert given.energies == {1: -13.0, 8: -2000.0}
    with pytest.raises(ValueError, match=r"lacks \['O'\]"):
        self_energies(dataset, {"H": -13.0})


def test_self_energies_are_fitted_to_training_frames_alone(dataset: Dataset) -> None:
    """What is tested must not have been fitted to, however wrong it is."""
    exact = {1: -13.6, 8: -2042.0}
    energies = {"train": 0.0, "validation": 50.0, "test": -90.0}
    frames = [
        Frame(
            np.array(numbers),
            np.random.default_rng(0).normal(size=(len(numbers), 3)),
            sum(exact[z] for z in numbers) + energies[split],
            None,
            split=split,
        )
        for numbers in ([1, 1, 8], [1, 8], [8, 8])
        for split in energies
    ]
    data = dataclasses.replace(dataset, frames=Frames.of(frames), self_energies={})
    for choice in ("auto", "least-squares"):
        fitted = self_energies(data, choice)
        assert fitted.energies == pytest.approx(exact)
        assert fitted.origin == "least squares"


# Splits.


def heated(groups: list[tuple[str, float]], frames_each: int = 5) -> Frames:
    """Return frames of one trajectory a group, each of a kind and a temperature."""
    rng = np.random.default_rng(0)
    return Frames.of(
        Frame(
            numbers=np.array([8, 1, 1]),
            positions=rng.normal(size=(3, 3)),
            energy=0.0,
            forces=np.zeros((3, 3)),
            trajectory=f"run-{number}",
            kind=kind,
            temperature=temperature,
        )
        for number, (kind, temperature) in enumerate(groups)
        for _ in range(frames_each)
    )


@pytest.mark.parametrize("seed", range(5))
def test_splits_have_a_share_of_each_kind_and_temperature(seed: int) -> None:
    runs = [("md", t) for t in (300.0, 500.0, 800.0)] * 10 + [
        ("bent", float("nan"))
    ] * 10
    frames = heated(runs)
    rule = SplitConfig(by="trajectory", fractions=(0.8, 0.1, 0.1), seed=seed)
    divided = with_splits(frames, make_splits(frames, rule))
    assert distribution(divided) == {
        name: [40, 5, 5] for name in ("bent", "md, 300 K", "md, 500 K", "md, 800 K")
    }
    assert one_sided(divided) == []
    by_chance = dataclasses.replace(rule, stratify=False)
    assert (make_splits(frames, by_chance) != make_splits(frames, rule)).any()


def test_what_a_split_lacks_is_named() -> None:
    frames = heated([("md", 300.0), ("md", 500.0), ("md", 800.0)])
    rule = SplitConfig(by="trajectory", fractions=(0.34, 0.33, 0.33))
    divided = with_splits(frames, make_splits(frames, rule))
    lines = one_sided(divided)
    assert len(lines) == 3
    for temperature in (300, 500, 800):
        assert [line for line in lines if f"{temperature} K: none in" in line]
    assert distribution(heated([("", float("nan"))] * 3)) == {}
    # Public data name each formula as a kind, which says nothing.
    own = formula(np.array([8, 1, 1]))
    assert distribution(heated([(own, float("nan"))] * 3)) == {}
    assert one_sided(heated([("", float("nan"))] * 3)) == []


@pytest.mark.parametrize("stratify", [True, False])
def test_runs_of_older_versions_keep_their_splits(stratify: bool) -> None:
    data = {"sha256": "a", "files": [], "options": []}
    common = {"model": {}, "training": {}, "data": data}
    rule = to_dict(SplitConfig(by="trajectory", stratify=stratify))
    before = {key: value for key, value in rule.items() if key != "stratify"}
    old = {**common, "choices": {"split": before}}
    new = {**common, "choices": {"split": rule}}
    if stratify:
        with pytest.raises(ValueError, match="stratify"):
            refuse_changes(old, new, Path("run"))
    else:
        refuse_changes(old, new, Path("run"))


def test_without_kinds_the_splits_are_as_they_were() -> None:
    frames = heated([("", float("nan"))] * 20)
    rule = SplitConfig(by="trajectory", seed=3)
    by_chance = dataclasses.replace(rule, stratify=False)
    assert (make_splits(frames, rule) == make_splits(frames, by_chance)).all()


def test_splits_keep_groups_whole_and_follow_the_seed(dataset: Dataset) -> None:
    frames = dataset.frames
    config = SplitConfig(by="trajectory", fractions=(0.7, 0.2, 0.1), seed=3)
    split = make_splits(frames, config)
    shares = np.bincount(split, minlength=3) / len(split)
    np.testing.assert_allclose(shares, config.fractions, atol=0.05)
    names = np.array([f.trajectory for f in frames])
    for name in set(names):
        assert len(set(split[names == name])) == 1
    assert (make_splits(frames, config) == split).all()
    other = make_splits(frames, dataclasses.replace(config, seed=4))
    assert (other != split).any()
    kept = make_splits(frames, SplitConfig())
    assert (kept == frames.column("split")).all()
    moved = with_splits(
        join([frames[::2], frames[1::2]]), np.r_[split[::2], split[1::2]]
    )
    assert (moved.column("split") == np.r_[split[::2], split[1::2]]).all()


def numbered(trajectory: str, numbers: Sequence[int] = (8, 1, 1)) -> Frame:
    """Return a frame of which nothing matters but its composition and trajectory."""
    x = np.zeros((len(numbers), 3))
    return Frame(np.array(numbers), x, 0.0, x, trajectory=trajectory)


def test_a_group_larger_than_a_split_trains() -> None:
    """Half of all frames are one trajectory; validation and test get the others."""
    large = [numbered("large")] * 50
    small = [numbered(f"t{index // 2}") for index in range(50)]
    for seed in range(10):
        config = SplitConfig(by="trajectory", seed=seed)
        split = make_splits(Frames.of(large + small), config)
        assert set(split[:50]) == {SPLITS.index("train")}
        assert np.bincount(split, minlength=3).tolist() == [80, 10, 10]


def test_what_is_one_group() -> None:
    """A trajectory is one of its file; a molecule is the same in all files."""
    frames = [numbered("t0"), numbered("t1"), numbered("t0", (1, 1, 8))]
    files = join(Frames.of(frames, source) for source in ("a.xyz", "b.xyz"))
    assert group_numbers(files, "trajectory").tolist() == [0, 1, 0, 2, 3, 2]
    files = join([files, Frames.of([numbered("t0", (8, 8))], "c.xyz")])
    assert group_numbers(files, "molecule").tolist() == [0, 0, 0, 0, 0, 0, 1]


def write_two_files(folder: Path) -> tuple[Source, Source]:
    """Write ten trajectories of one frame each into either of two files."""
    paths = folder / "mine.xyz", folder / "held_out.xyz"
    for path, size in zip(paths, (1.0, 1.005), strict=True):
        for index in range(10):
            info = {"energy": -2000.0 - index, "trajectory": f"t{index}"}
            atoms = Atoms("OHH", (size + 0.01 * index) * WATER, info=info)
            write(path, atoms, append=True)
    return Source(str(paths[0])), Source(str(paths[1]))


def test_a_file_put_into_one_split_is_not_divided(tmp_path: Path) -> None:
    mine, held_out = write_two_files(tmp_path)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.5, 0.0))
    alone = make_splits(read_source(mine).frames, rule)
    assert set(alone) == {SPLITS.index("train"), SPLITS.index("validation")}
    for split in ("train", "test"):
        whole = dataclasses.replace(held_out, split=split)
        made = make_splits(read_sources([whole, mine]).frames, rule)
        assert set(made[:10]) == {SPLITS.index(split)}
        assert (made[10:] == alone).all()


def test_split_by_molecule_needs_molecules(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="2 groups by molecule, too few for 3"):
        make_splits(dataset.frames, SplitConfig(by="molecule"))
    two = SplitConfig(by="molecule", fractions=(0.5, 0.5, 0.0))
    split = make_splits(dataset.frames, two)
    sizes = dataset.frames.n_atoms
    assert len(set(zip(split.tolist(), sizes.tolist(), strict=True))) == 2
    with pytest.raises(ValueError, match="add up to 1"):
        SplitConfig(fractions=(0.5, 0.2, 0.2))


def test_near_duplicates_across_the_split_are_found(dataset: Dataset) -> None:
    frames = list(dataset.frames)
    dimers = [f for f in frames if len(f.numbers) == 6]
    apart = resemblance(Frames.of(dimers))
    assert apart.near == 0 and apart.compared > 10 and apart.closest > 0.03
    turned = dataclasses.replace(
        dimers[0],
        # Another orientation and order of atoms, moved by a thousandth.
        numbers=dimers[0].numbers[::-1],
        positions=dimers[0].positions[::-1, [1, 2, 0]] + 0.001 * np.eye(6)[:, :3],
        forces=dimers[0].forces[::-1],
        split=SPLITS[2],
        trajectory="planted",
    )
    first = dataclasses.replace(dimers[0], split=SPLITS[0])
    found = resemblance(Frames.of([first, *dimers[1:], turned]))
    assert found.near == 1 and found.closest < 0.002 and found.pair[0] == "planted"
    assert not found.sampled


def test_near_duplicates_of_large_sets_are_counted_on_a_sample(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read by frame, and every validation structure was trained on."""
    path = write_conformers(tmp_path / "a.h5", [*frames, *frames])
    monkeypatch.setattr(conformers, "READ_AT_ONCE", 0)
    twice = read_source(Source(str(path))).frames
    # Of each molecule the second half of the frames repeats the first.
    splits = np.zeros(len(twice), dtype=np.int8)
    for index, _ in twice.by_block():
        splits[index[len(index) // 2 :]] = SPLITS.index("validation")
    monkeypatch.setattr(resembling, "COMPARED", 8)
    monkeypatch.setattr(resembling, "DISTANCES", 7)
    found = resemblance(with_splits(twice, splits))
    assert found.sampled and 0 < found.compared == found.near <= 8
    assert "validation and test structures, of a random sample" in str(found)
    alone = resemblance(with_splits(twice, 0 * splits))
    assert alone.compared == alone.near == 0


# Verbs.


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


def test_evaluate_prints_the_errors_of_a_model(
    frames: list[Frame], random_model: Path, tmp_path: Path
) -> None:
    chosen = [*frames[:3], *frames[-3:]]
    path = write_conformers(tmp_path / "a.h5", chosen)
    out = tmp_path / "out"
    arguments = ["evaluate", str(random_model), str(path), "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    model = load_model(random_model)
    network = model.network()
    errors = []
    for frame in chosen:
        symbols = ["H" if z == 1 else "O" for z in frame.numbers]
        _, forces = evaluate(network, symbols, frame.positions)
        errors.append(np.abs(forces - frame.forces).ravel())
    expected = np.concatenate(errors).mean() * EV_TO_KCAL_PER_MOL
    written = json.loads((out / "errors.json").read_text())["all"]["all"]
    assert written["force_mae"] == pytest.approx(expected, rel=1e-4)
    assert f"{expected:.4f}" in result.output
    assert (out / "parity.png").stat().st_size > 0
    write(
        tmp_path / "c.xyz", Atoms("CC", [[0, 0, 0], [0, 0, 1.3]], info={"energy": 1.0})
    )
    result = CliRunner().invoke(
        main, ["evaluate", str(random_model), str(tmp_path / "c.xyz")]
    )
    assert result.exit_code == 2 and "hold ['C'], which the model lack" in result.output


def test_models_of_older_versions_keep_their_test_frames(tmp_path: Path) -> None:
    file = tmp_path / "a.xyz"
    for index in range(40):
        info = {"energy": -2000.0, "trajectory": f"t{index}", "kind": "md"}
        info["temperature"] = 300.0 if index < 30 else 500.0
        atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER, info=info)
        write(file, atoms, append=True)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.2, 0.3), seed=7)
    frames = read_datasets([file]).frames
    splits = {}
    for old in (True, False):
        checkpoint = random_checkpoint()
        checkpoint["data"]["files"] = [[file.name, hash_source(file)]]
        checkpoint["choices"]["split"] = to_dict(rule)
        if old:
            del checkpoint["choices"]["split"]["stratify"]
        model = export_model(checkpoint, tmp_path / f"model-{old}")
        dataset = read_as_trained(model, [Source(str(file))])
        splits[old] = dataset.frames.column("split")
        then = dataclasses.replace(rule, stratify=not old)
        assert (splits[old] == make_splits(frames, then)).all()
    assert (splits[True] != splits[False]).any()


def test_errors_of_a_model_are_against_its_own_self_energies() -> None:
    model = model_of_checkpoint(random_checkpoint(**SMALLEST), "small", "MIT")
    isolated = SELF_ENERGIES["O"] + 2.0 * SELF_ENERGIES["H"]
    frames = []
    for size, shift in ((1.0, 0.1), (1.05, -0.3)):
        network = model.network(torch.float64)
        energy, forces = evaluate(network, ["O", "H", "H"], size * WATER)
        total = isolated + energy + shift
        frames.append(Frame(np.array([8, 1, 1]), size * WATER, total, forces + 0.02))
    found = evaluate_model(model, Frames.of(frames), torch.float64).errors["all"]
    assert found["energy_mae"] == pytest.approx(0.2 * EV_TO_KCAL_PER_MOL, rel=1e-6)
    assert found["force_mae"] == pytest.approx(0.02 * EV_TO_KCAL_PER_MOL, rel=1e-6)


def test_evaluate_divides_frames_as_the_models_run_did(
    frames: list[Frame], tmp_path: Path
) -> None:
    """The files say that every frame is a training frame; the run divided them."""
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    for offset, file in enumerate(files):
        for index in range(10):
            info = {"energy": -2000.0 - index, "trajectory": f"t{index}"}
            atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER + offset, info=info)
            write(file, atoms, append=True)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.2, 0.3), seed=4)
    checkpoint = random_checkpoint()
    checkpoint["data"]["files"] = [[f.name, hash_source(f)] for f in files]
    checkpoint["choices"]["split"] = to_dict(rule)
    export_model(checkpoint, tmp_path / "model")

    def evaluate_on(*words: object) -> Result:
        arguments = ["evaluate", str(tmp_path / "model"), *map(str, words)]
        return CliRunner().invoke(main, arguments)

    divided = make_splits(read_datasets(files).frames, rule)
    result = evaluate_on(*files, "--split", "test", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    errors = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert errors["test"]["all"]["frames"] == (divided == 2).sum() == 6
    for some in ([files[0]], files[::-1]):
        result = evaluate_on(*some, "--split", "test")
        assert result.exit_code == 2
        assert "divided by trajectory over all of a.xyz, b.xyz; give" in result.output
    assert evaluate_on(files[0], "--split", "all").exit_code == 0
    # Frames that the run never saw keep the splits of their file.
    write(tmp_path / "c.xyz", Atoms("OHH", WATER, info={"energy": -2000.0}))
    result = evaluate_on(tmp_path / "c.xyz", "--split", "test")
    assert result.exit_code == 2 and "there are no frames" in result.output


def test_evaluate_reads_files_as_the_models_run_did(tmp_path: Path) -> None:
    file, groups = tmp_path / "a.xyz", tmp_path / "groups.npy"
    for index in range(10):
        atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER, info={"energy": -2000.0})
        write(file, atoms, append=True)
    np.save(groups, np.arange(10) // 3)
    checkpoint = random_checkpoint()
    checkpoint["data"]["files"] = [[file.name, hash_source(file)]]

    def model_of_run(by: str, source: Source) -> Path:
        checkpoint["data"]["options"] = [source.options()]
        checkpoint["choices"]["split"] = to_dict(SplitConfig(by=by))
        export_model(checkpoint, tmp_path / by)
        return tmp_path / by

    def evaluate_split(model: Path, split: str, *words: object) -> Result:
        options = ["--split", split, *map(str, words)]
        return CliRunner().invoke(main, ["evaluate", str(model), str(file), *options])

    model = model_of_run("trajectory", Source(str(file), groups=str(groups)))
    result = evaluate_split(model, "train")
    assert result.exit_code == 2 and "name it with --groups" in result.output
    result = evaluate_split(model, "train", "--groups", groups)
    assert result.exit_code == 0, result.output
    np.save(tmp_path / "other.npy", np.arange(10) // 2)
    result = evaluate_split(model, "train", "--groups", tmp_path / "other.npy")
    assert result.exit_code == 2 and "was trained on" in result.output
    # A file that was put into training whole has no test frames.
    model = model_of_run("source", Source(str(file), split="train"))
    result = evaluate_split(model, "test")
    assert result.exit_code == 2 and "there are no frames" in result.output
    assert evaluate_split(model, "train").exit_code == 0


def test_evaluate_on_a_file_that_was_put_into_the_test_whole(tmp_path: Path) -> None:
    mine, held_out = write_two_files(tmp_path)
    held_out = dataclasses.replace(held_out, split="test")
    checkpoint = random_checkpoint()
    files = [[Path(s.path).name, hash_source(Path(s.path))] for s in (mine, held_out)]
    checkpoint["data"] |= {
        "files": files,
        "options": [mine.options(), held_out.options()],
    }
    rule = SplitConfig(by="trajectory", fractions=(0.7, 0.3, 0.0))
    checkpoint["choices"]["split"] = to_dict(rule)
    export_model(checkpoint, tmp_path / "model")

    def test_frames(*given: Source) -> int:
        out = tmp_path / f"out-{len(given)}"
        words = [*(s.path for s in given), "--split", "test", "--out", str(out)]
        result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "model"), *words])
        assert result.exit_code == 0, result.output
        errors = json.loads((out / "errors.json").read_text())
        return int(errors["test"]["all"]["frames"])

    assert test_frames(mine, held_out) == 10
    assert test_frames(held_out) == 10  # whatever the other file is divided into


def test_a_file_of_another_kind_names_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "water.pdb"
    path.write_text("HETATM    1  O   HOH")
    with pytest.raises(
        ValueError, match=r"none of the formats.*b'HETATM.*'openmm-se3 l"
    ):
        read_datasets([path])


def test_evaluate_warns_of_a_model_of_boxes_on_free_molecules(
    frames: list[Frame], tmp_path: Path
) -> None:
    checkpoint = random_checkpoint()
    checkpoint["data"]["surroundings"] = "periodic"
    model = model_of_checkpoint(checkpoint, "boxes", "MIT")
    with pytest.warns(UserWarning, match="boxes only, and 3 of these frames have none"):
        evaluate_model(model, Frames.of(frames[:3]))


# Real data.


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data on this machine")
def test_real_data_of_others() -> None:
    folder = SHARED / "liquid-water-pbe0ts"
    water = read_source(Source(str(folder), groups=str(folder / "groups.npy")))
    assert len(water.frames) == 281 and water.frames.n_atoms[0] == 192
    assert water.frames[0].box[0, 0] == pytest.approx(12.4447, abs=1e-3)
    assert len({f.trajectory for f in water.frames}) == 20
    dipeptides = read_sources(
        [
            Source(str(SHARED / "spice-dipeptides/train.xyz")),
            Source(str(SHARED / "spice-dipeptides/val.xyz"), split="validation"),
        ]
    )
    counts = np.bincount(dipeptides.frames.column("split"))
    assert counts.tolist() == [495, 55]
    for data in (water, dipeptides):
        found = findings(data.frames)
        assert all(f.passed for f in found)
        assert found[0].value is not None and found[1].value is not None

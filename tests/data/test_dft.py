"""Values of DFT labels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.data import atomic_numbers
from cheap_labels import CHEAP, ROOT, WATER, Serial, waters
from click.testing import CliRunner

from openmm_se3.cli import main
from openmm_se3.data.labeling.dft import (
    LabelError,
    build_molecule,
    check_level,
    converge,
    isolated_atom_energy,
    label_frame,
)
from openmm_se3.data.labeling.label import label
from openmm_se3.data.level_of_theory import NAMED_LEVELS, LevelOfTheory
from openmm_se3.units import (
    EV_TO_KCAL_PER_MOL,
    HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    HARTREE_TO_EV,
)
from openmm_se3.water_molecule import water_molecule


@pytest.mark.parametrize(
    ("basis", "cartesian"),
    [
        ("6-31g*", True),
        ("6-31G(d)", True),
        ("6-31+G**", True),
        ("6-31++g**", True),
        ("631gs", True),
        ("3-21G", True),
        ("4-31g", True),
        ("def2-SVP", False),
        ("def2-tzvppd", False),
        ("cc-pVDZ", False),
        ("aug-cc-pvtz", False),
        ("6-311G**", False),
        ("6-311+g(2df,2p)", False),
        ("sto-3g", False),
        ("pc-1", False),
    ],
)
def test_d_functions_are_those_of_the_basis_set(basis: str, cartesian: bool) -> None:
    level = LevelOfTheory(basis=basis)
    assert level.cartesian is cartesian
    # Stored levels say it, and one that says otherwise is another level.
    assert json.loads(level.to_json())["cartesian"] is cartesian
    assert LevelOfTheory.from_json(level.to_json()) == level
    other = LevelOfTheory(basis=basis, cartesian=not cartesian)
    assert other.cartesian is not cartesian
    assert LevelOfTheory.from_json(other.to_json()) == other != level


def test_the_default_level_is_stored_as_it_always_was() -> None:
    stored = (
        '{"basis": "6-31g*", "cartesian": true, "charge": 0, "density_fit": true, '
        '"grid_level": 4, "grid_response": true, "max_cycles": 100, '
        '"method": "wb97x", "scf_tolerance": 1e-10, "spin": 0}'
    )
    assert LevelOfTheory().to_json() == stored


@pytest.mark.parametrize(("basis", "d_functions"), [("6-31g*", 6), ("def2-svp", 5)])
def test_pyscf_gets_the_d_functions_of_the_basis_set(
    basis: str, d_functions: int
) -> None:
    molecule = build_molecule(
        np.array([10]), np.zeros((1, 3)), LevelOfTheory("pbe", basis)
    )
    d_shells = sum(molecule.bas_angular(i) == 2 for i in range(molecule.nbas))
    others = sum(
        (2 * molecule.bas_angular(i) + 1) * molecule.bas_nctr(i)
        for i in range(molecule.nbas)
        if molecule.bas_angular(i) < 2
    )
    assert d_shells == 1
    assert molecule.nao - others == d_functions


@pytest.mark.parametrize("method", ["pbe", "wb97m"])
def test_dispersion_is_in_energy_and_forces(method: str) -> None:
    from pyscf.dispersion.dftd3 import DFTD3Dispersion

    # Two waters, 3 A apart.
    one = np.array([[0.0, 0.0, 0.0], [0.76, 0.0, 0.59], [-0.76, 0.0, 0.59]])
    positions = np.concatenate([one, one + [0.3, 3.0, 0.2]])
    numbers = np.tile(WATER, 2)
    level = LevelOfTheory(f"{method}-d3bj", "sto-3g", grid_level=0, grid_response=False)
    with_it = label_frame(numbers, positions, level)
    scf = converge(build_molecule(numbers, positions, level), level)
    assert not scf.do_nlc()
    # The same functional without D3 and without nonlocal correlation.
    plain = scf.copy()
    plain.disp = None
    plain.xc, plain.nlc = {"pbe": "pbe", "wb97m": "wb97m-v"}[method], 0
    energy = float(plain.kernel(scf.make_rdm1())) * HARTREE_TO_EV
    gradient = plain.nuc_grad_method()
    forces = -gradient.kernel() * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    d3 = DFTD3Dispersion(scf.mol, xc=method, version="d3bj").get_dispersion(grad=True)
    assert with_it.energy - energy == pytest.approx(
        float(d3["energy"]) * HARTREE_TO_EV, abs=1e-6
    )
    expected = -d3["gradient"] * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    assert np.abs(with_it.forces - forces - expected).max() < 1e-5
    assert np.abs(expected).max() > 1e-3 and float(d3["energy"]) < -1e-4


def test_levels_of_public_data_have_names() -> None:
    spice = NAMED_LEVELS["spice"]
    assert (spice.method, spice.basis) == ("wb97m-d3bj", "def2-tzvppd")
    assert spice.cartesian is False
    assert NAMED_LEVELS["ani"] == LevelOfTheory()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], LevelOfTheory()),
        (["--level", "SPICE"], NAMED_LEVELS["spice"]),
        (["--basis", "def2-svp"], LevelOfTheory("wb97x", "def2-svp", False)),
        (
            ["--basis", "cc-pvdz", "--cartesian"],
            LevelOfTheory("wb97x", "cc-pvdz", True),
        ),
        (["--level", "spice", "--method", "pbe"], None),
    ],
)
def test_the_command_labels_at_the_level_of_its_options(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: LevelOfTheory | None,
) -> None:
    levels = []

    def stop(structures: Any, output: Any, level: Any, *_: Any, **__: Any) -> None:
        levels.append(level)
        raise ValueError("seen")

    monkeypatch.setattr("openmm_se3.data.labeling.label.label", stop)
    xyz = tmp_path / "a.xyz"
    xyz.write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    command = ["label", str(xyz), "-o", str(tmp_path / "a.h5"), *options]
    assert CliRunner().invoke(main, command).exit_code == 2
    assert levels == ([] if expected is None else [expected])


def reference_molecules() -> list[Any]:
    reference = json.loads((ROOT / "tests/data/dft_reference.json").read_text())
    return [pytest.param(m, id=m["name"]) for m in reference["molecules"]]


@pytest.mark.parametrize("molecule", reference_molecules())
def test_labels_agree_with_pyscf_without_approximations(molecule: dict) -> None:
    """Density fitting and grid level 4 cost 0.03 kcal/mol/A on these at most."""
    numbers = np.array([atomic_numbers[symbol] for symbol in molecule["symbols"]])
    ours = label_frame(numbers, np.array(molecule["positions"]), LevelOfTheory())
    errors = {}
    for kind in ("cartesian", "spherical"):
        gradient = np.array(molecule[kind]["gradient"])
        forces = -gradient * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        errors[kind] = np.abs(ours.forces - forces).max() * EV_TO_KCAL_PER_MOL
    energy = molecule["cartesian"]["energy"] * HARTREE_TO_EV
    assert abs(ours.energy - energy) * EV_TO_KCAL_PER_MOL < 0.01
    assert errors["cartesian"] < 0.05
    # The control: the choice of d functions shows, and ANI's is the Cartesian one.
    assert errors["spherical"] > 0.4
    assert np.abs(ours.forces).max() > 1.0
    assert np.abs(ours.forces.sum(axis=0)).max() < 1e-5


def total_energy(positions: np.ndarray, level: LevelOfTheory) -> float:
    scf = converge(build_molecule(WATER, positions, level), level)
    return float(scf.e_tot) * HARTREE_TO_EV


def test_forces_are_the_derivative_of_the_energy() -> None:
    positions = np.array(water_molecule(1.08, 0.92, 118.0))
    level = LevelOfTheory()
    forces = label_frame(WATER, positions, level).forces
    rng = np.random.default_rng(3)
    step = 1e-3  # A; with central differences an error of about 1e-5 eV/A
    for _ in range(2):
        direction = rng.normal(size=(3, 3))
        direction /= np.linalg.norm(direction)
        up = total_energy(positions + step * direction, level)
        down = total_energy(positions - step * direction, level)
        slope = -(up - down) / (2 * step)
        assert abs(slope) > 0.1
        assert slope == pytest.approx((forces * direction).sum(), abs=5e-5)


def test_every_force_component_on_a_coarse_grid() -> None:
    """The response of the grid makes forces exact on any grid."""
    positions = np.array(water_molecule(1.08, 0.92, 118.0))
    step, numeric = 1e-3, np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        shift = np.zeros((3, 3))
        shift[i, j] = step
        up = total_energy(positions + shift, CHEAP)
        down = total_energy(positions - shift, CHEAP)
        numeric[i, j] = -(up - down) / (2 * step)
    assert label_frame(WATER, positions, CHEAP).forces == pytest.approx(
        numeric, abs=1e-4
    )
    without = dataclasses.replace(CHEAP, grid_response=False)
    control = label_frame(WATER, positions, without).forces
    assert np.abs(control - numeric).max() > 2e-3


@pytest.mark.parametrize("method", [CHEAP.method, "hf"])
def test_radical_forces_are_the_derivative_too(method: str) -> None:
    """An open shell takes another branch of PySCF, and of ours for Hartree-Fock."""
    level = dataclasses.replace(CHEAP, method=method, charge=1, spin=1)
    positions = np.array(water_molecule(1.05, 0.95, 112.0))
    forces = label_frame(WATER, positions, level).forces
    shift = np.zeros((3, 3))
    shift[1, 0] = 1e-3
    up, down = (total_energy(positions + s * shift, level) for s in (1, -1))
    assert forces[1, 0] == pytest.approx(-(up - down) / 2e-3, abs=1e-4)


def test_self_energies() -> None:
    """Ground states: the doublet of H and the triplet of O."""
    level = LevelOfTheory()
    hydrogen, oxygen = (isolated_atom_energy(z, level) for z in (1, 8))
    # A hydrogen atom has -0.5 hartree; wB97X/6-31G(d) misses it by 0.0007.
    assert hydrogen / HARTREE_TO_EV == pytest.approx(-0.5, abs=1e-3)
    assert oxygen / HARTREE_TO_EV == pytest.approx(-75.042465, abs=5e-6)
    singlet = build_molecule(np.array([8]), np.zeros((1, 3)), level)
    assert float(converge(singlet, level).e_tot) * HARTREE_TO_EV > oxygen + 1.0
    with pytest.raises(ValueError, match="atomic number 92"):
        isolated_atom_energy(92, level)


def test_core_potential_comes_with_its_basis() -> None:
    level = LevelOfTheory(basis="def2-tzvppd")
    iodide = build_molecule(np.array([53, 1]), np.eye(3)[:2] * 1.2, level)
    assert iodide.nelectron == 26  # 28 core electrons are in the potential
    assert build_molecule(WATER, np.eye(3), level).nelectron == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "wb97xx"}, "no functional 'wb97xx'"),
        ({"basis": "6-31zz"}, "no basis set '6-31zz' for H"),
    ],
)
def test_unknown_level_is_refused_before_any_label(
    change: dict, message: str, tmp_path: Path
) -> None:
    level = dataclasses.replace(CHEAP, **change)
    with pytest.raises(ValueError, match=message):
        label(waters(2), tmp_path / "out.h5", level, Serial())
    assert not list(tmp_path.iterdir())


def test_element_without_basis_is_named() -> None:
    with pytest.raises(ValueError, match="no basis set '6-31g\\*' for I"):
        check_level(LevelOfTheory(), [1, 53])


@pytest.mark.parametrize("error", [NotImplementedError, ValueError, ImportError])
def test_failure_inside_pyscf(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial finds it; in a single frame later it is that frame's fault."""

    def fail(*_: Any) -> None:
        raise error("something is missing")

    check_level(CHEAP, [1, 8])
    monkeypatch.setattr("openmm_se3.data.labeling.dft.converge", fail)
    with pytest.raises(ValueError, match="cannot compute forces with pbe/sto-3g"):
        check_level(CHEAP, [1, 8])
    expected = LabelError if error is ValueError else error
    with pytest.raises(expected, match="something is missing"):
        label_frame(WATER, waters(1)[0].positions, CHEAP)


@pytest.mark.parametrize(
    "change",
    [{"grid_level": 10}, {"scf_tolerance": 0.0}, {"max_cycles": 0}, {"basis": ""}],
)
def test_settings_out_of_range(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(CHEAP, **change)

"""Labels, samplers and data files: values, resuming, and refusal of what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import write
from click.testing import CliRunner
from distributed import LocalCluster
from rich.console import Console

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset, check_splits
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling import executors as executor
from openmm_se3.data.labeling import label as labelling
from openmm_se3.data.labeling.dft import (
    Label,
    LabelError,
    build_molecule,
    check_level,
    converge,
    isolated_atom_energy,
    label_frame,
)
from openmm_se3.data.labeling.executors import (
    DaskExecutor,
    LocalExecutor,
    WorkerDiedError,
)
from openmm_se3.data.labeling.journal import Journal
from openmm_se3.data.labeling.label import label, read_structures
from openmm_se3.data.labeling.provenance import read_provenance
from openmm_se3.data.labeling.water_sampler import (
    APPROACH_DISTANCES,
    PLANS,
    Plan,
    has_bad_contact,
    sample_water,
)
from openmm_se3.data.level_of_theory import NAMED_LEVELS, LevelOfTheory
from openmm_se3.data.load import Source, read_datasets, read_sources
from openmm_se3.files import LockedError, run_lock
from openmm_se3.training.config import DataConfig
from openmm_se3.training.prepare import read_data
from openmm_se3.units import (
    EV_TO_KCAL_PER_MOL,
    HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    HARTREE_TO_EV,
)
from openmm_se3.water_molecule import water_molecule

ROOT = Path(__file__).parents[2]
CHEAP = LevelOfTheory(method="pbe", basis="sto-3g", grid_level=0)
WATER = np.array([8, 1, 1])


class Serial:
    """Runs tasks in this process."""

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, function(task)


def waters(count: int) -> list[Structure]:
    rng = np.random.default_rng(5)
    return [
        Structure(
            WATER,
            water_molecule(*rng.uniform(0.9, 1.1, size=2), rng.uniform(95.0, 115.0)),
            trajectory=f"t{index}",
            kind="md",
            split=("train", "validation", "test")[index % 3],
            temperature=300.0,
        )
        for index in range(count)
    ]


def write_xyz(path: Path, structures: Sequence[Structure]) -> Path:
    images = []
    for s in structures:
        info = {"trajectory": s.trajectory, "kind": s.kind, "split": s.split}
        images.append(Atoms(s.numbers, s.positions, info=info))
        images[-1].info["temperature"] = s.temperature
    write(path, images, format="extxyz")
    return path


# Values of the labels


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


def test_radical_forces_are_the_derivative_too() -> None:
    """An open shell takes another branch of PySCF."""
    level = dataclasses.replace(CHEAP, charge=1, spin=1)
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


# Frames that cannot be labelled


def test_frame_that_does_not_converge_is_set_aside(tmp_path: Path) -> None:
    hydrogen = Structure(np.array([1, 1]), np.diag([0.0, 0.0, 0.74])[1:])
    level = dataclasses.replace(CHEAP, max_cycles=3)
    output = tmp_path / "out.h5"
    dataset, failures = label([hydrogen, *waters(1)], output, level, Serial())
    assert failures == [(1, "SCF not converged in 3 cycles")]
    assert json.loads((tmp_path / "out.h5.failed.json").read_text()) == [
        [1, "SCF not converged in 3 cycles"]
    ]
    assert [len(frame.numbers) for frame in read_hdf5(output).frames] == [2]
    with pytest.raises(LabelError, match="not converged in 1 cycles"):
        label_frame(
            WATER, waters(1)[0].positions, dataclasses.replace(CHEAP, max_cycles=1)
        )


def test_atoms_on_top_of_each_other_are_set_aside() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [0.96, 0.0, 0.01]])
    with pytest.raises(LabelError, match="atoms 1 and 2 are 0.010 A apart"):
        label_frame(WATER, positions, CHEAP)


def test_all_frames_fail(tmp_path: Path) -> None:
    level = dataclasses.replace(CHEAP, max_cycles=1)
    with pytest.raises(RuntimeError, match="no frame could be labelled"):
        label(waters(1), tmp_path / "out.h5", level, Serial())
    assert not (tmp_path / "out.h5").exists()


# What the labelling run does, with labels that cost nothing


@pytest.fixture
def free_labels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the DFT by a number; returns a list that counts the calls."""
    calls: list[int] = []

    def fake(numbers: np.ndarray, positions: np.ndarray, _: LevelOfTheory) -> Label:
        calls.append(len(numbers))
        return Label(-2060.0 - float(positions[1, 0]), positions * 0.1)

    monkeypatch.setattr(labelling, "label_frame", fake)
    monkeypatch.setattr(labelling, "isolated_atom_energy", lambda z, _: -206.0 * z)
    monkeypatch.setattr(labelling, "check_level", lambda *_: None)
    return calls


def test_repeated_structure_is_computed_once(
    tmp_path: Path, free_labels: list[int]
) -> None:
    first, second = waters(2)
    dataset, _ = label([first, second, first], tmp_path / "out.h5", CHEAP, Serial())
    assert len(free_labels) == 2
    assert len(dataset.frames) == 3
    assert dataset.frames[0].energy == dataset.frames[2].energy


def test_existing_output_is_kept(tmp_path: Path, free_labels: list[int]) -> None:
    output = tmp_path / "out.h5"
    label(waters(2), output, CHEAP, Serial())
    before = output.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        label(waters(3), output, CHEAP, Serial())
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    label(waters(3), output, CHEAP, Serial(), overwrite=True)
    assert len(read_hdf5(output).frames) == 3


def test_killed_between_output_and_end_of_journal(
    tmp_path: Path, free_labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", lambda _: None)
        label(waters(3), output, CHEAP, Serial())
    assert (tmp_path / "out.h5.journal").exists()
    label(waters(3), output, CHEAP, Serial())
    assert len(free_labels) == 3
    assert not (tmp_path / "out.h5.journal").exists()


def test_full_disk_loses_nothing(
    tmp_path: Path, free_labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    output = tmp_path / "out.h5"
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "write_hdf5", full)
        with pytest.raises(OSError, match="No space"):
            label(waters(3), output, CHEAP, Serial())
    found = []
    label(waters(3), output, CHEAP, Serial(), resumed=lambda *n: found.append(n))
    assert found == [(3, 3)]
    assert len(free_labels) == 3


def test_second_run_on_the_same_output_is_refused(
    tmp_path: Path, free_labels: list[int]
) -> None:
    output = tmp_path / "out.h5"
    lock = tmp_path / "out.h5.lock"
    with run_lock(lock):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            label(waters(1), output, CHEAP, Serial())
    assert not lock.exists()
    lock.write_text("process 1 on another machine")  # what a killed run leaves
    label(waters(1), output, CHEAP, Serial())
    assert not lock.exists()


def test_wrong_charge_names_the_frame(tmp_path: Path) -> None:
    level = dataclasses.replace(CHEAP, charge=1)
    with pytest.raises(ValueError, match="structure 0.*9 electrons"):
        label(waters(1), tmp_path / "out.h5", level, Serial())


def test_output_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        label(waters(1), tmp_path / "none/out.h5", CHEAP, Serial())


# The journal


def test_journal_drops_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.append("a", {"energy": 1.0})
        journal.append("b", {"energy": 0.1 + 0.2})
    content = path.read_bytes()
    for cut in range(len(content.splitlines(keepends=True)[0]), len(content)):
        path.write_bytes(content[:cut])
        with Journal(path) as journal:
            assert list(journal.records) == ["a"]
            journal.append("b", {"energy": 0.1 + 0.2})
        with Journal(path) as journal:
            assert journal.records["b"]["energy"] == 0.1 + 0.2
        assert path.read_bytes() == content


def test_foreign_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"key": "a"}\nhello\n')
    with pytest.raises(ValueError, match="line 2 is not a label record"):
        Journal(path)
    assert path.read_text() == '{"key": "a"}\nhello\n'


# Worker processes


def square_or_die(number: int) -> int:
    if number == 3:
        time.sleep(1.0)  # the results before are on their way
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_killed_worker_is_an_error_that_keeps_results() -> None:
    results = []
    with pytest.raises(WorkerDiedError, match="memory"):
        for result in LocalExecutor(1).run(square_or_die, range(5)):
            results.append(result)
    assert results == [(0, 0), (1, 1), (2, 4)]
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalExecutor(0)


# The command, killed


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from openmm_se3.cli import main; main(prog_name='openmm-se3')",
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def label_command(xyz: Path, output: Path) -> subprocess.Popen[str]:
    settings = ["--method", "pbe", "--basis", "sto-3g", "--grid-level", 0]
    return start("label", xyz, "-o", output, *settings, "--workers", 1)


def wait_for_lines(process: subprocess.Popen[str], journal: Path, lines: int) -> None:
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found


def wait_for_end(processes: set[int]) -> None:
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in processes):
            return
        time.sleep(0.02)
    raise AssertionError("workers outlive a killed run")


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.level == other.level
    assert one.self_energies == other.self_energies
    assert one.provenance == other.provenance
    assert len(one.frames) == len(other.frames)
    for a, b in zip(one.frames, other.frames, strict=True):
        for field in dataclasses.fields(Frame):
            left, right = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_array_equal(left, right, field.name)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_label_command_resumes_to_the_same_data(tmp_path: Path) -> None:
    xyz = write_xyz(tmp_path / "in.xyz", waters(12))
    whole, output = tmp_path / "whole/data.h5", tmp_path / "killed/data.h5"
    whole.parent.mkdir()
    output.parent.mkdir()
    process = label_command(xyz, whole)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "12 labels with pbe/sto-3g" in text

    journal = output.with_name("data.h5.journal")
    rng = random.Random(7)
    for lines in (0, rng.randint(1, 3), rng.randint(4, 6)):
        process = label_command(xyz, output)
        wait_for_lines(process, journal, lines)
        time.sleep(rng.uniform(0.0, 0.2))
        workers = children(process.pid)
        process.kill()
        process.communicate()
        wait_for_end(workers)
        assert not output.exists()
    content = journal.read_bytes()
    journal.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 40])

    before = journal.read_bytes().count(b"\n")
    process = label_command(xyz, output)
    wait_for_lines(process, journal, before + 1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    assert process.returncode == 130, text
    assert "the same command goes on" in text
    assert "Traceback" not in text
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert before < len(keys) == len(set(keys)) < 12

    process = label_command(xyz, output)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert f"found {len(keys)} finished labels, {12 - len(keys)} to do" in text
    assert_same(read_hdf5(output), read_hdf5(whole))
    assert [path.name for path in output.parent.iterdir()] == ["data.h5"]
    stored = read_hdf5(output).provenance["label"]
    assert stored == (
        "openmm-se3 label in.xyz -o data.h5 --method pbe --basis sto-3g --grid-level 0"
    )


def test_labels_from_the_workers_of_a_dask_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xyz = write_xyz(tmp_path / "in.xyz", waters(4))
    settings = ["--method", "pbe", "--basis", "sto-3g", "--grid-level", "0"]
    here, there = tmp_path / "here.h5", tmp_path / "there.h5"
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        remote = ["--scheduler", cluster.scheduler_address]
        for output, where in ((here, ["--workers", "1"]), (there, remote)):
            command = ["label", str(xyz), "-o", str(output), *settings, *where]
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
        address = cluster.scheduler_address
        with pytest.raises(ZeroDivisionError):
            list(DaskExecutor(address).run(divide, [1, 0]))
    one, other = read_hdf5(here), read_hdf5(there)
    assert one.self_energies == pytest.approx(other.self_energies, abs=1e-9)
    for a, b in zip(one.frames, other.frames, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-8)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-6)
    monkeypatch.setattr(executor, "CONNECT_SECONDS", 1)
    with pytest.raises(WorkerDiedError, match="no Dask scheduler with workers at"):
        list(DaskExecutor("tcp://127.0.0.1:1").run(divide, [1]))


def divide(x: int) -> float:
    return 1 / x


# Structure files


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


# HDF5 files


def small_dataset() -> Dataset:
    rng = np.random.default_rng(1)
    frames = [
        Frame(
            numbers,
            rng.normal(size=(3, 3)),
            -2060.0 + rng.normal(),
            rng.normal(size=(3, 3)),
            trajectory=f"t{index}",
            kind="md",
            split=("train", "validation", "test")[index % 3],
            temperature=(300.0, float("nan"))[index % 2],
        )
        # The second composition has the same formula in another order of atoms.
        for index, numbers in enumerate([WATER] * 4 + [WATER[::-1]] * 3)
    ]
    return Dataset(Frames.of(frames), CHEAP, {1: -13.5, 8: -2030.0}, {"seed": 1})


def test_hdf5_round_trip(tmp_path: Path) -> None:
    path, again = tmp_path / "a.h5", tmp_path / "b.h5"
    made = small_dataset()
    write_hdf5(path, made)
    read = read_hdf5(path)
    assert read.level == made.level
    assert read.self_energies == made.self_energies
    assert read.provenance == made.provenance
    for a, b in zip(read.frames, made.frames, strict=True):
        assert (a.numbers == b.numbers).all()
        assert (a.positions == b.positions).all()
        assert (a.forces == b.forces).all()
        assert (a.energy, a.kind, a.split) == (b.energy, b.kind, b.split)
        assert a.trajectory.endswith("/" + b.trajectory)
        assert np.array_equal(a.temperature, b.temperature, equal_nan=True)
    write_hdf5(again, read)
    assert [f.trajectory for f in read_hdf5(again).frames] == [
        f.trajectory for f in read.frames
    ]
    assert [len(read.select(s)) for s in ("train", "validation", "test")] == [3, 2, 2]
    with pytest.raises(ValueError, match="split must be one of"):
        read.select("dev")


def edit(group: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[group][name]
        if value is not None:
            file[group][name] = value

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def huge(file: h5py.File) -> None:
    del file["H2O"]["forces"]
    file["H2O"].create_dataset("forces", (1 << 40, 3, 3), "f8", chunks=(1024, 3, 3))


def elsewhere(file: h5py.File) -> None:
    del file["H2O"]["energy"]
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "energy", (4,))
    file["H2O"].create_virtual_dataset("energy", layout)


def stored_outside(file: h5py.File) -> None:
    del file["H2O"]["energy"]
    file["H2O"].create_dataset("energy", (4,), "f8", external="/etc/hostname")


SHIFTED = np.full(4, -75.0)  # hartree


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("format", "other"), "not a file of"),
        (attribute("format_version", 4), "version 4"),
        (attribute("format", np.zeros(3)), "not a file of"),
        (attribute("format_version", np.ones(2)), "version None"),
        (attribute("units", '{"energy": "hartree"}'), "has units"),
        (attribute("level_of_theory", "{}"), "expected the settings"),
        (attribute("self_energies", "[1]"), "damaged description"),
        (attribute("provenance", 3), "text attribute 'provenance'"),
        (attribute("self_energies", '{"1": -13.5}'), "no self-energy"),
        (edit("H2O", "forces", None), "lacks 'forces'; it has"),
        (edit("H2O", "forces", np.zeros((4, 2, 3))), "should both be"),
        (edit("H2O", "forces", np.full((4, 3, 3), 1e20)), "a force is 1e"),
        (edit("H2O", "positions", np.full((4, 3, 3), 1e12)), "a position is 1e"),
        (edit("H2O", "temperature", np.zeros((4, 2))), "must be lists"),
        (edit("H2O", "temperature", np.float64(1.0)), "must be lists"),
        (edit("H2O", "atomic_numbers", np.ones((3, 1), dtype=int)), "must be lists"),
        (edit("H2O", "atomic_numbers", np.full(3, 200)), "atomic numbers .200."),
        (edit("H2O", "charge", np.zeros(5, dtype=int)), "4 energies, but"),
        (edit("H2O", "forces", np.full((4, 3, 3), np.nan)), "NaN or infinite"),
        (edit("H2O", "energy", SHIFTED), "eV per atom away"),
        (edit("H2O", "energy", np.array([b"a"] * 4)), "has type"),
        (edit("H2O", "energy", h5py.SoftLink("/H2O/forces")), "link to elsewhere"),
        (edit("H2O", "energy", h5py.ExternalLink("x.h5", "e")), "link to elsewhere"),
        (edit("H2O", "split", ["train", "test"]), "4 energies, but"),
        (edit("H2O", "split", ["train", "dev", "test", "test"]), "split must be"),
        (edit("H2O", "split", np.arange(4)), "not a list of strings"),
        (edit("H2O", "trajectory", ["a", "a", "b", "c"]), "trajectory 'H2O/a' is in"),
        (edit("/", "H2O", h5py.SoftLink("/H2O")), "link to elsewhere"),
        (edit("/", "H2O", np.zeros(3)), "is not a group"),
        (huge, "declares"),
        (elsewhere, "kept in another file"),
        (stored_outside, "kept in another file"),
    ],
)
def test_wrong_content_is_refused(
    change: Callable[[h5py.File], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.h5"
    write_hdf5(path, small_dataset())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message) as info:
        read_hdf5(path)
    assert "data.h5" in str(info.value)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    write_hdf5(path, small_dataset())
    content = path.read_bytes()
    for share in (0.25, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cut short or damaged"):
            read_hdf5(path)
    for text in (b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec"):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="is not HDF5; it starts with"):
            read_hdf5(path)
    with pytest.raises(FileNotFoundError):
        read_hdf5(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="is not a file"):
        read_hdf5(tmp_path)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    made = small_dataset()
    write_hdf5(one, made)

    def with_second(**changes: Any) -> None:
        write_hdf5(two, dataclasses.replace(made, **changes))
        read_datasets([one, two])

    def one_frame(**changes: Any) -> Frames:
        return Frames.of([dataclasses.replace(made.frames[0], **changes)])

    with pytest.raises(ValueError, match="energies of two levels"):
        with_second(level=LevelOfTheory())
    # Forces alone may be of another level.
    both = read_sources([Source(str(one)), Source(str(two), forces_only=True)])
    n = len(made.frames)
    assert both.level == made.level and both.self_energies == made.self_energies
    energies = both.frames.column("energy")
    assert np.isnan(energies[n:]).all() and not np.isnan(energies[:n]).any()
    np.testing.assert_array_equal(both.frames[n].forces, made.frames[0].forces)
    assert "forces_only" in both.provenance[str(two)]
    # They can be evaluated alone, but not trained on.
    alone = [Source(str(two), forces_only=True)]
    assert read_sources(alone).level == LevelOfTheory()
    with pytest.raises(ValueError, match="one must have energies"):
        read_data(DataConfig(tuple(alone)), Console(quiet=True))
    with pytest.raises(ValueError, match="has the self-energy -14"):
        with_second(self_energies={1: -14.0, 8: -2030.0})
    with pytest.raises(ValueError, match="the same structure is in"):
        with_second(frames=one_frame(split="test"))
    with pytest.raises(ValueError, match="given twice"):
        read_datasets([one, one])
    with pytest.raises(ValueError, match="no data files"):
        read_datasets([])
    with_second(frames=one_frame(energy=-2059.0))


# The sampler

MONOMERS = Plan((300.0,), trajectories=5, frames=2, distortions=240)
TINY = Plan((300.0,), trajectories=1, frames=2, distortions=2)
DIMERS = Plan((500.0,), trajectories=1, frames=2, approaches=6, rings=6)


@pytest.fixture(scope="module")
def monomers() -> list[Atoms]:
    return sample_water(1, 11, Serial(), MONOMERS)


@pytest.fixture(scope="module")
def dimers() -> list[Atoms]:
    return sample_water(2, 11, Serial(), DIMERS)


def kind(structures: Sequence[Atoms], name: str) -> list[Atoms]:
    return [atoms for atoms in structures if atoms.info["kind"] == name]


def test_monomers_cover_the_range(monomers: list[Atoms]) -> None:
    assert len(kind(monomers, "md")) == 10
    distorted = kind(monomers, "distortion")
    lengths = np.array([a.get_distances(0, [1, 2]) for a in distorted])
    angles = np.array([a.get_angle(1, 0, 2) for a in distorted])
    assert lengths.min() >= 0.75 and lengths.max() <= 1.6
    assert angles.min() >= 60.0 and angles.max() <= 180.0
    assert lengths.min() < 0.8 and lengths.max() > 1.5
    assert angles.min() < 70.0 and angles.max() > 170.0
    thermal = np.array([a.get_distances(0, [1, 2]) for a in kind(monomers, "md")])
    assert 0.85 < thermal.min() and thermal.max() < 1.1
    assert {a.info["temperature"] for a in kind(monomers, "md")} == {300.0}


def test_dimers_approach_without_overlap(dimers: list[Atoms]) -> None:
    for atoms in dimers:
        assert atoms.get_chemical_symbols() == ["O", "H", "H"] * 2
    approach = kind(dimers, "approach")
    assert not any(has_bad_contact(atoms.positions) for atoms in approach)
    distances = np.array([atoms.get_distance(0, 3) for atoms in approach])
    assert distances.min() > APPROACH_DISTANCES[0] - 0.05
    assert APPROACH_DISTANCES[-1] - 0.05 < distances.max() < 8.05
    bad = dimers[0].positions.copy()
    bad[3:] += bad[1] - bad[3]
    assert has_bad_contact(bad)


def test_rings_have_two_bent_hydrogen_bonds(dimers: list[Atoms]) -> None:
    def bonded(atoms: Atoms) -> bool:
        towards = [
            min(atoms.get_distances(o, hs)) for o, hs in ((3, [1, 2]), (0, [4, 5]))
        ]
        return max(towards) < atoms.get_distance(0, 3)

    rings, approach = kind(dimers, "ring"), kind(dimers, "approach")
    assert len({atoms.info["trajectory"] for atoms in rings}) == 6
    assert not any(has_bad_contact(atoms.positions) for atoms in rings)
    assert all(bonded(atoms) for atoms in rings)
    assert not all(bonded(atoms) for atoms in approach)


def test_splits_keep_trajectories_whole(
    monomers: list[Atoms], dimers: list[Atoms]
) -> None:
    for structures in (monomers, dimers):
        splits: dict[str, set[str]] = {}
        for atoms in structures:
            name = atoms.info["trajectory"]
            splits.setdefault(name, set()).add(atoms.info["split"])
        assert all(len(found) == 1 for found in splits.values())
    by_kind = {
        name: {atoms.info["split"] for atoms in kind(monomers, name)}
        for name in ("md", "distortion")
    }
    assert by_kind["md"] == by_kind["distortion"] == {"train", "validation", "test"}


def test_seed_decides_the_structures() -> None:
    one, again, other = (sample_water(1, seed, Serial(), TINY) for seed in (11, 11, 12))
    assert [a.info for a in again] == [a.info for a in one]
    for left, right in zip(one, again, strict=True):
        assert (left.positions == right.positions).all()
    for left, right in zip(one, other, strict=True):
        assert np.abs(left.positions - right.positions).max() > 1e-3


def test_sample_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANS, 1, TINY)
    output = tmp_path / "water1.xyz"
    words = f"sample water --molecules 1 --seed 11 -o {output} --workers 1".split()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "4 structures" in result.output
    expected = tmp_path / "expected.xyz"
    write(expected, sample_water(1, 11, Serial(), TINY), format="extxyz")
    assert output.read_text() == expected.read_text()
    made_by = read_provenance(output)
    assert made_by["command"] == (
        "openmm-se3 sample water --molecules 1 --seed 11 -o water1.xyz"
    )
    assert made_by["seed"] == 11
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    output.write_text(output.read_text() + "\n")
    assert read_provenance(output) == {}, "the record belongs to another content"


def test_sampler_names_the_sizes_it_knows() -> None:
    with pytest.raises(ValueError, match="known sizes"):
        sample_water(7, 1, Serial())


# The committed data


def shape(frame: Frame) -> np.ndarray:
    """Return the sorted distances between atoms, by pair of elements."""
    vectors = frame.positions[:, None] - frame.positions[None]
    distances = np.linalg.norm(vectors, axis=-1)
    pairs = frame.numbers[:, None] + frame.numbers[None]
    upper = np.triu(np.ones_like(distances, dtype=bool), 1)
    return np.concatenate(
        [np.sort(distances[upper & (pairs == p)]) for p in (2, 9, 16)]
    )


DATA = sorted((ROOT / "models/water/data").glob("*.h5"))


def test_committed_data() -> None:
    dataset = read_datasets(DATA)
    assert dataset.level == LevelOfTheory()
    # As docs/reference_data.md has them.
    counts = Counter(frame.split for frame in dataset.frames)
    assert counts == {"train": 2922, "validation": 273, "test": 450}
    by_size: dict[int, dict[str, list[np.ndarray]]] = {}
    for frame in dataset.frames:
        assert np.abs(frame.forces.sum(axis=0)).max() < 2e-4
        parts = by_size.setdefault(len(frame.numbers), {})
        parts.setdefault(frame.split, []).append(shape(frame))
    for size, parts in by_size.items():
        assert set(parts) == {"train", "validation", "test"}
        train = np.array(parts["train"])
        # A monomer has three internal coordinates, so that chance alone brings some of
        # a thousand within some 0.001 A; clusters have far more room.
        least = 1e-4 if size == 3 else 1e-2
        for split in ("validation", "test"):
            for other in parts[split]:
                difference = np.sqrt(((train - other) ** 2).mean(axis=1)).min()
                assert difference > least, (size, split)

"""Labels from fast potentials: AIMNet2, GFN2-xTB, TorchScript, ASE calculators."""

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.io import write
from click.testing import CliRunner

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling import labelers
from openmm_se3.data.labeling.batches import label_in_batches, label_with
from openmm_se3.data.labeling.failures import failures_path, read_failures
from openmm_se3.data.labeling.labelers import LabelerError, labeler
from openmm_se3.data.level_of_theory import PublishedLevel
from openmm_se3.data.load import Source, read_source


class Serial:
    """Runs tasks one after the other in this process."""

    def __init__(self):
        self.tasks = 0

    def run(self, function, tasks):
        for index, task in enumerate(tasks):
            self.tasks += 1
            yield index, function(task)


class Springs(torch.nn.Module):
    """Springs of length 1 between all pairs, plus the charge; AIMNet2's interface."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        coord = data["coord"]
        r = torch.cdist(coord, coord, compute_mode="donot_use_mm_for_euclid_dist")
        energy = 0.25 * ((r - 1.0) ** 2 * (r > 1e-6)).sum((1, 2)) + data["charge"]
        return {"energy": energy.double()}


class Weak(torch.nn.Module):
    """The same with another energy."""

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        energy = (data["coord"] ** 2).sum((1, 2))
        return {"energy": energy.double()}


@pytest.fixture
def springs(tmp_path):
    path = tmp_path / "springs.pt"
    torch.jit.script(Springs()).save(str(path))
    return f"torchscript:{path}"


def structures_of(*names):
    rng = np.random.default_rng(0)
    structures = []
    for name in names:
        atoms = molecule(name)
        positions = atoms.positions + 0.02 * rng.normal(size=atoms.positions.shape)
        structures.append(Structure(atoms.numbers, positions, name))
    return structures


def test_aimnet2_gives_forces_that_fit_its_energies():
    teacher = labeler("aimnet2")
    atoms = molecule("CH3CH2OH")
    rng = np.random.default_rng(1)
    positions = atoms.positions + 0.05 * rng.normal(size=atoms.positions.shape)
    direction = rng.normal(size=positions.shape)
    direction /= np.linalg.norm(direction)
    h = 0.02  # large, because the networks are in float32
    frames = np.stack([positions, positions + h * direction, positions - h * direction])
    labels = teacher.label(np.tile(atoms.numbers, (3, 1)), frames, 0)
    slope = (labels.energy[1] - labels.energy[2]) / (2 * h)
    assert -np.sum(labels.forces[0] * direction) == pytest.approx(slope, abs=0.03)
    assert np.abs(labels.forces[0]).max() > 0.5
    assert labels.energy[0] == pytest.approx(-155.0 * 27.2114, abs=5.0)
    assert 0.0 < labels.energy_std[0] < 0.5
    assert labels.forces_std.shape == (3, 9, 3)


def test_aimnet2_refuses_elements_that_it_does_not_know():
    with pytest.raises(LabelerError, match="Na"):
        labeler("aimnet2").require(np.array([11, 17]), 0)


def test_another_file_in_place_of_aimnet2_is_refused(monkeypatch):
    monkeypatch.setattr(labelers, "AIMNET2_SHA256", "0" * 64)
    with pytest.raises(LabelerError, match="SHA-256"):
        labelers.aimnet2_file()


def test_without_auto3d_the_fix_is_named(monkeypatch):
    monkeypatch.setattr(labelers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabelerError, match="teacher"):
        labelers.aimnet2_file()


def test_a_torchscript_file_labels_as_it_computes(springs):
    (structure,) = structures_of("CH4")
    labels = labeler(springs).label(
        structure.numbers[None], structure.positions[None], 2
    )
    r = np.linalg.norm(structure.positions[:, None] - structure.positions, axis=-1)
    pairs = r[np.triu_indices(5, 1)]
    assert labels.energy[0] == pytest.approx(0.5 * np.sum((pairs - 1) ** 2) + 2, 1e-5)
    vectors = structure.positions[0] - structure.positions[1:]
    expected = -((r[0, 1:] - 1) / r[0, 1:]) @ vectors
    assert labels.forces[0, 0] == pytest.approx(expected, abs=1e-5)


def test_gfn2_labels_with_the_charge():
    (water,) = structures_of("H2O")
    neutral = labeler("gfn2").label(water.numbers[None], water.positions[None], 0)
    anion = labeler("gfn2").label(water.numbers[None], water.positions[None], -2)
    assert neutral.energy[0] == pytest.approx(-5.07 * 27.2114, abs=0.5)
    assert abs(neutral.energy[0] - anion.energy[0]) > 1.0
    assert np.abs(neutral.forces.sum(axis=1)).max() < 1e-3


def test_an_ase_calculator_is_made_by_name():
    (water,) = structures_of("H2O")
    labels = labeler("ase:ase.calculators.lj:LennardJones").label(
        water.numbers[None], water.positions[None], 0
    )
    assert np.isfinite(labels.forces).all()


@pytest.mark.parametrize(
    "spec", ["aimnet", "torchscript:none.pt", "ase:no.module:Name", "model:nothing"]
)
def test_an_unknown_labeler_is_refused(spec):
    with pytest.raises((LabelerError, FileNotFoundError, ValueError)) as error:
        labeler(spec)
    assert spec.split(":")[-1].split(".")[0] in str(error.value)


def test_batches_give_each_frame_its_own_labels(springs, tmp_path):
    structures = structures_of("H2O", "CH4", "NH3", "H2O", "CH3OH", "CH4")
    structures[3] = dataclasses.replace(structures[3], charge=1)
    executor = Serial()
    found = label_in_batches(structures, springs, tmp_path / "b", executor)
    for structure, labels in zip(structures, found, strict=True):
        alone = labeler(springs).label(
            structure.numbers[None], structure.positions[None], structure.charge or 0
        )
        assert labels.energy == pytest.approx(alone.energy[0], abs=1e-6)
        assert labels.forces == pytest.approx(alone.forces[0], abs=1e-6)
    # All batches are there: nothing is computed again, and nothing is mixed up.
    again = Serial()
    repeated = label_in_batches(structures, springs, tmp_path / "b", again)
    assert again.tasks == 0
    assert [x.energy for x in repeated] == [x.energy for x in found]


def test_other_structures_do_not_get_the_labels_of_these(springs, tmp_path):
    structures = structures_of("H2O", "CH4")
    label_in_batches(structures, springs, tmp_path / "b", Serial())
    moved = [dataclasses.replace(s, positions=1.01 * s.positions) for s in structures]
    executor = Serial()
    labels = label_in_batches(moved, springs, tmp_path / "b", executor)
    assert executor.tasks > 0
    alone = labeler(springs).label(moved[0].numbers[None], moved[0].positions[None], 0)
    assert labels[0].energy == pytest.approx(alone.energy[0], abs=1e-6)


CALCULATOR = """
from ase.calculators.morse import MorsePotential
class Morse(MorsePotential):
    def __init__(self):
        super().__init__(epsilon={depth}, r0=1.0, rho0=6.0)
"""


def test_another_potential_of_the_same_name_labels_anew(tmp_path, monkeypatch, springs):
    """A half-labeled file goes on with the potential that it was begun with."""
    (water,) = structures_of("H2O")
    monkeypatch.syspath_prepend(tmp_path)
    weights = Path(springs.partition(":")[2])

    def weaker():
        torch.jit.script(Weak()).save(str(weights))

    def deeper():
        (tmp_path / "given.py").write_text(CALCULATOR.format(depth=7.0))

    (tmp_path / "given.py").write_text(CALCULATOR.format(depth=1.0))
    for spec, change in (("ase:given:Morse", deeper), (springs, weaker)):
        folder = tmp_path / f"{change.__name__}.batches"
        (before,) = label_in_batches([water], spec, folder, Serial())
        change()
        labeler.cache_clear()  # as in another process
        sys.modules.pop("given", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        executor = Serial()
        (after,) = label_in_batches([water], spec, folder, executor)
        assert executor.tasks == 1
        assert after.energy != pytest.approx(before.energy, rel=0.1)
    labeler.cache_clear()


def test_the_command_labels_with_an_ensemble(tmp_path):
    source, output = tmp_path / "frames.xyz", tmp_path / "frames.h5"
    rng = np.random.default_rng(0)
    images = []
    for name in ("CH4", "CH3OH", "CH3OH"):
        atoms = molecule(name)
        atoms.positions += 0.03 * rng.normal(size=atoms.positions.shape)
        atoms.info = {"trajectory": name, "kind": "md"}
        images.append(atoms)
    write(source, images, format="extxyz")
    arguments = ["label", str(source), "-o", str(output), "--method", "aimnet2"]
    result = CliRunner().invoke(
        main, [*arguments, "--workers", "1"], catch_exceptions=False
    )
    assert result.exit_code == 0
    dataset = read_hdf5(output)
    assert "AIMNet2" in str(dataset.level)
    assert len(dataset.frames) == 3
    for frame in dataset.frames:
        numbers, positions = frame.numbers[None], frame.positions[None]
        labels = labeler("aimnet2").label(numbers, positions, 0)
        assert frame.energy == pytest.approx(labels.energy[0], abs=1e-3)
        assert frame.forces == pytest.approx(labels.forces[0], abs=1e-3)
        assert frame.energy_std == pytest.approx(labels.energy_std[0], abs=1e-3)
        assert frame.forces_std == pytest.approx(labels.forces_std[0], abs=1e-3)
    assert not list(tmp_path.glob("*.batches"))


@pytest.mark.parametrize("option", ["--basis=sto-3g", "--grid-level=3", "--spin=2"])
def test_settings_of_dft_are_refused_for_other_methods(tmp_path, option):
    source = tmp_path / "frames.xyz"
    write(source, molecule("H2O"), format="extxyz")
    result = CliRunner().invoke(
        main,
        [
            "label",
            str(source),
            "-o",
            str(tmp_path / "a.h5"),
            "--method",
            "gfn2",
            option,
        ],
    )
    assert result.exit_code == 2
    assert option.split("=")[0] in result.output


def test_unpaired_electrons_are_refused(springs, tmp_path):
    (structure,) = structures_of("O2")
    triplet = dataclasses.replace(structure, spin=2)
    with pytest.raises(ValueError, match="structure 0"):
        label_with([triplet], tmp_path / "a.h5", springs, Serial())


@pytest.mark.parametrize(("name", "charge"), [("CH3", None), ("H2O", 1), ("OH", 0)])
def test_an_odd_number_of_electrons_is_refused(springs, tmp_path, name, charge):
    water, odd = structures_of("H2O", name)
    odd = dataclasses.replace(odd, charge=charge)
    with pytest.raises(ValueError, match="structure 1 has .* electrons .* an odd"):
        label_with([water, odd], tmp_path / "a.h5", springs, Serial())
    even = dataclasses.replace(odd, charge=(charge or 0) - 1)
    label_with([water, even], tmp_path / "a.h5", springs, Serial())


class Stubborn(Calculator):
    """Springs whose SCF does not converge for a molecule with a short bond."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms, properties, system_changes)
        r = atoms.get_all_distances()
        if (r[r > 0.0] < 0.5).any():
            raise CalculationFailed("SCF not converged")
        self.results = {"energy": r.sum(), "forces": np.zeros((len(atoms), 3))}


def test_frames_that_a_calculator_cannot_label_are_set_aside(tmp_path):
    spec = f"ase:{__name__}:Stubborn"
    structures = structures_of("H2O", "H2O", "CH4")
    crushed = dataclasses.replace(
        structures[1], positions=0.3 * structures[1].positions
    )
    path = tmp_path / "a.h5"
    given = [structures[0], crushed, structures[2]]
    dataset, failures = label_with(given, path, spec, Serial())
    assert len(dataset.frames) == len(read_hdf5(path).frames) == 2
    assert [index for index, _ in failures] == [1]
    assert "SCF not converged" in failures[0][1]
    assert read_failures(path) == failures
    # The list of an earlier run does not stay.
    _, failures = label_with(given[:1], path, spec, Serial(), overwrite=True)
    assert not failures and not failures_path(path).exists()
    with pytest.raises(LabelerError, match="SCF not converged"):
        label_with([crushed], tmp_path / "b.h5", spec, Serial())
    assert not (tmp_path / "b.h5").exists()


def test_uncertain_frames_can_be_left_out(tmp_path):
    path = tmp_path / "a.h5"
    frames = []
    for index, (structure, std) in enumerate(
        zip(
            structures_of("H2O", "CH4", "H2O", "NH3"),
            (0.1, 0.3, 0.5, None),
            strict=True,
        )
    ):
        n_atoms = len(structure.numbers)
        frames.append(
            Frame(
                structure.numbers,
                structure.positions,
                -10.0 * n_atoms,
                np.zeros((n_atoms, 3)),
                trajectory=str(index),
                forces_std=None if std is None else np.full((n_atoms, 3), std),
            )
        )
    level = PublishedLevel("an ensemble")
    write_hdf5(path, Dataset(Frames.of(frames), level, {}))
    source = Source(str(path), max_forces_std=0.4)
    dataset = read_source(source)
    kept = {frame.trajectory.split("/")[1] for frame in dataset.frames}
    assert kept == {"0", "1", "3"}
    assert any("1 frames" in note for note in dataset.notes)
    assert len(read_source(Source(str(path))).frames) == 4
    with pytest.raises(ValueError, match="max_forces_std"):
        Source(str(path), max_forces_std=0.0)

"""Structures of molecules: files, conformers, distortions, complexes, splits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase import units
from click.testing import CliRunner
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from openmm_se3.cli import main
from openmm_se3.data.labeling import molecule_sampler
from openmm_se3.data.labeling.complexes import Body, approach, contact
from openmm_se3.data.labeling.conformers import MMFF, conformers, set_positions
from openmm_se3.data.labeling.distortions import (
    LONGEST,
    MOST_ZERO_POINT,
    SHORTEST,
    dynamics,
    normal_modes,
    rotatable_bonds,
    scanned,
    stretched,
    thermal_displacements,
    turned,
)
from openmm_se3.data.labeling.label import read_structures
from openmm_se3.data.labeling.molecule_sampler import Plan, sample_molecules, split_of
from openmm_se3.data.labeling.molecules import (
    Rejected,
    key_hash,
    molecule_from_smiles,
    read_excluded,
    read_molecules,
)
from openmm_se3.data.labeling.sample_file import groups_folder, sample_to_file

EXCLUDED = Path(__file__).parents[3] / "shared/data/excluded_molecules.sha256"


class Serial:
    """Runs tasks one after the other in this process."""

    def run(self, function, tasks):
        yield from ((index, function(task)) for index, task in enumerate(tasks))


def structures_of(molecules, seed, plan):
    groups = dict(sample_molecules(molecules, seed, Serial(), plan))
    return [atoms for index in sorted(groups) for atoms in groups[index].structures]


def molecule_and_field(smiles):
    mol, minima = conformers(molecule_from_smiles(smiles).mol, 1, seed=1)
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    return mol, minima[0], masses, MMFF(mol)


@pytest.mark.parametrize("smiles", ["CC(=O)N", "BrCCI", "CS(=O)(=O)C"])
def test_forces_are_the_gradient_of_the_energy(smiles):
    _, minimum, _, field = molecule_and_field(smiles)
    rng = np.random.default_rng(0)
    positions = minimum + 0.05 * rng.normal(size=minimum.shape)
    field.forces(minimum)  # what a call leaves behind must not enter the next one
    forces = field.forces(positions)
    for atom, axis in [(0, 0), (1, 2), (len(minimum) - 1, 1)]:
        step = np.zeros_like(positions)
        step[atom, axis] = 1e-4
        change = field.energy(positions + step) - field.energy(positions - step)
        assert forces[atom, axis] == pytest.approx(-change / 2e-4, abs=1e-3)


def test_modes_of_hydrogen_chloride_are_those_of_its_bond():
    _, minimum, masses, field = molecule_and_field("Cl")
    (energy,), directions = normal_modes(minimum, masses, field)
    bond = (minimum[1] - minimum[0]) / np.linalg.norm(minimum[1] - minimum[0])
    h = 1e-3
    energies = [
        field.energy(minimum + np.outer([0, x], bond).reshape(2, 3)) for x in (-h, 0, h)
    ]
    k = (energies[0] - 2 * energies[1] + energies[2]) / h**2
    reduced = masses[0] * masses[1] / masses.sum()
    hbar = units._hbar * units.J * units.s
    assert energy == pytest.approx(hbar * np.sqrt(k / reduced), rel=1e-3)
    # Zero-point motion of the bond, from many draws far below hbar omega.
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(2000):
        places = minimum + thermal_displacements(
            (np.array([energy]), directions), masses, 10.0, rng, quantum=True
        )
        lengths.append(np.linalg.norm(places[1] - places[0]))
    expected = np.sqrt(hbar / (2.0 * np.sqrt(k * reduced)))
    assert np.std(lengths) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("smiles", "count"), [("O", 3), ("O=C=O", 4), ("CCO", 21)])
def test_translations_and_rotations_are_no_modes(smiles, count):
    _, minimum, masses, field = molecule_and_field(smiles)
    energies, directions = normal_modes(minimum, masses, field)
    assert len(energies) == count
    momentum = np.tensordot(directions, np.sqrt(masses), ([1], [0]))
    assert np.abs(momentum).max() < 1e-3


def test_dynamics_has_its_temperature():
    mol, minimum, masses, field = molecule_and_field("CCO")
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    frames = dynamics(numbers, minimum, field, 600.0, 40, np.random.default_rng(3))
    # Each of 3N - 6 oscillators has kT / 2 on average, if they are harmonic.
    rise = np.mean([field.energy(frame) for frame in frames]) - field.energy(minimum)
    assert rise / (21 * units.kB * 600.0 / 2.0) == pytest.approx(1.0, abs=0.25)
    assert np.abs(frames[0] - frames[1]).max() > 0.05


def test_a_turned_bond_has_the_angle_and_keeps_the_bonds():
    mol, minimum, _, field = molecule_and_field("CCO")
    dihedral = next(d for d in rotatable_bonds(mol) if {d[1], d[2]} == {1, 2})
    for angle in (-150.0, 0.0, 75.0):
        positions = turned(mol, minimum, field, dihedral, angle)
        set_positions(mol, positions)
        found = rdMolTransforms.GetDihedralDeg(mol.GetConformer(), *dihedral)
        assert abs((found - angle + 180.0) % 360.0 - 180.0) < 2.0
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            lengths = [np.linalg.norm(p[i] - p[j]) for p in (positions, minimum)]
            assert lengths[0] == pytest.approx(lengths[1], abs=0.05)


@pytest.mark.parametrize(("smiles", "bond"), [("CCO", (1, 2)), ("C1CC1O", (0, 1))])
def test_a_stretched_bond_moves_only_what_hangs_on_it(smiles, bond):
    mol, minimum, _, field = molecule_and_field(smiles)
    rng = np.random.default_rng(0)
    changes = []
    for _ in range(200):
        positions = stretched(mol, minimum, field, bond, rng)
        lengths = [
            np.linalg.norm(p[bond[1]] - p[bond[0]]) for p in (positions, minimum)
        ]
        changes.append(lengths[0] - lengths[1])
        moved = np.flatnonzero(np.linalg.norm(positions - minimum, axis=1) > 1e-9)
        assert bond[0] not in moved
    # A C-C or C-O bond has an amplitude of 0.04 to 0.06 A.
    assert 0.04 < max(changes) / MOST_ZERO_POINT < 0.06
    assert min(changes) == pytest.approx(-max(changes), rel=0.1)


@pytest.mark.parametrize(("smiles", "bond"), [("CCF", (1, 2)), ("C1CC1O", (0, 1))])
def test_a_scanned_bond_leaves_its_well_on_both_sides(smiles, bond):
    mol, minimum, _, _ = molecule_and_field(smiles)
    rng = np.random.default_rng(0)
    i, j = bond
    ratios = []
    for _ in range(300):
        positions = scanned(mol, minimum, bond, rng)
        lengths = [np.linalg.norm(p[j] - p[i]) for p in (positions, minimum)]
        ratios.append(lengths[0] / lengths[1])
        assert np.array_equal(positions[i], minimum[i])
    ratios = np.array(ratios)
    assert ratios.min() == pytest.approx(SHORTEST, abs=0.01) and ratios.min() > SHORTEST
    assert ratios.max() == pytest.approx(LONGEST, abs=0.03) and ratios.max() < LONGEST
    assert np.mean(ratios < 1.0) == pytest.approx(0.5, abs=0.1)


def test_scans_change_no_other_structure():
    molecules = [molecule_from_smiles(s) for s in ("CCO", "FCC=O")]
    plan = Plan(conformers=1, modes=1, dynamics=1, torsions=1, stretches=1, complexes=2)
    with_scans = structures_of(molecules, 5, dataclasses.replace(plan, scans=4))
    without = structures_of(molecules, 5, dataclasses.replace(plan, scans=0))
    kinds = [atoms.info["kind"] for atoms in with_scans]
    assert kinds.count("scan") == 8
    rest = [atoms for atoms in with_scans if atoms.info["kind"] != "scan"]
    for a, b in zip(rest, without, strict=True):
        assert np.array_equal(a.positions, b.positions)


def test_approaches_cover_contacts_and_touch_no_closer():
    bodies = []
    for smiles in ("CCO", "O", "c1ccccc1"):
        mol, minimum, _, _ = molecule_and_field(smiles)
        bodies.append(Body(mol, minimum))
    rng = np.random.default_rng(1)
    contacts = []
    for _ in range(30):
        for positions in approach(bodies[:2], 3, rng):
            first, second = positions[:9], positions[9:]
            contacts.append(contact(first, bodies[0].radii, second, bodies[1].radii))
            # Molecules are moved, not deformed.
            inner = np.linalg.norm(second[1] - second[0])
            expected = np.linalg.norm(bodies[1].positions[1] - bodies[1].positions[0])
            assert inner == pytest.approx(expected)
    assert min(contacts) > 0.54
    assert max(contacts) > 1.3
    assert np.mean(np.array(contacts) < 0.8) > 0.2
    (positions,) = approach(bodies, 1, rng)
    assert positions.shape == (24, 3)


def test_hydrogen_bonds_are_nearly_straight():
    mol, minimum, _, _ = molecule_and_field("O")
    body = Body(mol, minimum)
    rng = np.random.default_rng(2)
    angles = []
    for _ in range(200):
        (positions,) = approach([body, body], 1, rng)
        best = 0.0
        for donor, acceptor in ((0, 3), (3, 0)):
            for hydrogen in (donor + 1, donor + 2):
                to = positions[[donor, acceptor]] - positions[hydrogen]
                cosine = to[0] @ to[1] / np.prod(np.linalg.norm(to, axis=1))
                if np.linalg.norm(to[1]) < 2.6:
                    best = max(best, float(np.degrees(np.arccos(cosine))))
        angles.append(best)
    assert np.mean(np.array(angles) > 140.0) > 0.35  # by chance: a tenth


def test_sampling_depends_on_the_molecule_and_the_seed_only():
    molecules = [molecule_from_smiles(s) for s in ("CCO", "CC(=O)N")]
    plan = Plan(conformers=1, modes=1, dynamics=1, torsions=1, stretches=1, complexes=0)
    both = structures_of(molecules, 5, plan)
    alone = structures_of(molecules[1:], 5, plan)
    other = structures_of(molecules[1:], 6, plan)
    assert [a.info["kind"] for a in alone] == [
        "minimum",
        "modes",
        "md",
        "torsion",
        "stretch",
        "scan",
    ]
    for a, b in zip(both[-len(alone) :], alone, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert a.info == b.info
    assert not np.allclose(alone[1].positions, other[1].positions)


def test_structures_say_what_they_are():
    molecules = [molecule_from_smiles(s) for s in ("C[NH3+]", "CC(=O)O")]
    plan = Plan(conformers=1, modes=1, dynamics=1, torsions=0, stretches=0, complexes=3)
    for atoms in structures_of(molecules, 1, plan):
        info = atoms.info
        first = info["inchikey"].split("+")[0]
        assert info["trajectory"] == first[:14]
        assert info["split"] == split_of(info["trajectory"])
        assert list(atoms.numbers) == sorted(atoms.numbers, reverse=True)
        charged = "BAVYZALUXZFZLV" in info["inchikey"]
        assert (info.get("charge", 0) != 0) == charged
        assert ("temperature" in info) == (info["kind"] in ("modes", "md"))


def test_splits_of_molecules_have_their_shares():
    splits = [split_of(f"{i:014d}") for i in range(20000)]
    for split in ("validation", "test"):
        assert splits.count(split) / len(splits) == pytest.approx(0.02, abs=0.004)


def test_stereochemistry_is_kept():
    for smiles in ("C[C@H](N)C(=O)NC", "C[C@@H](N)C(=O)NC", r"C/C=C\CO", "C/C=C/CO"):
        molecule = molecule_from_smiles(smiles)
        mol, found = conformers(molecule.mol, 2, seed=3)
        for positions in found:
            set_positions(mol, positions)
            seen = Chem.Mol(mol)
            Chem.AssignStereochemistryFrom3D(seen)
            assert Chem.MolToInchiKey(seen) == molecule.inchikey


def test_what_cannot_be_sampled_is_named(tmp_path):
    lines = {
        "CCO ethanol": None,
        "CC(=O)[O-] acetate": "charge -1",
        "[CH3]": "radical",
        "CCX": "typo",
        "O.CCO": "more than one",
        "C[Si](C)(C)C": "Si",
        "CCCCCCCCCC": "32 atoms",
        "OCC": "twice",
        "c1ccccc1": "excluded",
    }
    path = tmp_path / "molecules.smi"
    path.write_text("\n".join(lines) + "\n")
    benzene = key_hash(molecule_from_smiles("c1ccccc1").connectivity)
    molecules, rejected = read_molecules(
        path,
        max_atoms=30,
        elements=frozenset("HCO"),
        neutral=True,
        excluded=frozenset([benzene]),
    )
    assert [m.name for m in molecules] == ["ethanol"]
    reasons = [reason for reason in lines.values() if reason]
    for one, expected, line in zip(rejected, reasons, range(2, 10), strict=True):
        assert isinstance(one, Rejected)
        assert f"line {line}" in one.origin
        assert expected in one.reason


@pytest.mark.parametrize("suffix", [".sdf", ".pdb", ".xyz"])
def test_files_with_positions_keep_them(suffix, tmp_path):
    mol, minimum, _, _ = molecule_and_field("CC(=O)N")
    path = tmp_path / f"molecule{suffix}"
    text = {
        ".sdf": Chem.MolToMolBlock(mol) + "$$$$\n",
        ".pdb": Chem.MolToPDBBlock(mol, flavor=2),
        ".xyz": Chem.MolToXYZBlock(mol),
    }
    path.write_text(text[suffix])
    (molecule,), _ = read_molecules(path)
    assert molecule.inchikey == Chem.MolToInchiKey(mol)
    assert molecule.mol.GetConformer().GetPositions() == pytest.approx(
        minimum, abs=2e-3
    )


def test_a_list_of_excluded_molecules_holds_hashes(tmp_path):
    path = tmp_path / "list"
    path.write_text("CCO\n")
    with pytest.raises(ValueError, match="line 1"):
        read_excluded(path)


@pytest.mark.skipif(not EXCLUDED.is_file(), reason="no list of test molecules here")
def test_test_molecules_are_left_out(tmp_path):
    excluded = read_excluded(EXCLUDED)
    path = tmp_path / "molecules.smi"
    path.write_text("O=C(Nc1ccccc1)c1ccccc1\nCCO\nCc1ccccc1-c1ccccc1C\n")
    molecules, _ = read_molecules(path, excluded=excluded)
    assert all(key_hash(m.connectivity) not in excluded for m in molecules)
    assert len(excluded) > 1000


def test_the_command_writes_what_label_reads(tmp_path):
    (tmp_path / "some.smi").write_text("CCO\n[CH3]\nO water\n")
    output = tmp_path / "frames.xyz"
    arguments = ["sample", str(tmp_path / "some.smi"), "-o", str(output)]
    arguments += ["--modes", "1", "--md", "1", "--torsions", "1", "--workers", "1"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "some.smi, line 2" in result.output
    structures = read_structures(output)
    assert {s.kind for s in structures} >= {"minimum", "modes", "md", "complex"}
    assert (tmp_path / "frames.xyz.json").is_file()


class Interrupted(Serial):
    """Stops before the second task, as a kill would."""

    def run(self, function, tasks):
        yield 0, function(tasks[0])
        raise KeyboardInterrupt


def test_a_stopped_run_resumes_to_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(molecule_sampler, "MOLECULES_PER_GROUP", 1)
    molecules = [molecule_from_smiles(s) for s in ("CCO", "CC(=O)N", "O")]
    plan = Plan(conformers=1, modes=1, dynamics=1, torsions=0, stretches=1, complexes=1)
    whole, stopped = tmp_path / "whole.xyz", tmp_path / "stopped.xyz"
    sample_to_file(molecules, whole, 1, Serial(), plan)
    with pytest.raises(KeyboardInterrupt):
        sample_to_file(molecules, stopped, 1, Interrupted(), plan)
    assert not stopped.exists()
    # Of another seed nothing is taken.
    done = []
    sample_to_file(molecules, stopped, 2, Serial(), plan, lambda d, _: done.append(d))
    assert done[0] == 0
    assert stopped.read_bytes() != whole.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        sample_to_file(molecules, stopped, 1, Interrupted(), plan)
    done = []
    summary = sample_to_file(
        molecules, stopped, 1, Serial(), plan, lambda d, _: done.append(d)
    )
    assert done[0] == 1
    assert stopped.read_bytes() == whole.read_bytes()
    assert summary.counts.total() == len(read_structures(whole))
    assert not groups_folder(stopped).exists()


def test_classical_displacements_have_kt_in_each_mode():
    _, minimum, masses, field = molecule_and_field("CC#N")
    modes = normal_modes(minimum, masses, field)
    rng = np.random.default_rng(4)
    energies = []
    for _ in range(100):
        # Cold, so that the potential is harmonic.
        moved = minimum + thermal_displacements(modes, masses, 5.0, rng)
        energies.append(field.energy(moved) - field.energy(minimum))
    expected = len(modes[0]) * units.kB * 5.0 / 2.0
    assert np.mean(energies) == pytest.approx(expected, rel=0.15)


def test_molecules_that_are_torn_apart_are_no_structures(monkeypatch):
    molecules = [molecule_from_smiles("CCO")]
    none = dict.fromkeys(("modes", "torsions", "stretches", "scans", "complexes"), 0)
    plan = Plan(conformers=1, dynamics=3, **none)
    whole = structures_of(molecules, 1, plan)
    assert [a.info["kind"] for a in whole] == ["minimum", "md", "md", "md"]

    def exploding(*arguments):
        first, *others = dynamics(*arguments)
        torn = first.copy()
        torn[-1] += 5.0
        return [torn, np.full_like(first, np.nan), *others]

    monkeypatch.setattr(molecule_sampler, "dynamics", exploding)
    kinds = [a.info["kind"] for a in structures_of(molecules, 1, plan)]
    assert kinds == ["minimum", "md", "md"]

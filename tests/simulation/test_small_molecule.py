"""Runs from SMILES, SDF and XYZ: atoms, bonds and stereochemistry as asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from openmm import app

pytest.importorskip("rdkit")
from rdkit import Chem
from rdkit.Chem import AllChem

from openmm_se3.simulation.structure import is_file_name, make_structure

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def rebuilt(topology: app.Topology, positions: np.ndarray) -> Chem.Mol:
    """Return the molecule that RDKit sees in positions and bond orders."""
    mol = Chem.RWMol()
    for atom in topology.atoms():
        mol.AddAtom(Chem.Atom(atom.element.symbol))
    kinds = {
        app.Single: Chem.BondType.SINGLE,
        app.Double: Chem.BondType.DOUBLE,
        app.Triple: Chem.BondType.TRIPLE,
        app.Aromatic: Chem.BondType.AROMATIC,
    }
    for bond in topology.bonds():
        mol.AddBond(bond.atom1.index, bond.atom2.index, kinds[bond.type])
        if bond.type is app.Aromatic:
            for atom in bond:
                mol.GetAtomWithIdx(atom.index).SetIsAromatic(True)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions))
    mol.AddConformer(conformer)
    Chem.SanitizeMol(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    return Chem.RemoveHs(mol)


@pytest.mark.parametrize(
    "smiles", [ASPIRIN, "C[C@H](N)C(=O)O", "C/C=C\\C#N", "OP(O)(O)=O", "c1ccsc1Br"]
)
def test_smiles_become_the_molecule_that_they_mean(smiles: str) -> None:
    topology, positions = make_structure(smiles)
    assert topology.getPeriodicBoxVectors() is None
    assert positions.shape == (topology.getNumAtoms(), 3)
    found = Chem.MolToSmiles(rebuilt(topology, positions))
    assert found == Chem.CanonSmiles(smiles)
    names = [atom.name for atom in topology.atoms()]
    assert len(set(names)) == len(names)


def test_the_mirror_image_is_told_from_the_molecule() -> None:
    """The check above can fail."""
    topology, positions = make_structure("C[C@H](N)C(=O)O")
    found = Chem.MolToSmiles(rebuilt(topology, positions * [-1.0, 1.0, 1.0]))
    assert found == Chem.CanonSmiles("C[C@@H](N)C(=O)O")


def test_the_same_smiles_give_the_same_start() -> None:
    first, second = make_structure("CCO")[1], make_structure("CCO")[1]
    np.testing.assert_array_equal(first, second)


def write_sdf(path: Path, *smiles: str, flat: bool = False) -> list[np.ndarray]:
    positions = []
    with Chem.SDWriter(str(path)) as writer:
        for text in smiles:
            mol = Chem.AddHs(Chem.MolFromSmiles(text))
            if flat:
                AllChem.Compute2DCoords(mol)
            else:
                AllChem.EmbedMolecule(mol, randomSeed=7)
            positions.append(mol.GetConformer().GetPositions())
            writer.write(mol)
    return positions


def test_an_sdf_file_keeps_its_positions(tmp_path: Path) -> None:
    [expected] = write_sdf(tmp_path / "one.sdf", ASPIRIN)
    topology, positions = make_structure(tmp_path / "one.sdf")
    np.testing.assert_allclose(positions, expected, atol=1e-4)
    assert Chem.MolToSmiles(rebuilt(topology, positions)) == Chem.CanonSmiles(ASPIRIN)


def test_a_drawing_gets_a_conformer(tmp_path: Path) -> None:
    write_sdf(tmp_path / "flat.sdf", "CCO", flat=True)
    positions = make_structure(tmp_path / "flat.sdf")[1]
    assert np.ptp(positions, axis=0).min() > 1.0


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("CC(=O", "typo"),
        ("CC[NH3+]", "+1"),
        ("[CH3]", "radical"),
        ("CCO.O", "more than one"),
        ("ethanol", "structure file"),
        ("", "no atoms"),
    ],
)
def test_what_is_no_molecule_is_refused(given: str, named: str) -> None:
    with pytest.raises(ValueError, match="neither a structure file") as caught:
        make_structure(given)
    assert named in str(caught.value)


def test_an_xyz_file_keeps_its_positions_and_gets_bonds(tmp_path: Path) -> None:
    [expected] = write_sdf(tmp_path / "one.sdf", ASPIRIN)
    mol = Chem.AddHs(Chem.MolFromSmiles(ASPIRIN))
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    atoms = Atoms(symbols, expected)
    atoms.write(tmp_path / "one.xyz", format="extxyz")
    topology, positions = make_structure(tmp_path / "one.xyz")
    np.testing.assert_allclose(positions, expected, atol=1e-4)
    assert Chem.MolToSmiles(rebuilt(topology, positions)) == Chem.CanonSmiles(ASPIRIN)
    atoms.set_cell([20.0, 20.0, 20.0])
    atoms.pbc = True
    atoms.write(tmp_path / "box.xyz", format="extxyz")
    with pytest.raises(ValueError, match=r"box.xyz, structure 1 has a box"):
        make_structure(tmp_path / "box.xyz")


def test_an_xyz_file_that_claims_too_many_atoms_is_refused_at_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "big.xyz").write_text("1000000000\n\nO 0 0 0\nH 0 0 1\n")
    with pytest.raises(ValueError, match=r"big\.xyz, frame 0"):
        make_structure(tmp_path / "big.xyz")


def test_two_molecules_in_an_xyz_file_are_refused(tmp_path: Path) -> None:
    pair = molecule("H2O", vacuum=2.0).repeat((1, 1, 2))
    pair.pbc = False
    pair.write(tmp_path / "pair.xyz")
    with pytest.raises(ValueError, match="more than one molecule"):
        make_structure(tmp_path / "pair.xyz")


def test_two_molecules_in_a_file_are_refused(tmp_path: Path) -> None:
    write_sdf(tmp_path / "two.sdf", "CCO", "CO")
    with pytest.raises(ValueError, match="2 molecules"):
        make_structure(tmp_path / "two.sdf")


def test_files_are_told_from_smiles(tmp_path: Path) -> None:
    assert is_file_name("missing.pdb")
    assert is_file_name("ligand.SDF")
    assert not is_file_name("C/C=C/C")
    assert not is_file_name(ASPIRIN)
    with pytest.raises(FileNotFoundError, match="missing.sdf"):
        make_structure(tmp_path / "missing.sdf")


def test_deuterium_keeps_its_mass_and_other_isotopes_are_refused(tmp_path):
    topology, _ = make_structure("[2H]OC")
    masses = [atom.element.mass._value for atom in topology.atoms()]
    assert sum(mass == pytest.approx(2.01355, abs=1e-3) for mass in masses) == 1
    path = tmp_path / "heavy.sdf"
    mol = Chem.AddHs(Chem.MolFromSmiles("[2H]O[2H]"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    path.write_text(Chem.MolToMolBlock(mol) + "$$$$\n")
    topology, _ = make_structure(path)
    assert [a.element.symbol for a in topology.atoms()].count("D") == 2
    with pytest.raises(ValueError, match="isotope 13C"):
        make_structure("[13CH4]")

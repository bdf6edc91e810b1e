"""Molecules of PDB and XYZ files: their charge, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from openmm_se3.active_learning.structures import read_input
from openmm_se3.data.labeling.given_structures import read_given_structures
from openmm_se3.data.labeling.molecules import read_molecules

CORNERS = np.array([(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)])
AMMONIUM = Atoms("NH4", [(0, 0, 0), *(0.6 * CORNERS)])


def written(path: Path, atoms: Atoms, **info: object) -> Path:
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    atoms.info = info
    atoms.write(path, **({"format": "extxyz"} if path.suffix == ".xyz" else {}))
    return path


@pytest.mark.parametrize(
    ("suffix", "info", "given"),
    [
        (".xyz", {"charge": 1}, 0),
        (".xyz", {"total_charge": 1, "multiplicity": 1}, 0),
        (".xyz", {"spin": 1}, 1),  # a multiplicity
        (".xyz", {}, 1),
        (".xyz", {"charge": 1}, -1),  # the file knows better
        (".pdb", {}, 1),
    ],
)
def test_the_charge_is_that_of_the_file_or_the_one_given(
    suffix: str, info: dict[str, int], given: int, tmp_path: Path
) -> None:
    path = written(tmp_path / f"a{suffix}", AMMONIUM, **info)
    (found,) = read_input(str(path), given)
    assert sum(atom.GetFormalCharge() for atom in found.mol.GetAtoms()) == 1


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({}, "11 electrons, an odd number"),
        ({"charge": 1, "spin": 2}, "2 unpaired electrons"),
        ({"charge": -1}, "no Lewis structure with charge -1"),
    ],
)
def test_a_molecule_that_is_no_closed_shell_is_refused(
    info: dict[str, int], named: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.xyz", AMMONIUM, **info)
    with pytest.raises(ValueError, match="structure 1") as caught:
        read_molecules(path)
    assert named in str(caught.value)


def test_a_spin_that_does_not_go_with_the_charge_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.xyz", AMMONIUM, charge=1, multiplicity=2)
    with pytest.raises(ValueError, match="structure 1: 1 unpaired electrons"):
        read_molecules(path)


def test_an_xyz_file_with_a_box_is_refused(tmp_path: Path) -> None:
    water = molecule("H2O", cell=[9, 9, 9], pbc=True)
    path = written(tmp_path / "a.xyz", water)
    with pytest.raises(ValueError, match="structure 1 has a box"):
        list(read_given_structures(path))


@pytest.mark.timeout(60)
def test_an_xyz_file_that_claims_a_billion_atoms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("1000000000\n\nO 0 0 0\n")
    with pytest.raises(ValueError, match="1000000000 atoms"):
        read_input(str(path))


def test_no_atom_of_a_pdb_file_is_lost(tmp_path: Path) -> None:
    """Without the first row, which the mark hides, formaldehyde would be CH2."""
    path = written(tmp_path / "a.pdb", molecule("H2CO"))
    text = path.read_text()
    first = text[text.index("ATOM") :]
    path.write_text("\ufeff" + first, encoding="utf-8")
    (found,) = read_given_structures(path)
    assert len(found.numbers) == 4
    path.write_text(first.replace("ATOM  ", "atom  ", 1))
    with pytest.raises(ValueError, match="4 rows of atoms, and 3 atoms could be read"):
        list(read_given_structures(path))


def test_atoms_in_two_places_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pdb", molecule("H2CO"))
    text = path.read_text()
    for old, place in (("   O", "A"), ("   C", "B")):
        text = text.replace(f"{old} MOL", f"{old}{place}MOL", 1)
    assert "AMOL" in text and "BMOL" in text
    path.write_text(text)
    with pytest.raises(ValueError, match="alternate locations"):
        list(read_given_structures(path))

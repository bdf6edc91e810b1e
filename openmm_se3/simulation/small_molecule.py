"""Molecules of SMILES, SDF, MOL and XYZ files: topology and positions to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from openmm import app

if TYPE_CHECKING:
    from rdkit import Chem

    from openmm_se3.data.labeling.molecules import Molecule

SUFFIXES = (".sdf", ".mol", ".xyz")
CONFORMERS = 10  # tried; the lowest by MMFF94 is taken
SEED = 1  # of the conformers: the same SMILES gives the same start
RESIDUE = "MOL"
ORDERS = {1.0: app.Single, 1.5: app.Aromatic, 2.0: app.Double, 3.0: app.Triple}


def read_smiles(smiles: str) -> tuple[app.Topology, np.ndarray]:
    """Return a molecule of SMILES in its lowest conformer by MMFF94.

    Tautomer and protonation are those of the SMILES.

    Args:
        smiles: One neutral, closed-shell molecule.

    Returns:
        The topology with bonds, and positions [n_atoms, 3], A.

    Raises:
        ValueError: It is no SMILES, or its molecule has a charge, unpaired electrons,
            several parts or no three-dimensional structure.
        ImportError: RDKit is missing.
    """
    from openmm_se3.data.labeling.molecules import molecule_from_smiles

    return _lowest_conformer(molecule_from_smiles(smiles))


def read_molecule(path: str | Path) -> tuple[app.Topology, np.ndarray]:
    """Return the only molecule of an SDF, MOL or XYZ file, at its positions there.

    Where the file is flat (2D), the lowest conformer by MMFF94 is taken.  The bonds of
    an XYZ file follow from distances.

    Args:
        path: The file, hydrogens included.

    Returns:
        The topology with bonds, and positions [n_atoms, 3], A.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no neutral, closed-shell molecule, or several, or a box.
        ImportError: RDKit is missing.
    """
    from openmm_se3.data.labeling.molecules import read_molecules

    path = Path(path)
    molecules, rejected = read_molecules(path)
    if len(molecules) + len(rejected) != 1:
        raise ValueError(
            f"{path} holds {len(molecules) + len(rejected)} molecules; give a file "
            "with the one to run"
        )
    return _lowest_conformer(molecules[0])


def _lowest_conformer(molecule: Molecule) -> tuple[app.Topology, np.ndarray]:
    from rdkit import Chem

    from openmm_se3.data.labeling.conformers import NoConformerError, conformers

    charge = Chem.GetFormalCharge(molecule.mol)
    if charge:
        raise ValueError(
            f"{molecule.origin}: total charge {charge:+d}; models know neutral "
            "molecules only: protonate or deprotonate it"
        )
    try:
        mol, positions = conformers(molecule.mol, CONFORMERS, SEED)
    except NoConformerError as error:
        raise ValueError(f"{molecule.origin}: {error}") from error
    return _topology(mol), positions[0]


def _topology(mol: Chem.Mol) -> app.Topology:
    bonds = []
    for bond in mol.GetBonds():
        order = bond.GetBondTypeAsDouble()
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        whole = int(order) if order.is_integer() else None
        bonds.append((*ends, ORDERS.get(order), whole))
    return molecule_topology([_symbol(atom) for atom in mol.GetAtoms()], bonds)


def _symbol(atom: Chem.Atom) -> str:
    """Return the symbol of an atom, D for deuterium.

    Raises:
        ValueError: It is another isotope, whose mass OpenMM's elements do not have.
    """
    symbol, isotope = str(atom.GetSymbol()), int(atom.GetIsotope())
    if (symbol, isotope) == ("H", 2):
        return "D"
    if isotope:
        raise ValueError(
            f"the isotope {isotope}{symbol} has no mass in OpenMM's elements: leave it "
            "out of the structure, and set its mass with System.setParticleMass"
        )
    return symbol


def molecule_topology(
    symbols: Sequence[str],
    bonds: Iterable[tuple[int, int, Any, int | None]],
) -> app.Topology:
    """Return a molecule of one residue, its atoms named C1, C2, ... by element.

    Args:
        symbols: Chemical symbols [n_atoms], D for deuterium.
        bonds: The two atoms of each bond, its type and its order; None if not known.
    """
    topology = app.Topology()
    residue = topology.addResidue(RESIDUE, topology.addChain())
    number: Counter[str] = Counter()
    atoms = []
    for symbol in symbols:
        number[symbol] += 1
        element = app.Element.getBySymbol(symbol)
        atoms.append(topology.addAtom(f"{symbol}{number[symbol]}", element, residue))
    for first, second, kind, order in bonds:
        topology.addBond(atoms[first], atoms[second], type=kind, order=order)
    return topology

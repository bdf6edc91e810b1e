"""Structure files or SMILES -> topology and positions that can be run."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit

from openmm_se3.elements import chemical_symbol
from openmm_se3.geometry import box_of, minimum_image
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.simulation.small_molecule import SUFFIXES, read_molecule, read_smiles
from openmm_se3.simulation.structure_checks import (
    refuse_charges,
    refuse_contacts,
    refuse_crystal,
    refuse_partial_cell,
    refuse_symmetry,
    refuse_unfit,
)
from openmm_se3.structure_text import read_text, refuse_alternates, refuse_unread

READERS: dict[str, Any] = {
    ".pdb": app.PDBFile,
    ".ent": app.PDBFile,
    ".cif": app.PDBxFile,
    ".mmcif": app.PDBxFile,
}
FILES = (*READERS, *SUFFIXES)
NO_CRYSTAL = 1.0  # A, edges of the box that the PDB format writes where there is none


def is_file_name(structure: str | Path) -> bool:
    """Tell whether a structure is given by a file rather than by SMILES."""
    return Path(structure).suffix.lower() in FILES or Path(structure).is_file()


def make_structure(structure: str | Path) -> tuple[app.Topology, np.ndarray]:
    """Return the structure of a PDB, PDBx/mmCIF, SDF, MOL or XYZ file, or of SMILES.

    Args:
        structure: The file, or SMILES of one neutral molecule.

    Returns:
        The topology, periodic if a file has a box, and positions [n_atoms, 3], A.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, or is not fit; see :func:`read_structure` and
            :mod:`openmm_se3.simulation.small_molecule`.
        ImportError: It is not PDB or PDBx/mmCIF, and RDKit is missing.
    """
    if not is_file_name(structure):
        try:
            return read_smiles(str(structure))
        except ValueError as error:
            raise ValueError(
                f"{structure} is neither a structure file ({', '.join(FILES)}) nor "
                f"SMILES that can be run: {error}"
            ) from error
    if Path(structure).suffix.lower() in SUFFIXES:
        return read_molecule(structure)
    return read_structure(structure)


def read_structure(path: str | Path) -> tuple[app.Topology, np.ndarray]:
    """Read a PDB or PDBx/mmCIF file and refuse what cannot be simulated.

    Bonds are those that the file gives, in water, amino acids and nucleotides those of
    the standard residue, and for atoms that have none those of their distances.
    Molecules that the box cuts are made whole.  Of several models the first is taken.

    Args:
        path: PDB file (.pdb, .ent) or PDBx/mmCIF file (.cif, .mmcif).

    Returns:
        The topology, periodic if the file has a box, and positions [n_atoms, 3], A.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read whole, or atoms, elements, hydrogens, positions or
            box are not fit; names the first atom that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no structure file {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: give a PDB or PDBx/mmCIF file ({', '.join(READERS)})"
        )
    text = read_text(path)
    refuse_crystal(path, text)
    refuse_partial_cell(path, text)
    refuse_symmetry(path, text)
    refuse_charges(path, text)
    refuse_alternates(path, text)
    try:
        with warnings.catch_warnings():
            # OpenMM warns of atoms that it leaves out.
            warnings.simplefilter("error", UserWarning)
            file = reader(io.StringIO(text))
        topology = file.topology
        positions = file.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if topology.getNumAtoms() == 0:
            raise ValueError("there are no atoms in it")
    except UserWarning as warning:
        cause = " ".join(str(warning).removeprefix("WARNING:").split())
        raise ValueError(
            f"{path} cannot be read: {cause}; give the atoms of a residue names of "
            "their own, and each atom once"
        ) from warning
    # OpenMM's readers raise whatever their parsing meets.
    except Exception as error:
        known = isinstance(error, ValueError)
        cause = str(error) if known else "there are no atoms in it"
        raise ValueError(f"{path} cannot be read: {cause}") from error
    positions = np.array(positions, dtype=float)
    box = box_of(topology)
    if box is not None and (np.diag(box) == NO_CRYSTAL).all():
        topology.setPeriodicBoxVectors(None)
        box = None
    refuse_unread(path, text, topology.getNumAtoms())
    refuse_unfit(path, topology, positions)
    refuse_contacts(path, topology, positions, box)
    _add_bonds(topology, positions, box)
    return topology, whole_molecules(topology, positions, box)


def _add_bonds(
    topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> None:
    """Add the bonds of atoms that have none in the file, as their distances tell.

    Barostats move molecules, and frames are wrapped by them.
    """
    atoms = list(topology.atoms())
    bonded = {atom.index for bond in topology.bonds() for atom in bond}
    if len(bonded) == len(atoms):
        return
    symbols = [chemical_symbol(atom.element) for atom in atoms]
    for i, j in bonds_by_distance(symbols, positions, box):
        if int(i) not in bonded or int(j) not in bonded:
            topology.addBond(atoms[i], atoms[j])


def whole_molecules(
    topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
    """Return positions [n_atoms, 3], A, with each atom beside those it is bonded to.

    Args:
        topology: Atoms and bonds.
        positions: Positions [n_atoms, 3], A, perhaps wrapped atom by atom.
        box: Box vectors as rows [3, 3], A; None changes nothing.
    """
    neighbors = defaultdict(list)
    for first, second, *_ in topology.bonds():
        neighbors[first.index].append(second.index)
        neighbors[second.index].append(first.index)
    whole = positions.copy()
    placed = np.zeros(len(positions), dtype=bool)
    for start in neighbors if box is not None else ():
        waiting = deque([start] if not placed[start] else [])
        placed[start] = True
        while waiting:
            atom = waiting.popleft()
            for other in neighbors[atom]:
                if not placed[other]:
                    step = minimum_image(positions[other] - positions[atom], box)
                    whole[other] = whole[atom] + step
                    placed[other] = True
                    waiting.append(other)
    return whole

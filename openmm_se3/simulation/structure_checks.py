"""What of a structure file cannot be simulated, refused with the cause and the fix."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
from openmm import app

from openmm_se3.elements import chemical_symbol
from openmm_se3.geometry import closest_contact
from openmm_se3.structure_text import ATOM_ROWS, columns_of

CELL = (
    *(f"length_{edge}" for edge in "abc"),
    *(f"angle_{angle}" for angle in ("alpha", "beta", "gamma")),
)
SPACE_GROUPS = ("_symmetry.space_group_name_H-M", "_space_group.name_H-M_alt")
LEAST_START = 0.7  # of the sum of covalent radii; a start is nearer to rest than a run
# Names of the extra particles of 4- and 5-site water models, lone pairs, Drude shells.
EXTRA_PARTICLE = re.compile(r"(M|OM|MW\d?|EPW?\d?|LP\w?\d?|L[AB]|DO[A-Z]?\d?)$", re.I)
# Residues with a fixed composition, by the names that OpenMM gives them, and the least
# number of hydrogens that they have at any pH and at any place in a chain.
LEAST_HYDROGENS = {
    **{"HOH": 2, "ALA": 5, "ARG": 12, "ASN": 6, "ASP": 4, "CYS": 4, "GLN": 8},
    **{"GLU": 6, "GLY": 3, "HIS": 6, "ILE": 11, "LEU": 11, "LYS": 12, "MET": 9},
    **{"PHE": 9, "PRO": 7, "SER": 5, "THR": 7, "TRP": 10, "TYR": 8, "VAL": 9},
    **{"A": 11, "C": 11, "G": 11, "U": 10, "I": 10},
    **{"DA": 11, "DC": 11, "DG": 11, "DT": 12, "DI": 10},
}


def refuse_crystal(path: Path, text: str) -> None:
    """Refuse a crystallographic CIF, which shares its suffix with PDBx/mmCIF.

    Raises:
        ValueError: It is one; says how to convert it.
    """
    if re.search(r"^\s*_atom_site_", text, re.M) and "_atom_site." not in text:
        name = shlex.quote(path.with_suffix(".pdb").name)
        raise ValueError(
            f"{path} is a crystallographic CIF (fractional coordinates of the "
            "asymmetric unit), not PDBx/mmCIF: expand it by its symmetry to all atoms "
            f"of a cell with molecules and bonds, and write that to {name}; "
            'docs/running.md, "A crystal structure", has a script'
        )


def refuse_partial_cell(path: Path, text: str) -> None:
    """Refuse a cell of mmCIF that OpenMM would read with other numbers.

    Raises:
        ValueError: An item of the cell is missing, or no number.
    """
    found = dict(re.findall(r"^_cell\.(\w+)\s+(\S+)", text, re.M))
    given = {name: found[name] for name in CELL if name in found}
    if not given:
        return
    missing = [name for name in CELL if name not in given]
    if missing:
        raise ValueError(
            f"{path}: the cell lacks {', '.join(f'_cell.{m}' for m in missing)}: give "
            "all six items, or take all of _cell out for a run without a box"
        )
    for name, value in given.items():
        try:
            float(value)
        except ValueError:
            raise ValueError(
                f"{path}: _cell.{name} is {value!r}, no plain number: write one "
                "(without a standard uncertainty in parentheses), or take all of _cell "
                "out for a run without a box"
            ) from None


def refuse_symmetry(path: Path, text: str) -> None:
    """Refuse a crystal of which the file holds the asymmetric unit only.

    Raises:
        ValueError: Names the space group.
    """
    group = ""
    for line in text.splitlines():
        if line.startswith("CRYST1"):
            group = line[55:66].strip()
        for item in SPACE_GROUPS:
            if line.startswith(item):
                group = line[len(item) :].strip().strip("'\"")
    if group.replace(" ", "").upper() not in ("", "P1", "?", "."):
        raise ValueError(
            f"{path}: the space group is {group!r}, so the file may hold a part of the "
            "cell only: expand it by its symmetry to all atoms of the cell, and write "
            "the space group P 1"
        )


def refuse_charges(path: Path, text: str) -> None:
    """Refuse formal charges that add up to an ion, which the models do not know.

    Raises:
        ValueError: Names their sum.
    """
    columns = columns_of(text)
    place = columns.get("pdbx_formal_charge")
    total = 0
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            break
        if not line.startswith(ATOM_ROWS):
            continue
        words = line.split()
        if columns:
            value = words[place] if place is not None and place < len(words) else ""
        else:
            value = line[78:80].strip()
        match = re.fullmatch(r"([+-]?)(\d)([+-]?)", value)
        if match:
            sign = -1 if "-" in (match[1], match[3]) else 1
            total += sign * int(match[2])
    if total:
        raise ValueError(
            f"{path}: the formal charges add up to {total:+d}; models know neutral "
            "molecules only: protonate or deprotonate them, or add the counterion's "
            "atoms"
        )


def refuse_unfit(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    """Refuse atoms without an element, positions that are no numbers, odd residues.

    Raises:
        ValueError: Names the first atom or residue that is wrong.
    """
    for atom in topology.atoms():
        name = f"atom {atom.index} ({atom.name} of {atom.residue.name})"
        if atom.element is None and EXTRA_PARTICLE.match(atom.name):
            raise ValueError(
                f"{path}: {name} is an extra particle of a classical model, such as "
                "the charge site of TIP4P, and no atom: delete the rows of all "
                f"{atom.name}, or in OpenMM the atoms whose element is None "
                "(Modeller.delete)"
            )
        if atom.element is None:
            raise ValueError(
                f"{path}: {name} has no element that OpenMM knows; write it into "
                "columns 77-78 of the PDB file, or into type_symbol of the mmCIF file"
            )
        if not np.isfinite(positions[atom.index]).all():
            raise ValueError(f"{path}: the position of {name} is not a finite number")
    _refuse_compositions(path, topology)


def _refuse_compositions(path: Path, topology: app.Topology) -> None:
    """Refuse water that is not H2O, and standard residues that lack hydrogens."""
    bonds_out = Counter(
        atom.residue.index
        for bond in topology.bonds()
        for atom in bond
        if bond[0].residue is not bond[1].residue
    )
    bare = []
    for residue in topology.residues():
        if residue.name not in LEAST_HYDROGENS:
            continue
        numbers = Counter(atom.element.atomic_number for atom in residue.atoms())
        # A residue with more neighbors than a chain has may have given hydrogens away.
        expected = LEAST_HYDROGENS[residue.name] - max(0, bonds_out[residue.index] - 2)
        if numbers[1] < expected:
            bare.append(residue)
        elif residue.name == "HOH" and numbers != {8: 1, 1: 2}:
            atoms = ", ".join(atom.name for atom in residue.atoms())
            raise ValueError(
                f"{path}: water {residue.id} ({residue.name}) has the atoms {atoms}: "
                "it must be one oxygen and two hydrogens; give ions and other "
                "molecules another residue name"
            )
    if bare:
        raise ValueError(
            f"{path}: hydrogens are missing in {len(bare)} residues, the first is "
            f"{bare[0].name} {bare[0].id}; add them, for example with "
            "openmm.app.Modeller.addHydrogens"
        )


def refuse_contacts(
    path: Path, topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> None:
    """Refuse atoms that are nearer to each other than in any molecule.

    Raises:
        ValueError: Names the two, their distance and the likely cause.
    """
    atoms = list(topology.atoms())
    symbols = [chemical_symbol(atom.element) for atom in atoms]
    found = closest_contact(symbols, positions, box, LEAST_START)
    if found is None:
        return
    first, second, distance, limit = found
    one, other = (f"atom {i} ({atoms[i].name})" for i in (first, second))
    if first == second:
        other = "its own image"
    edges = ""
    if box is not None:
        lengths = " x ".join(f"{x:.2f}" for x in np.linalg.norm(box, axis=1))
        edges = f", or a box too small ({lengths} Å)"
    raise ValueError(
        f"{path}: {one} and {other} are {distance:.2f} Å apart, below {limit:.2f} Å; "
        f"likely cause: positions in other units than Å, atoms given twice{edges}"
    )

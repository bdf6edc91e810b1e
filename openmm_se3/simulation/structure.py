"""Structure files: PDB or PDBx/mmCIF -> topology and positions that can be run."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit

from openmm_se3.box import box_of, minimum_image
from openmm_se3.simulation.contacts import closest_contact

READERS: dict[str, Any] = {
    ".pdb": app.PDBFile,
    ".ent": app.PDBFile,
    ".cif": app.PDBxFile,
    ".mmcif": app.PDBxFile,
}
# Residues that have hydrogens in every state, by the names that OpenMM gives them.
WITH_HYDROGENS = frozenset(
    "HOH ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR "
    "VAL A C G U I DA DC DG DT DI".split()
)
LEAST_START = 0.7  # of the sum of covalent radii; a start is nearer to rest than a run
NO_CRYSTAL = 1.0  # A, edges of the box that the PDB format writes where there is none


def read_structure(path: str | Path) -> tuple[app.Topology, np.ndarray]:
    """Read a structure file and refuse what cannot be simulated.

    Bonds are those that the file gives and, in water, amino acids and nucleotides,
    those of the standard residue.  Molecules that the box cuts are made whole.  Of
    several models the first is taken.

    Args:
        path: PDB file (.pdb, .ent) or PDBx/mmCIF file (.cif, .mmcif).

    Returns:
        The topology, periodic if the file has a box, and positions [n_atoms, 3], A.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or atoms, elements, hydrogens, positions or box
            are not fit; names the first atom that is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no structure file {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: give a PDB or PDBx/mmCIF file ({', '.join(READERS)})"
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    _refuse_alternates(path, text)
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
        text = " ".join(str(warning).removeprefix("WARNING:").split())
        raise ValueError(
            f"{path} cannot be read: {text}; give the atoms of a residue names of "
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
    _refuse_unfit(path, topology, positions)
    _refuse_contacts(path, topology, positions, box)
    return topology, whole_molecules(topology, positions, box)


def whole_molecules(
    topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> np.ndarray:
    """Return positions [n_atoms, 3], A, with each atom beside those it is bonded to.

    Args:
        topology: Atoms and bonds.
        positions: Positions [n_atoms, 3], A, perhaps wrapped atom by atom.
        box: Box vectors as rows [3, 3], A; None changes nothing.
    """
    neighbours = defaultdict(list)
    for first, second, *_ in topology.bonds():
        neighbours[first.index].append(second.index)
        neighbours[second.index].append(first.index)
    whole = positions.copy()
    placed = np.zeros(len(positions), dtype=bool)
    for start in neighbours if box is not None else ():
        waiting = deque([start] if not placed[start] else [])
        placed[start] = True
        while waiting:
            atom = waiting.popleft()
            for other in neighbours[atom]:
                if not placed[other]:
                    step = minimum_image(positions[other] - positions[atom], box)
                    whole[other] = whole[atom] + step
                    placed[other] = True
                    waiting.append(other)
    return whole


def _refuse_alternates(path: Path, text: str) -> None:
    """Refuse a structure in which some atoms stand in two places."""
    first: dict[str, str] = {}  # the first row of each location
    for name, row in _alternates(path, text):
        first.setdefault(name, row)
    if len(first) > 1:
        row = " ".join(first[sorted(first)[1]].split())
        raise ValueError(
            f"{path} gives alternate locations ({', '.join(sorted(first))}) of some "
            f"atoms, such as {row!r}: keep one of each"
        )


def _alternates(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the alternate location and the row of each atom that has one."""
    columns = [
        line.strip() for line in text.splitlines() if line.startswith("_atom_site.")
    ]
    for line in text.splitlines():
        if line.startswith(("ATOM", "HETATM")):
            if not columns:
                name = line[16:17].strip()
            elif "_atom_site.label_alt_id" in columns:
                words = line.split()
                if len(words) < len(columns):
                    raise ValueError(
                        f"{path}: a row has {len(words)} of {len(columns)} columns: "
                        f"{line.strip()!r}"
                    )
                name = words[columns.index("_atom_site.label_alt_id")]
            else:
                return
            if name not in ("", ".", "?"):
                yield name, line


def _refuse_unfit(path: Path, topology: app.Topology, positions: np.ndarray) -> None:
    for atom in topology.atoms():
        name = f"atom {atom.index} ({atom.name} of {atom.residue.name})"
        if atom.element is None:
            raise ValueError(
                f"{path}: {name} has no element that OpenMM knows; write it into "
                "columns 77-78 of the PDB file, or into type_symbol of the mmCIF file"
            )
        if not np.isfinite(positions[atom.index]).all():
            raise ValueError(f"{path}: the position of {name} is not a finite number")
    bare = [
        residue
        for residue in topology.residues()
        if residue.name in WITH_HYDROGENS
        and not any(atom.element.atomic_number == 1 for atom in residue.atoms())
    ]
    if bare:
        raise ValueError(
            f"{path}: hydrogens are missing in {len(bare)} residues, the first is "
            f"{bare[0].name} {bare[0].id}; add them, for example with "
            "openmm.app.Modeller.addHydrogens"
        )


def _refuse_contacts(
    path: Path, topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> None:
    atoms = list(topology.atoms())
    symbols = [atom.element.symbol for atom in atoms]
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

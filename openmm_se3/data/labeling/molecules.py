"""Molecules from SMILES, SDF, PDB and XYZ files, with what identifies them.

Protonation, tautomer and stereochemistry stay as given; nothing is guessed.  A PDB or
XYZ file must hold all hydrogens: bonds follow from distances and the total charge
(Kim and Kim 2015, https://doi.org/10.1002/bkcs.10334, as RDKit does it).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_se3.data.labeling import given_structures
from openmm_se3.data.labeling.given_structures import (
    GivenStructure,
    read_given_structures,
)
from openmm_se3.elements import symbols_of

if TYPE_CHECKING:
    from rdkit import Chem

    # Its place in the file, the molecule or why there is none, its name.
    Entry = tuple[str, Chem.Mol | str | None, str]

SUFFIXES = (".smi", ".smiles", ".sdf", ".mol", *given_structures.SUFFIXES)
TRIPLETS = ("O=O", "S=S", "O=S")  # drawn as closed shells
# The first block of an InChIKey is a hash of the formula and the bonds without
# stereochemistry, isotopes and charge.
CONNECTIVITY = slice(0, 14)


@dataclasses.dataclass(frozen=True)
class Molecule:
    """A molecule whose structures are to be sampled.

    Attributes:
        mol: RDKit molecule with explicit hydrogens; it has a conformer where the file
            gives positions.
        inchikey: Standard InChIKey.
        name: What the file calls it; empty if it does not.
        origin: File and line or record, for messages.
    """

    mol: Chem.Mol
    inchikey: str
    name: str
    origin: str

    @property
    def connectivity(self) -> str:
        """First block of the InChIKey, which stereoisomers share."""
        return self.inchikey[CONNECTIVITY]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An entry of a file that is not sampled.

    Attributes:
        origin: File and line or record.
        reason: Why.
    """

    origin: str
    reason: str


def read_molecules(
    path: str | Path,
    *,
    max_atoms: int | None = None,
    elements: frozenset[str] | None = None,
    neutral: bool = False,
    excluded: frozenset[str] = frozenset(),
    charge: int = 0,
) -> tuple[list[Molecule], list[Rejected]]:
    """Read the molecules of a file; what cannot be sampled is returned with the reason.

    A molecule that occurs twice is kept once.

    Args:
        path: A file with one of the suffixes of ``SUFFIXES``.  A SMILES file has one
            molecule a line, its name behind the first blank.
        max_atoms: Most atoms of a molecule, hydrogens included.
        elements: Chemical symbols that may occur.
        neutral: Take molecules without a total charge only.
        excluded: SHA-256 of the first block of the InChIKey of molecules that must not
            be sampled, as hexadecimal digits.
        charge: Total charge of the structures of a PDB or XYZ file that do not say
            their own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its suffix is not one of ours, or no entry can be sampled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of molecules {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: molecules are read from files ending in {', '.join(SUFFIXES)}"
        )
    if suffix in given_structures.SUFFIXES:
        entries = _read_positions(path, charge)
    else:
        entries = _READERS[suffix](path)
    molecules: list[Molecule] = []
    rejected: list[Rejected] = []
    seen: set[tuple[str, str]] = set()
    for origin, mol, name in entries:
        result = _molecule(mol, name, origin, max_atoms, elements, neutral)
        if isinstance(result, Molecule):
            if key_hash(result.connectivity) in excluded:
                result = Rejected(origin, "on the list of excluded molecules")
            elif _identity(result) in seen:
                result = Rejected(origin, "occurs twice")
        if isinstance(result, Molecule):
            seen.add(_identity(result))
            molecules.append(result)
        else:
            rejected.append(result)
    if not molecules:
        first = f": {rejected[0].origin}: {rejected[0].reason}" if rejected else ""
        raise ValueError(f"{path} holds no molecule that can be sampled{first}")
    return molecules, rejected


def molecule_from_smiles(smiles: str, name: str = "") -> Molecule:
    """Return the molecule of a SMILES string.

    Raises:
        ValueError: It is not SMILES, or not a single closed-shell molecule.
    """
    from rdkit import Chem

    with _quiet():
        mol = Chem.MolFromSmiles(smiles)
    result = _molecule(mol, name, f"SMILES {smiles!r}", None, None, False)
    if isinstance(result, Rejected):
        raise ValueError(f"{result.origin}: {result.reason}")
    return result


def read_excluded(path: str | Path) -> frozenset[str]:
    """Read a list of excluded molecules: one SHA-256 a line.

    Raises:
        ValueError: A line is not 64 hexadecimal digits.
    """
    lines = Path(path).read_text(encoding="ascii").split()
    for number, line in enumerate(lines, start=1):
        if len(line) != 64 or set(line) - set("0123456789abcdef"):
            raise ValueError(
                f"{path}, line {number}: expected the SHA-256 of the first block of "
                f"an InChIKey (64 hexadecimal digits), got {line!r}"
            )
    return frozenset(lines)


def key_hash(connectivity: str) -> str:
    """Return the SHA-256 of the first block of an InChIKey, as hexadecimal digits."""
    return hashlib.sha256(connectivity.encode("ascii")).hexdigest()


def _identity(molecule: Molecule) -> tuple[str, str]:
    """Return what two entries of one molecule share.

    Tautomers and zwitterions share the InChIKey; SMILES tell them apart.
    """
    from rdkit import Chem

    return molecule.inchikey, Chem.MolToSmiles(Chem.RemoveHs(molecule.mol))


def _molecule(
    mol: Chem.Mol | str | None,
    name: str,
    origin: str,
    max_atoms: int | None,
    elements: frozenset[str] | None,
    neutral: bool,
) -> Molecule | Rejected:
    """Return a molecule with its hydrogens, or why it is not sampled.

    Args:
        mol: What a reader made of the entry; a reason where it made nothing.
        name: What the file calls it.
        origin: File and line or record.
        max_atoms: See :func:`read_molecules`, as the rest.
        elements: The same.
        neutral: The same.
    """
    from rdkit import Chem

    if isinstance(mol, str):
        return Rejected(origin, mol)
    if mol is None:
        return Rejected(
            origin, "RDKit cannot read it: a typo, or an impossible valence"
        )
    if not mol.GetNumAtoms():
        return Rejected(origin, "no atoms")
    if len(Chem.GetMolFrags(mol)) != 1:
        return Rejected(
            origin, "more than one molecule, and each has to be an entry of its own"
        )
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return Rejected(origin, "a radical")
    if Chem.MolToSmiles(Chem.RemoveHs(mol)) in TRIPLETS:
        return Rejected(origin, "its ground state is a triplet, not a closed shell")
    charge = Chem.GetFormalCharge(mol)
    if neutral and charge:
        return Rejected(origin, f"total charge {charge:+d}")
    unknown = {atom.GetSymbol() for atom in mol.GetAtoms()} - (elements or set())
    if elements is not None and unknown:
        return Rejected(origin, f"elements {', '.join(sorted(unknown))}")
    mol = Chem.AddHs(mol, addCoords=mol.GetNumConformers() > 0)
    if max_atoms is not None and mol.GetNumAtoms() > max_atoms:
        return Rejected(origin, f"{mol.GetNumAtoms()} atoms, more than {max_atoms}")
    with _quiet():
        inchikey = Chem.MolToInchiKey(mol)
    if not inchikey:
        return Rejected(origin, "InChI has no key for it")
    return Molecule(mol, inchikey, name, origin)


def _read_smiles(path: Path) -> Iterator[Entry]:
    from rdkit import Chem

    with _quiet(), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split(maxsplit=1)
            if not words or words[0].startswith("#"):
                continue
            name = words[1].strip() if len(words) > 1 else ""
            yield f"{path.name}, line {number}", Chem.MolFromSmiles(words[0]), name


def _read_sdf(path: Path) -> Iterator[Entry]:
    from rdkit import Chem

    with _quiet():
        for number, mol in enumerate(
            Chem.SDMolSupplier(str(path), removeHs=False), start=1
        ):
            if mol is not None and not mol.GetConformer().Is3D():
                mol.RemoveAllConformers()  # a drawing
            name = "" if mol is None else mol.GetProp("_Name")
            yield f"{path.name}, record {number}", mol, name


def _read_positions(path: Path, charge: int) -> Iterator[Entry]:
    for structure in read_given_structures(path, charge):
        fault = structure.open_shell()
        yield structure.origin, fault or _bonded(structure), path.stem


def _bonded(structure: GivenStructure) -> Chem.Mol | str:
    """Return atoms with the bonds that their distances tell, or why there are none."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    symbols = symbols_of(structure.numbers)
    lines = [str(len(symbols)), ""]
    for symbol, place in zip(symbols, structure.positions, strict=True):
        lines.append(f"{symbol} " + " ".join(f"{x:.6f}" for x in place))
    with _quiet():
        mol: Chem.Mol = Chem.MolFromXYZBlock("\n".join(lines) + "\n")
        try:
            rdDetermineBonds.DetermineBonds(mol, charge=structure.charge)
        except (ValueError, RuntimeError):
            return (
                f"no Lewis structure with charge {structure.charge:+d} goes with its "
                "distances: is a hydrogen missing, is the charge another, or are the "
                "positions not in A?"
            )
    return mol


_READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".smi": _read_smiles,
    ".smiles": _read_smiles,
    ".sdf": _read_sdf,
    ".mol": _read_sdf,
}


def _quiet() -> Any:
    """Keep RDKit's own messages off the screen; ours name the entry."""
    from rdkit.rdBase import BlockLogs

    return BlockLogs()

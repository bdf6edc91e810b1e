"""The minima of a reaction, from a file: structures of the same atoms in one order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.active_learning.reaction.ranges import changing_bonds
from openmm_se3.active_learning.reaction.variables import Variable, read_variables
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import (
    System,
    default_names,
    heaviest_first,
    make_systems,
    read_input,
    require_paired_electrons,
)
from openmm_se3.data.dataset import formula
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.molecules import bonds_by_distance

if TYPE_CHECKING:
    from ase import Atoms

WITH_POSITIONS = (".xyz", ".pdb", ".sdf", ".mol")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a campaign is about.

    Attributes:
        molecules: The molecules that structures are sampled of; none for a reaction
            between structures of a file.
        systems: What is simulated and learned.
        variables: Collective variables of a reaction.
    """

    molecules: Sequence[Molecule]
    systems: Sequence[System]
    variables: Sequence[Variable] = ()


def read_inputs(settings: Settings, folder: Path | None = None) -> Inputs:
    """Return molecules, systems and collective variables of a campaign.

    Args:
        settings: Settings of the campaign.
        folder: Where the files are that the settings name; None for the working
            directory.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Structures or variables cannot be used; says which and why.
    """
    text = settings.molecule
    suffix = Path(text).suffix.lower()
    if folder is not None and (folder / text).is_file():
        text = str(folder / text)
    if not settings.bias:
        molecules = read_input(text, settings.charge)
        systems = make_systems(molecules, settings.with_water, settings.seed)
        return Inputs(molecules, systems)
    if suffix in WITH_POSITIONS:
        molecules = []
        system = _given(Path(text), settings.charge)
    else:
        molecules = read_input(text, settings.charge)
        if len(molecules) != 1:
            raise ValueError(
                f"{text} holds {len(molecules)} molecules; a reaction is learned for "
                "one: give reactant and product as two structures of an XYZ file"
            )
        (system,) = make_systems(molecules, False, settings.seed)
    variables = read_variables(settings.bias, system, folder)
    changing = set(changing_bonds(variables)) | set(system.changing)
    system = dataclasses.replace(
        system, reaction=True, changing=tuple(sorted(changing))
    )
    return Inputs(molecules, [system], variables)


def _given(path: Path, charge: int) -> System:
    """Return the system of a file's structures."""
    if not path.is_file():
        raise FileNotFoundError(f"no file of molecules {path}")
    frames = _read(path)
    if path.suffix.lower() in (".pdb", ".xyz"):
        require_paired_electrons(path, charge)
    first = frames[0]
    for number, atoms in enumerate(frames[1:], start=2):
        _require_same_atoms(path, first, atoms, number)
    order = heaviest_first(first.numbers)
    numbers = first.numbers[order]
    places = tuple(int(index) + 1 for index in order)
    names = first.arrays.get("atomtypes")
    minima = [atoms.positions[order] for atoms in frames]
    minima = [x - x.mean(axis=0) for x in minima]
    symbols = [first.symbols[index] for index in order]
    bonds = [bonds_by_distance(symbols, x, None) for x in minima]
    sets = [{(int(i), int(j)) for i, j in np.sort(pairs, axis=1)} for pairs in bonds]
    name = formula(numbers)
    return System(
        name=name,
        numbers=numbers,
        bonds=bonds[0],
        charge=round(float(first.info.get("charge", charge))),
        minima=tuple(minima),
        mol=None,
        trajectory=name,
        names=default_names(numbers, places)
        if names is None
        else tuple(str(names[index]) for index in order),
        places=places,
        reaction=True,
        changing=tuple(sorted(sets[0].union(*sets) - sets[0].intersection(*sets))),
    )


def _read(path: Path) -> list[Atoms]:
    from ase import Atoms
    from ase.io import read
    from rdkit import Chem

    if path.suffix.lower() in (".xyz", ".pdb"):
        try:
            return list(read(path, index=":"))
        except Exception as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    found = []
    supplier = Chem.SDMolSupplier(str(path), removeHs=False)
    for number, mol in enumerate(supplier, start=1):
        if mol is None or not mol.GetConformer().Is3D():
            raise ValueError(
                f"{path.name}, record {number} has no positions; a reaction needs "
                "structures with all hydrogens"
            )
        atoms = Atoms(
            [atom.GetSymbol() for atom in mol.GetAtoms()],
            mol.GetConformer().GetPositions(),
        )
        atoms.info["charge"] = Chem.GetFormalCharge(mol)
        found.append(atoms)
    if not found:
        raise ValueError(f"{path} holds no structure")
    return found


def _require_same_atoms(path: Path, first: Atoms, atoms: Atoms, number: int) -> None:
    """Refuse structures of other atoms, or of the same in another order."""
    if np.array_equal(first.numbers, atoms.numbers):
        return
    if formula(first.numbers) != formula(atoms.numbers):
        raise ValueError(
            f"{path.name}: structure {number} is {formula(atoms.numbers)}, the first "
            f"is {formula(first.numbers)}; the minima of a reaction have the same atoms"
        )
    where = int(np.flatnonzero(first.numbers != atoms.numbers)[0])
    raise ValueError(
        f"{path.name}: atom {where + 1} of structure {number} is "
        f"{atoms.symbols[where]}, of the first {first.symbols[where]}; the minima of a "
        "reaction must have their atoms in the same order"
    )

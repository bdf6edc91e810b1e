"""The minima of a reaction, from a file: structures of the same atoms in one order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

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
)
from openmm_se3.data.dataset import formula
from openmm_se3.data.labeling import given_structures
from openmm_se3.data.labeling.given_structures import (
    GivenStructure,
    read_given_structures,
)
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.elements import symbols_of
from openmm_se3.molecules import bonds_by_distance

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
    if path.suffix.lower() in given_structures.SUFFIXES:
        structures = list(read_given_structures(path, charge))
    else:
        structures = _read_sdf(path)
    first = structures[0]
    if charge not in (0, first.charge):
        raise ValueError(
            f"{first.origin} says a charge of {first.charge:+d}, not {charge:+d}: "
            "leave --charge out"
        )
    for structure in structures:
        fault = structure.open_shell()
        if fault:
            raise ValueError(f"{structure.origin}: {fault}")
        _require_same_atoms(first, structure)
    order = heaviest_first(first.numbers)
    numbers = first.numbers[order]
    places = tuple(int(index) + 1 for index in order)
    minima = [structure.positions[order] for structure in structures]
    minima = [x - x.mean(axis=0) for x in minima]
    bonds = [bonds_by_distance(symbols_of(numbers), x, None) for x in minima]
    sets = [{(int(i), int(j)) for i, j in np.sort(pairs, axis=1)} for pairs in bonds]
    name = formula(numbers)
    return System(
        name=name,
        numbers=numbers,
        bonds=bonds[0],
        charge=first.charge,
        minima=tuple(minima),
        mol=None,
        trajectory=name,
        names=tuple(first.names[index] for index in order)
        if first.names
        else default_names(numbers, places),
        places=places,
        reaction=True,
        changing=tuple(sorted(sets[0].union(*sets) - sets[0].intersection(*sets))),
    )


def _read_sdf(path: Path) -> list[GivenStructure]:
    from rdkit import Chem

    found = []
    supplier = Chem.SDMolSupplier(str(path), removeHs=False)
    for number, mol in enumerate(supplier, start=1):
        origin = f"{path.name}, record {number}"
        if mol is None or not mol.GetConformer().Is3D():
            raise ValueError(
                f"{origin} has no positions; a reaction needs structures with all "
                "hydrogens"
            )
        found.append(
            GivenStructure(
                origin=origin,
                numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
                positions=mol.GetConformer().GetPositions(),
                charge=Chem.GetFormalCharge(mol),
            )
        )
    if not found:
        raise ValueError(f"{path} holds no structure")
    return found


def _require_same_atoms(first: GivenStructure, other: GivenStructure) -> None:
    """Refuse another charge, other atoms, or the same in another order."""
    if first.charge != other.charge:
        raise ValueError(
            f"{other.origin} has charge {other.charge:+d}, the first "
            f"{first.charge:+d}; the minima of a reaction have the same charge"
        )
    if np.array_equal(first.numbers, other.numbers):
        return
    if formula(first.numbers) != formula(other.numbers):
        raise ValueError(
            f"{other.origin} is {formula(other.numbers)}, the first is "
            f"{formula(first.numbers)}; the minima of a reaction have the same atoms"
        )
    where = int(np.flatnonzero(first.numbers != other.numbers)[0])
    raise ValueError(
        f"atom {where + 1} of {other.origin} is {symbols_of(other.numbers)[where]}, of "
        f"the first {symbols_of(first.numbers)[where]}; the minima of a reaction must "
        "have their atoms in the same order"
    )

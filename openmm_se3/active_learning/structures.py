"""The molecules of a campaign: atoms, bonds, starts of walkers, first structures.

Atoms are in order of atomic number, heaviest first, as in the files of labels.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.active_learning.interpolation import interpolated
from openmm_se3.data.frames import Structure
from openmm_se3.data.labeling import given_structures
from openmm_se3.data.labeling.complexes import Body, approach
from openmm_se3.data.labeling.conformers import MMFF, NoConformerError, conformers
from openmm_se3.data.labeling.distortions import rotatable_bonds, turned
from openmm_se3.data.labeling.executors import SerialExecutor
from openmm_se3.data.labeling.molecule_sampler import Plan, sample_molecules
from openmm_se3.data.labeling.molecules import (
    SUFFIXES,
    Molecule,
    molecule_from_smiles,
    read_molecules,
)
from openmm_se3.elements import COVALENT_RADII, symbols_of
from openmm_se3.molecules import bonds_by_distance

if TYPE_CHECKING:
    from rdkit import Chem

# A bond longer than this, in sums of covalent radii, is broken: a stretch at 1000 K
# reaches 1.3.
BROKEN = 1.7
# An atom of a bond that a reaction breaks is lost where no other is as near as this; a
# leaving group may be free.
LOST = 3.0
MOST_CONFORMERS = 8
WATER = "O"
BETWEEN = 7  # structures between two minima of a reaction
DISPLACEMENT = 0.04  # A, standard deviation of each coordinate
BENDING, BENDING_LENGTH = 0.2, 2.5  # A, of displacements that neighbors share
# Shares of the kinds of structures that a campaign begins with.
MODES, TORSIONS, STRETCHES = 0.25, 0.15, 0.1


@dataclasses.dataclass(frozen=True)
class System:
    """A molecule, or a complex, that is simulated and learned.

    Attributes:
        name: SMILES.
        numbers: Atomic numbers [n_atoms].
        bonds: Pairs of bonded atoms [n_bonds, 2].
        charge: Total charge.
        minima: Structures near minima of a classical force field, A.
        mol: RDKit molecule with its atoms in this order; None for a complex.
        trajectory: First block of the InChIKey; numbered where several have the same.
        names: What the input calls the atoms, such as "H9" [n_atoms].
        places: Number of each atom in the input, from 1 [n_atoms].
        reaction: Whether the minima are those of a reaction.
        changing: Pairs of atoms whose bond a reaction may break.
    """

    name: str
    numbers: np.ndarray
    bonds: np.ndarray
    charge: int
    minima: tuple[np.ndarray, ...]
    mol: Chem.Mol | None
    trajectory: str
    names: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    reaction: bool = False
    changing: tuple[tuple[int, int], ...] = ()

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols [n_atoms]."""
        return symbols_of(self.numbers)

    def intact(self, positions: np.ndarray) -> np.ndarray:
        """Tell in which frames no bond is broken [n_frames].

        A bond that the reaction may break is none of them, but its atoms must not fly
        away.

        Args:
            positions: Positions [n_frames, n_atoms, 3], A.
        """
        radii = np.array([COVALENT_RADII[symbol] for symbol in self.symbols])
        kept = np.array([tuple(sorted(b)) not in self.changing for b in self.bonds])
        i, j = self.bonds[kept.astype(bool)].T
        lengths = np.linalg.norm(positions[:, i] - positions[:, j], axis=2)
        # Written so that NaN is no bond.
        whole = (lengths < BROKEN * (radii[i] + radii[j])).all(axis=1)
        for atom in {atom for pair in self.changing for atom in pair}:
            others = np.delete(np.arange(len(radii)), atom)
            near = np.linalg.norm(positions[:, others] - positions[:, [atom]], axis=2)
            whole &= (near < LOST * (radii[others] + radii[atom])).any(axis=1)
        return np.asarray(whole)

    def bonds_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the bonds of a structure [n_bonds, 2]; a reaction changes them.

        Args:
            positions: Positions [n_atoms, 3], A.
        """
        if not self.reaction:
            return self.bonds
        return bonds_by_distance(self.symbols, positions, None)

    def dihedrals(self) -> list[tuple[int, int, int, int]]:
        """Return the four atoms of one dihedral angle about each rotatable bond."""
        return [] if self.mol is None else rotatable_bonds(self.mol)


def read_input(text: str, charge: int = 0) -> list[Molecule]:
    """Return the molecules of a SMILES string or of a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither SMILES nor a file of molecules, or one of its entries
            cannot be used; names it.
    """
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        if path.is_file():
            raise ValueError(
                f"{text}: molecules are read from files ending in {', '.join(SUFFIXES)}"
            )
        molecules = [molecule_from_smiles(text)]
        _refuse_isotopes(molecules)
        _refuse_charge(molecules, charge)
        return molecules
    molecules, rejected = read_molecules(path, charge=charge)
    _refuse_isotopes(molecules)
    if path.suffix.lower() not in given_structures.SUFFIXES:
        _refuse_charge(molecules, charge)
    if rejected:
        listed = "; ".join(f"{one.origin}: {one.reason}" for one in rejected[:5])
        raise ValueError(f"{path} has entries that cannot be used: {listed}")
    return molecules


def _refuse_isotopes(molecules: Sequence[Molecule]) -> None:
    """Refuse isotopes, whose masses neither the model nor its files would keep.

    Raises:
        ValueError: A molecule has one.
    """
    for molecule in molecules:
        for atom in molecule.mol.GetAtoms():
            if atom.GetIsotope():
                raise ValueError(
                    f"{molecule.origin}: the isotope {atom.GetIsotope()}"
                    f"{atom.GetSymbol()}: energies do not depend on masses; learn the "
                    "molecule without it, and give the isotope to 'openmm-se3 run', or "
                    "its mass to System.setParticleMass"
                )


def _refuse_charge(molecules: Sequence[Molecule], charge: int) -> None:
    """Refuse a charge beside SMILES or SDF, which say their own.

    Raises:
        ValueError: They say another.
    """
    from rdkit import Chem

    for molecule in molecules:
        own = Chem.GetFormalCharge(molecule.mol)
        if charge not in (0, own):
            raise ValueError(
                f"{molecule.origin}: its charge is {own:+d}, not {charge:+d}; the "
                "charge of SMILES and SDF is that of their atoms, such as C[NH3+]; "
                "leave --charge out"
            )


def make_systems(
    molecules: Sequence[Molecule], with_water: bool, seed: int
) -> list[System]:
    """Return what is to be learned: the molecules, and their complexes with water.

    Raises:
        NoConformerError: RDKit finds no structure of a molecule.
        ValueError: A molecule is a single atom.
    """
    systems: list[System] = []
    names: Counter[str] = Counter()
    for molecule in molecules:
        if molecule.mol.GetNumAtoms() == 1:
            raise ValueError(
                f"{molecule.origin}: a single atom has no forces to learn from"
            )
        try:
            system = _system(molecule, seed)
        except NoConformerError as error:
            raise NoConformerError(f"{molecule.origin}: {error}") from error
        # Stereoisomers, acid and base share the block of the InChIKey.
        names[system.trajectory] += 1
        if names[system.trajectory] > 1:
            name = f"{system.trajectory}-{names[system.trajectory]}"
            system = dataclasses.replace(system, trajectory=name)
        systems.append(system)
        if with_water:
            systems.append(_with_water(system, seed))
    return systems


def _system(molecule: Molecule, seed: int) -> System:
    from rdkit import Chem

    order = heaviest_first([a.GetAtomicNum() for a in molecule.mol.GetAtoms()])
    mol, minima = conformers(_ordered(molecule.mol), MOST_CONFORMERS, seed)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    places = tuple(int(index) + 1 for index in order)
    return System(
        name=smiles,
        numbers=numbers,
        bonds=_bonds(mol),
        charge=Chem.GetFormalCharge(mol),
        minima=tuple(minima),
        mol=mol,
        trajectory=molecule.connectivity,
        names=default_names(numbers, places),
        places=places,
    )


def heaviest_first(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the order of the atoms in a campaign [n_atoms]."""
    return np.argsort(-np.asarray(numbers), kind="stable")


def default_names(numbers: np.ndarray, places: Sequence[int]) -> tuple[str, ...]:
    """Return element and number in the input of each atom."""
    symbols = symbols_of(numbers)
    return tuple(f"{s}{place}" for s, place in zip(symbols, places, strict=True))


def _ordered(mol: Chem.Mol) -> Chem.Mol:
    """Return a molecule with its atoms in order of atomic number, heaviest first."""
    from rdkit import Chem

    order = heaviest_first([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return Chem.RenumberAtoms(mol, order.tolist())


def _bonds(mol: Chem.Mol) -> np.ndarray:
    pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _with_water(system: System, seed: int) -> System:
    """Return a molecule with one water molecule at some places about it."""
    assert system.mol is not None
    water = _system(molecule_from_smiles(WATER), seed)
    assert water.mol is not None
    rng = np.random.default_rng([seed, 1])
    numbers = np.concatenate([system.numbers, water.numbers])
    order = heaviest_first(numbers)
    place = np.argsort(order)
    bonds = np.concatenate([system.bonds, water.bonds + len(system.numbers)])
    fixed = [
        Body(system.mol, system.minima[int(rng.integers(len(system.minima)))])
        for _ in range(MOST_CONFORMERS)
    ]
    moved = Body(water.mol, water.minima[0])
    starts = [approach([body, moved], 1, rng)[0][order] for body in fixed]
    return System(
        name=f"{system.name}.{WATER}",
        numbers=numbers[order],
        bonds=place[bonds],
        charge=system.charge,
        minima=tuple(starts),
        mol=None,
        trajectory=f"{system.trajectory}+water",
    )


def starts(system: System, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return starts of walkers: minima, and every second one with a turned bond."""
    rotors = system.dihedrals()
    field = None if system.mol is None or not rotors else MMFF(system.mol)
    found = []
    for index in range(count):
        positions = system.minima[index % len(system.minima)]
        if field is not None and system.mol is not None and index % 2:
            rotor = rotors[int(rng.integers(len(rotors)))]
            angle = float(rng.uniform(-180.0, 180.0))
            positions = turned(system.mol, positions, field, rotor, angle)
        found.append(positions)
    return found


def initial_structures(
    molecules: Sequence[Molecule],
    systems: Sequence[System],
    count: int,
    temperatures: tuple[float, ...],
    seed: int,
) -> list[Structure]:
    """Return structures to label first: distorted by classical force fields.

    Args:
        molecules: The molecules.
        systems: Molecules and complexes; complexes have the structures that are their
            minima and more like them.
        count: Structures, about equally many of each system.
        temperatures: K.
        seed: Seed of everything random here.
    """
    each = -(-count // len(systems))
    ordered = [dataclasses.replace(m, mol=_ordered(m.mol)) for m in molecules]
    plan = Plan(
        conformers=MOST_CONFORMERS,
        modes=round(MODES * each),
        dynamics=each,  # they fill what other kinds leave
        torsions=round(TORSIONS * each),
        stretches=round(STRETCHES * each),
        scans=0,  # DFT of closed shells is at a loss there
        complexes=0,
        temperatures=temperatures,
    )
    found: dict[str, list[Structure]] = {}
    alone = [system for system in systems if system.mol is not None]
    for molecule, system in zip(ordered, alone, strict=True):
        sampled = dict(sample_molecules([molecule], seed, SerialExecutor(), plan))
        found[system.trajectory] = [
            Structure(
                numbers=atoms.numbers,
                positions=atoms.positions,
                kind=atoms.info["kind"],
                temperature=atoms.info.get("temperature", float("nan")),
            )
            for atoms in sampled[0].structures
        ]
    rng = np.random.default_rng([seed, 2])
    chosen = []
    for system in systems:
        pool = found.get(system.trajectory, [])
        if system.mol is None:
            among = _on_the_way(system) if system.reaction else system.minima
            pool = _displaced(system, among, each, rng)
        pool.sort(key=lambda structure: structure.kind == "md")
        chosen += [
            dataclasses.replace(
                structure,
                trajectory=f"{system.trajectory}-initial-{index}",
                charge=system.charge,
                spin=0,
            )
            for index, structure in enumerate(pool[:each])
        ]
    return chosen


def _on_the_way(system: System) -> list[np.ndarray]:
    """Return the minima of a reaction, and in turn structures between them."""
    found = []
    for first, last in itertools.pairwise(system.minima):
        between = interpolated(system.numbers, first, last, BETWEEN)[1:-1]
        ends = [first, last] * BETWEEN
        found += [x for pair in zip(ends, between, strict=False) for x in pair]
    return found or list(system.minima)


def _displaced(
    system: System, among: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> list[Structure]:
    """Return structures with small random displacements."""
    kind = "reaction" if system.reaction else "complex"
    found = []
    for index in range(count):
        start = among[index % len(among)]
        moved = start + DISPLACEMENT * rng.normal(size=start.shape)
        if system.reaction:
            moved = moved + _bending(start, rng)
        found.append(Structure(system.numbers, moved, kind=kind))
    return found


def _bending(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return random displacements that are alike for atoms near each other.

    They bend and twist a molecule, which takes little energy, and stretch few bonds.
    """
    squares = np.square(positions[:, None] - positions[None]).sum(axis=2)
    alike = np.exp(-0.5 * squares / BENDING_LENGTH**2)
    root = np.linalg.cholesky(alike + 1e-6 * np.eye(len(positions)))
    return np.asarray(BENDING * root @ rng.normal(size=positions.shape))

"""Structures of molecules, alone and in contact, to be labeled.

For each molecule: conformers, thermal distortions, turned and stretched bonds, and
complexes with water and with other molecules of the same file.  Every structure is an
:class:`ase.Atoms` whose atoms are in order of atomic number, heaviest first, so that
isomers share a group of the HDF5 file, with, in ``info``:

    kind         "minimum", "modes", "md", "torsion", "stretch", "scan" or "complex"
    trajectory   first block of the molecule's InChIKey; splits never cut one
    inchikey     InChIKey of the molecule, or of each one of a complex
    temperature  K (absent where there is none)
    charge       total charge, elementary charges (absent if 0)
    split        "train", "validation" or "test": a hash of ``trajectory`` decides, so
                 that a molecule is in the same split whichever file it comes from
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from openmm_se3.data.labeling.complexes import Body, approach
from openmm_se3.data.labeling.conformers import MMFF, NoConformerError, conformers
from openmm_se3.data.labeling.distortions import (
    dynamics,
    normal_modes,
    rotatable_bonds,
    scanned,
    stretched,
    thermal_displacements,
    turned,
)
from openmm_se3.data.labeling.executors import Executor
from openmm_se3.data.labeling.molecules import Molecule, molecule_from_smiles
from openmm_se3.elements import COVALENT_RADII

if TYPE_CHECKING:
    from rdkit import Chem

MOLECULES_PER_GROUP = 20
MOST_PARTNERS = 200  # of each split, that travel with each group
VALIDATION_SHARE, TEST_SHARE = 0.02, 0.02
SCANS = 1  # seeds the scans, beside the seed of the molecule
SCAN_TEMPERATURE = 300.0  # K, of the distortions of turned and stretched molecules
CLOSEST_ATOMS = 0.55  # A; nothing closer is labeled
# In sums of covalent radii: a cheap potential may tear an unusual molecule apart.
LONGEST_BOND = 1.6
WATER = "O"


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many structures of each kind to make of a molecule.

    Attributes:
        conformers: Most conformers; each is a structure of the kind "minimum".
        modes: Normal modes displaced by thermal and zero-point motion.
        dynamics: Frames of Langevin dynamics.
        torsions: Turned rotatable bonds, every second one with thermal displacements.
        stretches: Stretched or compressed bonds, within their zero-point motion.
        scans: Bonds far from their lengths.
        complexes: Contacts with water or other molecules.
        temperatures: Of modes and dynamics, K; each structure draws one.
        partners: Most molecules that are put beside one.
        most_atoms: Most atoms of a complex.
    """

    conformers: int = 2
    modes: int = 2
    dynamics: int = 8
    torsions: int = 4
    stretches: int = 2
    scans: int = 1
    complexes: int = 4
    temperatures: tuple[float, ...] = (200.0, 300.0, 450.0, 600.0, 800.0, 1000.0)
    partners: int = 3
    most_atoms: int = 60


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What sampling some molecules gave.

    Attributes:
        structures: The structures, by molecule in the order of the input.
        failures: Origin and reason of each molecule without a structure.
    """

    structures: list[Atoms]
    failures: list[tuple[str, str]]


def split_of(connectivity: str) -> str:
    """Return the split of a molecule, which depends on nothing but the molecule."""
    digest = hashlib.sha256(f"split {connectivity}".encode("ascii")).digest()
    share = int.from_bytes(digest[:8], "big") / 2.0**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def sample_molecules(
    molecules: Sequence[Molecule],
    seed: int,
    executor: Executor,
    plan: Plan | None = None,
    skip: Callable[[int], bool] = lambda index: False,
) -> Iterator[tuple[int, Sampled]]:
    """Yield (index of the group, its structures) as groups of molecules finish.

    A group is ``MOLECULES_PER_GROUP`` molecules of the input.  The structures of a
    molecule depend on the seed, the plan and the molecule; its complexes also on the
    other molecules.

    Args:
        molecules: The molecules.
        seed: Seed of everything random here.
        executor: Runs the groups.
        plan: How many of what.
        skip: Tells which groups are not wanted.
    """
    plan = plan or Plan()
    partners = _partners(molecules)
    wanted = [index for index in range(group_count(molecules)) if not skip(index)]
    tasks = [(group_of(molecules, index), partners, plan, seed) for index in wanted]
    for place, sampled in executor.run(_sample_group, tasks):
        yield wanted[place], sampled


def group_count(molecules: Sequence[Molecule]) -> int:
    """Return the number of groups that molecules are sampled in."""
    return -(-len(molecules) // MOLECULES_PER_GROUP)


def group_of(molecules: Sequence[Molecule], index: int) -> list[Molecule]:
    """Return the molecules of one group."""
    start = index * MOLECULES_PER_GROUP
    return list(molecules[start : start + MOLECULES_PER_GROUP])


def _partners(molecules: Sequence[Molecule]) -> dict[str, list[Molecule]]:
    """Return small molecules of each split that others are put beside."""
    partners: dict[str, list[Molecule]] = {}
    for molecule in sorted(molecules, key=lambda m: key_order(m.inchikey)):
        chosen = partners.setdefault(split_of(molecule.connectivity), [])
        if len(chosen) < MOST_PARTNERS and molecule.mol.GetNumAtoms() <= 25:
            chosen.append(molecule)
    return partners


def key_order(inchikey: str) -> bytes:
    """Return what puts molecules into an order that has nothing to do with them."""
    return hashlib.sha256(inchikey.encode("ascii")).digest()


def _sample_group(
    task: tuple[list[Molecule], dict[str, list[Molecule]], Plan, int],
) -> Sampled:
    molecules, partners, plan, seed = task
    structures: list[Atoms] = []
    failures: list[tuple[str, str]] = []
    for molecule in molecules:
        key = int.from_bytes(key_order(molecule.inchikey)[:8], "big")
        others = partners.get(split_of(molecule.connectivity), [])
        try:
            structures += _sample_one(molecule, others, plan, (seed, key))
        except NoConformerError as error:
            failures.append((molecule.origin, str(error)))
    return Sampled(structures, failures)


def _sample_one(
    molecule: Molecule,
    partners: Sequence[Molecule],
    plan: Plan,
    seed: tuple[int, int],
) -> list[Atoms]:
    """Return all structures of one molecule."""
    rng = np.random.default_rng(seed)
    mol, minima = conformers(molecule.mol, plan.conformers, int(rng.integers(1 << 31)))
    field = MMFF(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    made: list[tuple[str, np.ndarray, float | None]] = [
        ("minimum", positions, None) for positions in minima
    ]

    def any_minimum() -> np.ndarray:
        return minima[rng.integers(len(minima))]

    @functools.cache
    def modes(index: int) -> tuple[np.ndarray, np.ndarray]:
        return normal_modes(minima[index], masses, field)

    def displaced_minimum(temperature: float, quantum: bool = False) -> np.ndarray:
        index = int(rng.integers(len(minima)))
        return minima[index] + thermal_displacements(
            modes(index), masses, temperature, rng, quantum
        )

    if len(numbers) > 1:
        for _ in range(plan.modes):
            temperature = float(rng.choice(plan.temperatures))
            positions = displaced_minimum(temperature, quantum=True)
            made.append(("modes", positions, temperature))
        runs = max(1, plan.dynamics // 3)
        for run in range(min(runs, plan.dynamics)):
            temperature = float(rng.choice(plan.temperatures))
            count = len(range(run, plan.dynamics, runs))
            made += [
                ("md", frame, temperature)
                for frame in dynamics(
                    numbers, any_minimum(), field, temperature, count, rng
                )
            ]
        rotors = rotatable_bonds(mol)
        for index in range(plan.torsions if rotors else 0):
            dihedral = rotors[rng.integers(len(rotors))]
            positions = turned(
                mol, any_minimum(), field, dihedral, rng.uniform(-180.0, 180.0)
            )
            thermal = SCAN_TEMPERATURE if index % 2 else None
            if thermal:
                positions = positions + thermal_displacements(
                    normal_modes(positions, masses, field), masses, thermal, rng
                )
            made.append(("torsion", positions, thermal))
        for _ in range(plan.stretches):
            positions = displaced_minimum(SCAN_TEMPERATURE)
            positions = stretched(mol, positions, field, _any_bond(mol, rng), rng)
            made.append(("stretch", positions, SCAN_TEMPERATURE))
    made = [one for one in made if _bonded(mol, one[1])]
    if not made:
        raise NoConformerError("the force field tears it apart")
    # With numbers of their own: all else is the same with and without scans.
    own = np.random.default_rng([*seed, SCANS])
    thermal_minima = [p for kind, p, _ in made if kind in ("modes", "minimum")]
    for _ in range(plan.scans if len(numbers) > 1 and thermal_minima else 0):
        positions = thermal_minima[own.integers(len(thermal_minima))]
        positions = scanned(mol, positions, _any_bond(mol, own), own)
        made.append(("scan", positions, None))
    structures = [
        _structure([molecule], numbers, positions, kind, temperature)
        for kind, positions, temperature in made
    ]
    thermal_frames = [p for kind, p, _ in made if kind in ("modes", "md", "minimum")]
    structures += _complexes(molecule, thermal_frames, partners, plan, rng)
    return [atoms for atoms in structures if _apart(atoms)]


def _any_bond(mol: Chem.Mol, rng: np.random.Generator) -> tuple[int, int]:
    """Return the atoms of a random bond; the side of the second one is to move."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    i, j = bonds[rng.integers(len(bonds))]
    return (i, j) if rng.choice((-1, 1)) == 1 else (j, i)


def _complexes(
    molecule: Molecule,
    frames: Sequence[np.ndarray],
    partners: Sequence[Molecule],
    plan: Plan,
    rng: np.random.Generator,
) -> list[Atoms]:
    """Return a molecule in contact with water or with others."""
    water = molecule_from_smiles(WATER)
    structures: list[Atoms] = []
    while len(structures) < plan.complexes:
        first = Body(molecule.mol, frames[int(rng.integers(len(frames)))])
        members = [molecule]
        count = 1 + int(rng.integers(plan.partners)) if rng.uniform() < 0.3 else 1
        for _ in range(count):
            others = [water]
            if partners and rng.uniform() < 0.6:
                others = [partners[int(rng.integers(len(partners)))]]
            size = sum(m.mol.GetNumAtoms() for m in (*members, *others))
            if size <= plan.most_atoms:
                members += others
        if len(members) == 1:
            return structures
        try:
            bodies = [first, *(_thermal_body(m, rng) for m in members[1:])]
        except NoConformerError:
            continue
        numbers = np.concatenate([body.numbers for body in bodies])
        count = min(2, plan.complexes - len(structures))
        structures += [
            _structure(members, numbers, positions, "complex", None)
            for positions in approach(bodies, count, rng)
        ]
    return structures


def _thermal_body(molecule: Molecule, rng: np.random.Generator) -> Body:
    """Return a partner with thermal displacements."""
    mol, minima = conformers(molecule.mol, 1, int(rng.integers(1 << 31)))
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    positions = minima[0]
    if len(masses) > 1:
        modes = normal_modes(positions, masses, MMFF(mol))
        positions = positions + thermal_displacements(
            modes, masses, SCAN_TEMPERATURE, rng
        )
    return Body(mol, positions)


def _structure(
    members: Sequence[Molecule],
    numbers: np.ndarray,
    positions: np.ndarray,
    kind: str,
    temperature: float | None,
) -> Atoms:
    from rdkit import Chem

    info: dict[str, Any] = {
        "kind": kind,
        "trajectory": members[0].connectivity,
        "inchikey": "+".join(member.inchikey for member in members),
        "split": split_of(members[0].connectivity),
    }
    if temperature is not None:
        info["temperature"] = temperature
    charge = sum(Chem.GetFormalCharge(member.mol) for member in members)
    if charge:
        info["charge"] = charge
    order = np.argsort(-numbers, kind="stable")
    centered = positions - positions.mean(axis=0)
    return Atoms(numbers[order], centered[order], info=info)


def _bonded(mol: Chem.Mol, positions: np.ndarray) -> bool:
    """Tell whether all bonds of a molecule are shorter than ``LONGEST_BOND``."""
    bonds = np.array(
        [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], dtype=int
    ).reshape(-1, 2)
    radii = np.array([COVALENT_RADII[atom.GetSymbol()] for atom in mol.GetAtoms()])
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    # Written so that NaN is no bond.
    return bool((lengths < LONGEST_BOND * radii[bonds].sum(axis=1)).all())


def _apart(atoms: Atoms) -> bool:
    """Tell whether no two atoms are closer than ``CLOSEST_ATOMS``."""
    from scipy.spatial.distance import pdist

    return len(atoms) < 2 or bool(pdist(atoms.positions).min() > CLOSEST_ATOMS)

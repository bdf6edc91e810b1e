"""Structures to test a model on, made from the elements that it knows."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_se3.elements import COVALENT_RADII, numbers_of, symbols_of
from openmm_se3.geometry import random_rotation
from openmm_se3.model_file import PRECISIONS, ModelFile
from openmm_se3.molecules import molecules_by_bonds
from openmm_se3.neighbors import Edges
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.single_point import all_pairs_of
from openmm_se3.single_point import evaluate as evaluate_symbols

CLUSTER_ATOMS = 8  # at least; every element stands in the cluster twice or more
CLUSTER_SPACING = (1.3, 1.9)  # nearest neighbor, in sums of covalent radii
CONTACT_DISTANCE = 1.9  # A, shortest distance of two molecules of a pair
BOND_REACH = 1.3
SMALL_MOLECULE = 5  # atoms; two of these also test forces between molecules


@dataclasses.dataclass(frozen=True)
class Structure:
    """Atoms without a box.

    Attributes:
        name: What it is.
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray

    def moved(self, positions: np.ndarray) -> Structure:
        """Return the same atoms at other positions [n_atoms, 3], A."""
        return dataclasses.replace(self, positions=positions)

    def part(self, atoms: np.ndarray) -> Structure:
        """Return some of the atoms, by index."""
        numbers = self.numbers[atoms]
        name = formula(symbols_of(numbers))
        return Structure(name, numbers, self.positions[atoms])


def reference_structure(reference: dict[str, Any]) -> Structure:
    """Return the structure that a model's description holds."""
    return Structure(
        formula(reference["symbols"]),
        np.array(numbers_of(reference["symbols"])),
        np.array(reference["positions"], dtype=np.float64),
    )


def random_cluster(elements: tuple[str, ...], rng: np.random.Generator) -> Structure:
    """Return a cluster of every element of a model, without symmetry or overlaps.

    Atoms are added one by one next to one that is there already, at 1.3 to 1.9 times
    the sum of the covalent radii.
    """
    repeats = max(2, int(np.ceil(CLUSTER_ATOMS / len(elements))))
    repeats += repeats % 2  # an even number of electrons, whatever the elements
    chosen = list(elements) * repeats
    radii = np.array([COVALENT_RADII[symbol] for symbol in chosen])
    positions = [np.zeros(3)]
    while len(positions) < len(chosen):
        i = len(positions)
        beside = int(rng.integers(i))
        direction = rng.normal(size=3)
        length = rng.uniform(*CLUSTER_SPACING) * (radii[i] + radii[beside])
        trial = positions[beside] + length * direction / np.linalg.norm(direction)
        distances = np.linalg.norm(np.array(positions) - trial, axis=1)
        if (distances >= CLUSTER_SPACING[0] * (radii[i] + radii[:i])).all():
            positions.append(trial)
    return Structure(
        "random cluster", np.array(numbers_of(chosen)), np.array(positions)
    )


def pair_of(molecule: Structure, rng: np.random.Generator) -> Structure:
    """Return a molecule and a turned copy of it in contact."""
    turned = molecule.positions - molecule.positions.mean(axis=0)
    turned = turned @ random_rotation(rng).T
    centered = molecule.positions - molecule.positions.mean(axis=0)
    direction = random_rotation(rng)[0]
    distance = 1.0
    while True:
        copy = turned + distance * direction
        if _gap(centered, copy) >= CONTACT_DISTANCE:
            break
        distance += 0.05
    return Structure(
        f"two {molecule.name}",
        np.tile(molecule.numbers, 2),
        np.concatenate([centered, copy]),
    )


def structure_from_file(path: str | Path, elements: tuple[str, ...]) -> Structure:
    """Read one structure from a file of any format that ASE knows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, has a box or an element that the model lacks.
    """
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no structure file {path}")
    try:
        atoms: Any = read(path, index=-1, do_not_split_by_at_sign=True)
    except Exception as error:  # each of ASE's readers has errors of its own
        raise ValueError(f"{path} cannot be read as a structure: {error}") from error
    if atoms.pbc.any():
        raise ValueError(f"{path} has a periodic box; give a free molecule or cluster")
    if not np.isfinite(atoms.positions).all():
        raise ValueError(f"{path} has positions that are not finite")
    foreign = sorted(set(atoms.symbols) - set(elements))
    if foreign:
        raise ValueError(
            f"{path} has {', '.join(foreign)}; the model knows {', '.join(elements)}"
        )
    return Structure(path.name, atoms.numbers, atoms.positions.copy())


def smallest_molecule(reference: Structure) -> Structure:
    """Return the smallest molecule of a reference structure that has bonds.

    Of a cluster without bonds it is the whole of it.
    """
    molecules = [m for m in bonded_molecules(reference) if len(m) > 1]
    return reference.part(min(molecules, key=len)) if molecules else reference


def pair_in_contact(reference: Structure, rng: np.random.Generator) -> Structure:
    """Return two molecules in contact, or one that is large enough by itself.

    Of a cluster these are the two nearest molecules, of a small molecule it and a
    turned copy, of a large one itself.

    Args:
        reference: The model's reference structure.
        rng: Turns the copy.
    """
    molecules = bonded_molecules(reference)
    if len(molecules) > 1:
        nearest = min(
            itertools.combinations(molecules, 2),
            key=lambda two: _gap(*(reference.positions[atoms] for atoms in two)),
        )
        return reference.part(np.concatenate(nearest))
    if len(reference.numbers) <= SMALL_MOLECULE:
        return pair_of(reference, rng)
    return reference


def bonded_molecules(structure: Structure) -> list[np.ndarray]:
    """Return the indices of the atoms of each molecule.

    Atoms are bonded up to ``BOND_REACH`` times the sum of their covalent radii.
    """
    radii = np.array(
        [COVALENT_RADII[symbol] for symbol in symbols_of(structure.numbers)]
    )
    distances = np.linalg.norm(
        structure.positions[:, None] - structure.positions[None, :], axis=-1
    )
    bonded = distances < BOND_REACH * (radii[:, None] + radii)
    return molecules_by_bonds(len(radii), np.argwhere(bonded))


def _gap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first[:, None] - second[None, :], axis=-1).min())


def formula(chemical_symbols: Sequence[str]) -> str:
    """Return a formula with the elements in alphabetical order, such as H2O."""
    counts = sorted(Counter(chemical_symbols).items())
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in counts)


def in_both_precisions(model: ModelFile) -> dict[str, SE3Transformer]:
    """Return the network in float64 and float32, by OpenMM's names of precisions."""
    return {precision: model.network(dtype) for precision, dtype in PRECISIONS.items()}


def evaluate(network: SE3Transformer, structure: Structure) -> tuple[float, np.ndarray]:
    """Return interaction energy (eV) and forces [n_atoms, 3] (eV/A)."""
    return evaluate_symbols(network, symbols_of(structure.numbers), structure.positions)


def edges_of(
    network: SE3Transformer, structure: Structure
) -> tuple[torch.Tensor, torch.Tensor, Edges]:
    """Return species, vectors and edges of all pairs."""
    positions, species, edges = all_pairs_of(
        network, symbols_of(structure.numbers), structure.positions
    )
    return species, ForceField(network).edge_vectors(positions, edges), edges

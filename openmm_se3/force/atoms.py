"""The atoms that a model acts on: which they are, and whether it knows them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from openmm import app, unit

from openmm_se3.elements import ATOMIC_NUMBERS, SYMBOLS, chemical_symbol, symbols_of
from openmm_se3.geometry import box_of
from openmm_se3.model_file import ModelFile


@dataclasses.dataclass(frozen=True)
class ModelAtoms:
    """The atoms of a topology that a model acts on; checked once, then handed down.

    Attributes:
        topology: Topology of the whole System.
        indices: Particle of the System that each atom is [n_atoms].
        species: Index of each atom's element in the model's elements [n_atoms].
        box: Box vectors of the topology as rows [3, 3], A; None without a box.
    """

    topology: app.Topology
    indices: list[int]
    species: list[int]
    box: np.ndarray | None

    @classmethod
    def of(
        cls,
        model: ModelFile,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None = None,
        n_particles: int | None = None,
    ) -> ModelAtoms:
        """Return the chosen atoms of a topology.

        Args:
            model: The model.
            topology: Topology of the whole System.
            atoms: As for :func:`atom_indices`.
            n_particles: Particles of the System; None where there is none yet.

        Raises:
            TypeError: The topology is none.
            ValueError: Topology and System differ in size, or atoms are out of range,
                given twice or of unknown elements.
        """
        require_topology(topology)
        n_atoms = topology.getNumAtoms()
        if n_particles not in (None, n_atoms):
            raise ValueError(
                f"the topology has {n_atoms} atoms, the System {n_particles} "
                "particles: they must be the same"
            )
        indices = atom_indices(atoms, n_atoms)
        species = species_of(model, topology, indices)
        return cls(topology, indices, species, box_of(topology))

    @property
    def n_particles(self) -> int:
        """Particles of the System."""
        return int(self.topology.getNumAtoms())


def require_topology(topology: app.Topology) -> None:
    """Refuse what is no topology.

    Raises:
        TypeError: Names what is expected.
    """
    if not isinstance(topology, app.Topology):
        kind = f"{type(topology).__module__}.{type(topology).__qualname__}"
        fix = "such as PDBFile(...).topology"
        if hasattr(topology, "to_openmm"):  # mdtraj's
            fix = "which its to_openmm() returns"
        elif isinstance(getattr(topology, "topology", None), app.Topology):
            fix = "which is its attribute topology"
        raise TypeError(f"topology must be an openmm.app.Topology, {fix}; got {kind}")


def atom_indices(
    atoms: Iterable[int | bool | app.topology.Atom] | None, n_particles: int
) -> list[int]:
    """Return atoms as indices, whichever way they were chosen.

    Args:
        atoms: Indices in any order, atoms of the topology, or a mask with a boolean for
            each atom; None for all.
        n_particles: Particles of the System.

    Raises:
        ValueError: Names what is not an atom, or a mask of another length.
    """
    if atoms is None:
        return list(range(n_particles))
    chosen = list(atoms)
    if chosen and all(isinstance(atom, bool | np.bool_) for atom in chosen):
        if len(chosen) != n_particles:
            raise ValueError(
                f"the mask in atoms has {len(chosen)} booleans, the System "
                f"{n_particles} particles: they must be the same"
            )
        return [int(index) for index in np.flatnonzero(chosen)]
    return [_index(atom) for atom in chosen]


def _index(atom: Any) -> int:
    if isinstance(atom, app.topology.Atom):
        return int(atom.index)
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(atom, bool | np.bool_) and int(atom) == atom:
            return int(atom)
    raise ValueError(
        f"{atom!r} in atoms is no atom: give indices, atoms of the topology, or a mask "
        "with a boolean for each atom"
    )


def species_of(
    model: ModelFile, topology: app.Topology, chosen: list[int]
) -> list[int]:
    """Return the species of the chosen atoms.

    Raises:
        ValueError: Names the first atom that is wrong, and why.
    """
    all_atoms = list(topology.atoms())
    if not chosen:
        raise ValueError("no atoms: give at least one, or atoms=None for all")
    if len(set(chosen)) < len(chosen):
        twice = next(a for a in chosen if chosen.count(a) > 1)
        raise ValueError(f"atom {twice} is given twice")
    outside = [a for a in chosen if not 0 <= a < len(all_atoms)]
    if outside:
        raise ValueError(
            f"atom index {outside[0]} is out of range: the topology has "
            f"{len(all_atoms)} atoms"
        )
    symbols = []
    for index in chosen:
        atom = all_atoms[index]
        if atom.element is None:
            raise ValueError(
                f"atom {index} ({atom.name} of {atom.residue.name} "
                f"{atom.residue.id}) has no element: give it one (atom.element = "
                "app.element.oxygen); a virtual site or extra particle is no atom of "
                "the model's: leave it out with atoms="
            )
        symbols.append(chemical_symbol(atom.element))
    require_known(model, symbols, chosen)
    return [model.config.elements.index(symbol) for symbol in symbols]


def checked_atoms(
    model: ModelFile, numbers: Any, positions: Any
) -> tuple[list[str], np.ndarray]:
    """Return chemical symbols and positions [n_atoms, 3], A, of atoms without OpenMM.

    Args:
        model: The model whose elements are known.
        numbers: Atomic numbers or chemical symbols [n_atoms].
        positions: Positions [n_atoms, 3], A (or a Quantity).

    Raises:
        ValueError: Unknown elements, wrong shape, or positions that are not finite.
    """
    if unit.is_quantity(positions):
        positions = positions.value_in_unit(unit.angstrom)
    if np.iscomplexobj(positions):
        raise ValueError("positions are complex numbers")
    positions = np.asarray(positions, dtype=float)
    if not len(numbers):
        raise ValueError("no atoms: give at least one")
    if all(isinstance(symbol, str) for symbol in numbers):
        numbers = _numbers_of(list(numbers))
    given = np.asarray(numbers)
    numbers = given.astype(int)
    wrong = np.flatnonzero(numbers != given)
    if len(wrong):
        raise ValueError(
            f"atom {wrong[0]} has atomic number {given[wrong[0]]:g}, which is no whole "
            "number; are these masses?"
        )
    if positions.shape != (len(numbers), 3):
        raise ValueError(
            f"positions of {len(numbers)} atoms must have shape "
            f"({len(numbers)}, 3), got {positions.shape}"
        )
    wrong = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(wrong):
        raise ValueError(f"position of atom {wrong[0]} is not finite")
    wrong = np.flatnonzero((numbers < 1) | (numbers > len(SYMBOLS)))
    if len(wrong):
        raise ValueError(
            f"atom {wrong[0]} has atomic number {numbers[wrong[0]]}: expected 1 to "
            f"{len(SYMBOLS)}"
        )
    symbols = symbols_of(numbers)
    require_known(model, symbols, list(range(len(symbols))))
    return symbols, positions


def _numbers_of(symbols: list[str]) -> list[int]:
    """Return atomic numbers.

    Raises:
        ValueError: Names the first atom whose element there is not.
    """
    for index, symbol in enumerate(symbols):
        if symbol not in ATOMIC_NUMBERS:
            raise ValueError(f"atom {index} is {symbol!r}, which is no chemical symbol")
    return [ATOMIC_NUMBERS[symbol] for symbol in symbols]


def require_known(model: ModelFile, symbols: list[str], indices: list[int]) -> None:
    """Refuse elements that the model has not seen.

    Raises:
        ValueError: Names the first atom of such an element.
    """
    for symbol, index in zip(symbols, indices, strict=True):
        if symbol not in model.config.elements:
            known = sorted(model.config.elements, key=ATOMIC_NUMBERS.__getitem__)
            raise ValueError(
                f"atom {index} is {symbol}, which the model "
                f"'{model.metadata['name']}' does not know; it knows {known}"
            )

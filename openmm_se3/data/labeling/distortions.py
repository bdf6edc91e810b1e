"""Distorted structures of one molecule: what molecular dynamics meets, and beyond.

=============  =====================================================================
normal modes   displaced as harmonic oscillators at a temperature, zero-point motion
               included
dynamics       Langevin dynamics, frames far enough apart in time to be independent
turned         one rotatable bond turned to an angle, everything else relaxed
stretched      one bond stretched or compressed within its zero-point motion
scanned        one bond far from its length, so that no hole is left there
=============  =====================================================================

Positions are [n_atoms, 3] in A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from ase import Atoms, units

if TYPE_CHECKING:
    from rdkit import Chem

    from openmm_se3.data.labeling.conformers import MMFF

# Any single bond outside of rings between atoms that have other neighbors and are not
# linear.
ROTATABLE = "[!$(*#*)&!D1]-&!@[!$(*#*)&!D1]"
HESSIAN_STEP = 0.01  # A
SOFTEST_MODE = 0.0124  # eV (100 1/cm); softer ones are turned, not displaced
MOST_ZERO_POINT = 2.5  # stretches, in zero-point amplitudes
BOND_STEP = 0.02  # A
SHORTEST, LONGEST = 0.75, 1.8  # of the length of a bond, in scans
FRICTION = 0.05 / units.fs
TIME_STEP = 0.5 * units.fs
FRAME_SPACING = 60  # steps; at this friction velocities forget themselves in 20 fs
EQUILIBRATION = 120  # steps


class Potential(Protocol):
    """Forces of one molecule."""

    def forces(self, positions: np.ndarray) -> np.ndarray:
        """Return the forces [n_atoms, 3], eV/A."""
        ...


def normal_modes(
    positions: np.ndarray, masses: np.ndarray, potential: Potential
) -> tuple[np.ndarray, np.ndarray]:
    """Return energies (eV) and mass-weighted directions of the normal modes.

    Translations, rotations and modes that are not bound are left out; what is softer
    than ``SOFTEST_MODE`` is taken to be that stiff.

    Args:
        positions: A minimum, or near one [n_atoms, 3], A.
        masses: Dalton [n_atoms].
        potential: Gives the forces.

    Returns:
        hbar omega [n_modes], and directions [n_modes, n_atoms, 3].
    """
    n = positions.size
    hessian = np.empty((n, n))
    for i in range(n):
        step = np.zeros_like(positions)
        step.flat[i] = HESSIAN_STEP
        change = potential.forces(positions + step) - potential.forces(positions - step)
        hessian[i] = -change.ravel() / (2.0 * HESSIAN_STEP)
    root = np.repeat(np.sqrt(masses), 3)
    weighted = (hessian + hessian.T) / 2.0 / np.outer(root, root)
    # Out of the way: what moves or turns the whole molecule.
    outside = rigid_motions(positions, masses)
    projector = np.eye(n) - outside @ outside.T
    squares, directions = np.linalg.eigh(projector @ weighted @ projector)
    energies = units._hbar * units.J * units.s * np.sqrt(squares.clip(min=0.0))
    vibrates = (np.abs(outside.T @ directions).max(axis=0) < 0.5) & (squares > 0.0)
    return (
        energies[vibrates].clip(min=SOFTEST_MODE),
        directions.T[vibrates].reshape(-1, n // 3, 3),
    )


def thermal_displacements(
    modes: tuple[np.ndarray, np.ndarray],
    masses: np.ndarray,
    temperature: float,
    rng: np.random.Generator,
    quantum: bool = False,
) -> np.ndarray:
    """Return displacements [n_atoms, 3] (A) of harmonic oscillators at a temperature.

    The variance of a mass-weighted coordinate is k T / omega^2, or with zero-point
    motion hbar / (2 omega) coth(hbar omega / 2 k T).

    Args:
        modes: What :func:`normal_modes` returns.
        masses: Dalton [n_atoms].
        temperature: K.
        rng: Draws the displacements.
        quantum: Include zero-point motion.
    """
    energies, directions = modes
    hbar = units._hbar * units.J * units.s
    thermal: np.ndarray | float = units.kB * temperature
    if quantum:
        thermal = energies / (2.0 * np.tanh(energies / (2.0 * thermal)))
    variance = thermal * (hbar / energies) ** 2
    amplitudes = np.sqrt(variance) * rng.normal(size=len(variance))
    weighted = np.tensordot(amplitudes, directions, 1)
    return weighted / np.sqrt(masses)[:, np.newaxis]


def dynamics(
    numbers: np.ndarray,
    positions: np.ndarray,
    potential: Potential,
    temperature: float,
    count: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Return frames of Langevin dynamics at a temperature (K)."""
    from ase.md.langevin import Langevin

    class Calculator:
        """What Langevin asks for; ASE's own compares all atoms at each call."""

        def get_forces(self, atoms: Atoms) -> np.ndarray:
            return potential.forces(atoms.positions)

    atoms = Atoms(numbers, positions)
    atoms.calc = Calculator()
    width = np.sqrt(atoms.get_masses() * (units.kB * temperature))
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, np.newaxis])
    langevin = Langevin(
        atoms,
        timestep=TIME_STEP,
        temperature_K=temperature,
        friction=FRICTION,
        fixcm=False,
        rng=rng,
    )
    langevin.run(EQUILIBRATION)
    frames = []
    for _ in range(count):
        langevin.run(FRAME_SPACING)
        frames.append(atoms.positions - atoms.positions.mean(axis=0))
    return frames


def rotatable_bonds(mol: Chem.Mol) -> list[tuple[int, int, int, int]]:
    """Return the four atoms of one dihedral angle about each rotatable bond."""
    from rdkit import Chem

    dihedrals = []
    for b, c in mol.GetSubstructMatches(Chem.MolFromSmarts(ROTATABLE)):
        a = _another_neighbor(mol, b, c)
        d = _another_neighbor(mol, c, b)
        dihedrals.append((a, b, c, d))
    return dihedrals


def turned(
    mol: Chem.Mol,
    positions: np.ndarray,
    field: MMFF,
    dihedral: tuple[int, int, int, int],
    angle: float,
) -> np.ndarray:
    """Return positions with one dihedral angle (degrees) set, and the rest relaxed."""
    from rdkit import Chem
    from rdkit.Chem import rdMolTransforms

    from openmm_se3.data.labeling.conformers import set_positions

    mol = Chem.Mol(mol)
    set_positions(mol, positions)
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), *dihedral, angle)
    start = mol.GetConformer().GetPositions()
    return field.minimized(start, {dihedral: angle})


def stretched(
    mol: Chem.Mol,
    positions: np.ndarray,
    field: MMFF,
    bond: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return positions with one bond longer or shorter than in ``positions``.

    The change is uniform within ``MOST_ZERO_POINT`` zero-point amplitudes
    sqrt(hbar / (2 sqrt(k mu))), k from the force field and mu the reduced mass of the
    two atoms.
    """
    moved = _along(mol, positions, bond)
    energies = [field.energy(positions + x * moved) for x in (-BOND_STEP, 0, BOND_STEP)]
    k = max((energies[0] - 2.0 * energies[1] + energies[2]) / BOND_STEP**2, 10.0)
    masses = [mol.GetAtomWithIdx(atom).GetMass() for atom in bond]
    reduced = masses[0] * masses[1] / sum(masses)
    hbar = units._hbar * units.J * units.s
    amplitude = np.sqrt(hbar / (2.0 * np.sqrt(k * reduced)))
    return positions + rng.uniform(-1, 1) * MOST_ZERO_POINT * amplitude * moved


def scanned(
    mol: Chem.Mol,
    positions: np.ndarray,
    bond: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return positions with one bond pressed or drawn out of its well.

    Its length is, with equal chances, uniform from ``SHORTEST`` to 1 or from 1 to
    ``LONGEST`` times that in ``positions``.
    """
    i, j = bond
    length = np.linalg.norm(positions[j] - positions[i])
    to = rng.choice((SHORTEST, LONGEST))
    change = rng.uniform() * (to - 1.0)
    return positions + change * length * _along(mol, positions, bond)


def _along(mol: Chem.Mol, positions: np.ndarray, bond: tuple[int, int]) -> np.ndarray:
    """Return the displacements that make a bond 1 A longer [n_atoms, 3].

    In a ring the second atom moves, with its hydrogens; elsewhere all of its side.
    """
    i, j = bond
    direction = positions[j] - positions[i]
    moved = np.zeros_like(positions)
    moved[sorted(_side(mol, i, j))] = direction / np.linalg.norm(direction)
    return moved


def _side(mol: Chem.Mol, i: int, j: int) -> set[int]:
    """Return the atoms that move with j when the bond i-j is stretched."""
    if mol.GetBondBetweenAtoms(i, j).IsInRing():
        neighbors = mol.GetAtomWithIdx(j).GetNeighbors()
        return {j, *(n.GetIdx() for n in neighbors if n.GetAtomicNum() == 1)}
    side, todo = {j}, [j]
    while todo:
        for neighbor in mol.GetAtomWithIdx(todo.pop()).GetNeighbors():
            index = neighbor.GetIdx()
            if index != i and index not in side:
                side.add(index)
                todo.append(index)
    return side


def _another_neighbor(mol: Chem.Mol, atom: int, other: int) -> int:
    """Return a neighbor of ``atom`` besides ``other``, a heavy one if there is one."""
    neighbors = [
        n for n in mol.GetAtomWithIdx(atom).GetNeighbors() if n.GetIdx() != other
    ]
    return int(max(neighbors, key=lambda n: n.GetAtomicNum()).GetIdx())


def rigid_motions(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return translations and rotations, mass-weighted and orthonormal.

    Returns:
        [3 n_atoms, 6], or 5 for a linear molecule.
    """
    root = np.sqrt(masses)[:, np.newaxis]
    center = (masses @ positions) / masses.sum()
    motions = []
    for axis in np.eye(3):
        motions.append((root * axis).ravel())
        motions.append((root * np.cross(axis, positions - center)).ravel())
    left, sizes, _ = np.linalg.svd(np.array(motions).T, full_matrices=False)
    return left[:, sizes > 1e-4 * sizes.max()]

"""Minima, constrained minima and harmonic frequencies of a committee's mean."""

from __future__ import annotations

import numpy as np
import torch

from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.structures import System
from openmm_se3.data.labeling.distortions import rigid_motions
from openmm_se3.units import (
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    SPEED_OF_LIGHT_CM_PER_FS,
)

Dihedral = tuple[int, int, int, int]

STEP = 0.01  # A, of finite differences
STIFFNESS = 40.0  # eV/rad^2, of what holds a dihedral angle
TOLERANCE = 2e-3  # eV/A, largest force component at a minimum


def relaxed(
    committee: Committee,
    system: System,
    start: np.ndarray,
    held: tuple[Dihedral, float] | None = None,
) -> tuple[np.ndarray, float]:
    """Return positions [n_atoms, 3] (A) and energy (eV) of the nearest minimum.

    Args:
        committee: Its mean is minimized.
        system: The molecule.
        start: Positions to start from [n_atoms, 3], A.
        held: A dihedral angle and its value in degrees, which is kept.
    """
    from scipy.optimize import minimize

    atoms = Atoms([system.numbers])

    def target(flat: np.ndarray) -> tuple[float, np.ndarray]:
        positions = flat.reshape(-1, 3)
        predicted = committee.predict(atoms, positions)
        energy = float(predicted.energies.mean())
        gradient = -predicted.mean_forces
        if held is not None:
            more, slope = _holding(positions, *held)
            energy, gradient = energy + more, gradient + slope
        return energy, gradient.ravel()

    found = minimize(
        target,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 300, "gtol": TOLERANCE, "ftol": 1e-12},
    )
    positions = found.x.reshape(-1, 3)
    energy = float(committee.predict(atoms, positions).energies.mean())
    return positions - positions.mean(axis=0), energy


def dihedral_angle(positions: torch.Tensor, dihedral: Dihedral) -> torch.Tensor:
    """Return a dihedral angle, rad."""
    a, b, c, d = (positions[i] for i in dihedral)
    first, middle, last = b - a, c - b, d - c
    normal, other = torch.linalg.cross(first, middle), torch.linalg.cross(middle, last)
    sine = (torch.linalg.cross(normal, other) * middle).sum() / middle.norm()
    return torch.atan2(sine, (normal * other).sum())


def _holding(
    positions: np.ndarray, dihedral: Dihedral, degrees: float
) -> tuple[float, np.ndarray]:
    """Return energy and gradient of what holds a dihedral angle."""
    x = torch.tensor(positions, requires_grad=True)
    difference = dihedral_angle(x, dihedral) - np.radians(degrees)
    wrapped = torch.atan2(difference.sin(), difference.cos())
    energy = 0.5 * STIFFNESS * wrapped.square()
    (gradient,) = torch.autograd.grad(energy, x)
    return energy.item(), gradient.numpy()


def displaced(positions: np.ndarray) -> np.ndarray:
    """Return the structures of a finite-difference Hessian [6 n_atoms, n_atoms, 3]."""
    steps = STEP * np.eye(positions.size).reshape(-1, *positions.shape)
    return np.stack([positions + steps, positions - steps], axis=1).reshape(
        -1, *positions.shape
    )


def frequencies(
    forces: np.ndarray, positions: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Return harmonic frequencies, 1/cm, lowest first; imaginary ones are negative.

    Args:
        forces: Forces at :func:`displaced` structures [6 n_atoms, n_atoms, 3], eV/A.
        positions: Positions of the minimum [n_atoms, 3], A.
        numbers: Atomic numbers [n_atoms].
    """
    from ase.data import atomic_masses

    n = positions.size
    pairs = forces.reshape(n, 2, n)
    hessian = -(pairs[:, 0] - pairs[:, 1]) / (2.0 * STEP)
    masses = atomic_masses[numbers]
    root = np.repeat(np.sqrt(masses), 3)
    weighted = (hessian + hessian.T) / 2.0 / np.outer(root, root)
    outside = rigid_motions(positions, masses)
    projector = np.eye(n) - outside @ outside.T
    squares, directions = np.linalg.eigh(projector @ weighted @ projector)
    vibrates = np.abs(outside.T @ directions).max(axis=0) < 0.5
    squares = squares[vibrates] * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2
    angular = np.sign(squares) * np.sqrt(np.abs(squares))  # rad/fs
    return np.asarray(np.sort(angular) / (2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS))


def model_frequencies(
    committee: Committee, system: System, positions: np.ndarray
) -> np.ndarray:
    """Return the harmonic frequencies of a committee's mean, 1/cm."""
    structures = displaced(positions)
    atoms = Atoms([system.numbers] * len(structures))
    predicted = committee.predict(atoms, structures.reshape(-1, 3))
    forces = predicted.mean_forces.reshape(structures.shape)
    return frequencies(forces, positions, system.numbers)

"""Geometry of water molecules: builders, minima and normal modes for the benchmarks.

Everything works on a callable that returns energy (eV) and forces (eV/A), so that DFT
and the model go through the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize

from openmm_se3.units import (
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    SPEED_OF_LIGHT_CM_PER_FS,
)

# positions [n_atoms, 3] (A) -> energy (eV), forces [n_atoms, 3] (eV/A)
EnergyAndForces = Callable[[np.ndarray], tuple[float, np.ndarray]]

WATER = np.array([8, 1, 1])  # atomic numbers in the order of every structure here
# eV/A, the largest force at a minimum; below it DFT's own noise begins.  It leaves less
# than 1e-4 A in the softest distance, O-O of a dimer.
GRADIENT_TOLERANCE = 1e-4
WATERS_PER_NM3 = 33.3  # of the liquid
RATTLE = 0.02  # A
DISPLACEMENT = 0.005  # A, step of the finite differences of forces
FIRST_CURVATURE = 70.0  # eV/A^2; BFGS starts with it, so that its first step is small


def monomer_start() -> np.ndarray:
    """Return a water molecule O, H, H [3, 3] (A) near its minimum."""
    return np.array([[0.0, 0.0, 0.0], [0.757, 0.0, 0.592], [-0.757, 0.0, 0.592]])


def cyclic_dimer() -> np.ndarray:
    """Return a dimer O, H, H, O, H, H [6, 3] (A) near its wB97X/6-31G(d) minimum.

    It has a center of inversion and two bent hydrogen bonds: the superposition error of
    this small basis favors compact dimers.
    """
    molecule = np.array([[0.0, 0.0, 0.0], [0.463, 0.851, 0.0], [-0.84, 0.436, 0.19]])
    return np.concatenate([molecule, np.array([2.74, 0.0, 0.0]) - molecule])


def hydrogen_bonded_dimer() -> np.ndarray:
    """Return the dimer O, H, H, O, H, H [6, 3] (A) that experiment knows.

    At wB97X/6-31G(d) it is no minimum but a saddle point, 0.16 kcal/mol above the
    cyclic one.
    """
    return np.array(
        [
            [0.142, -0.003, -0.031],
            [1.081, -0.005, 0.222],
            [-0.333, 0.008, 0.806],
            [2.975, -0.003, 0.038],
            [3.012, 0.758, -0.557],
            [3.020, -0.767, -0.551],
        ]
    )


def water_grid(n_molecules: int, spacing: float = 2.9) -> tuple[np.ndarray, np.ndarray]:
    """Return atomic numbers [3 n] and positions [3 n, 3] (A) of molecules on a grid."""
    side = int(np.ceil(n_molecules ** (1 / 3)))
    offsets = [
        spacing * np.array([i, j, k], dtype=float)
        for i in range(side)
        for j in range(side)
        for k in range(side)
    ]
    molecules = [monomer_start() + offset for offset in offsets[:n_molecules]]
    return np.tile(WATER, n_molecules), np.concatenate(molecules)


def water_box(n_molecules: int) -> Any:
    """Return OpenMM's Modeller of a cubic box of water molecules."""
    from openmm import Vec3, app, unit

    modeller = app.Modeller(app.Topology(), [])
    edge = (n_molecules / WATERS_PER_NM3) ** (1.0 / 3.0)
    # A larger box is filled and cut to the number wanted, which keeps the density.
    force_field = app.ForceField("tip3p.xml")
    modeller.addSolvent(force_field, boxSize=Vec3(1, 1, 1) * (edge + 0.3))
    positions = modeller.positions.value_in_unit(unit.nanometer)
    residues = list(modeller.topology.residues())
    first = [positions[next(iter(residue.atoms())).index] for residue in residues]
    order = np.argsort([max(place) for place in first])
    modeller.delete([residues[i] for i in order[n_molecules:]])
    modeller.topology.setPeriodicBoxVectors(np.eye(3) * edge * unit.nanometer)
    return modeller


def rattle(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return positions [n_atoms, 3] (A) with small random displacements."""
    return positions + rng.normal(scale=RATTLE, size=positions.shape)


def bond_lengths_and_angle(positions: np.ndarray) -> tuple[float, float, float]:
    """Return the two O-H lengths (A) and the H-O-H angle (degrees)."""
    first, second = positions[1] - positions[0], positions[2] - positions[0]
    r1, r2 = np.linalg.norm(first), np.linalg.norm(second)
    angle = np.degrees(np.arccos(first @ second / (r1 * r2)))
    return float(r1), float(r2), float(angle)


def find_minimum(
    function: EnergyAndForces, start: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return energy (eV) and positions [n_atoms, 3] (A) of the nearest minimum.

    Raises:
        RuntimeError: A force larger than 3 times ``GRADIENT_TOLERANCE`` is left.
    """
    scale = np.sqrt(FIRST_CURVATURE)

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = function(scaled.reshape(-1, 3) / scale)
        return energy, -forces.ravel() / scale

    result = minimize(
        objective,
        start.ravel() * scale,
        jac=True,
        method="BFGS",
        options={"gtol": GRADIENT_TOLERANCE / scale, "maxiter": 400},
    )
    # BFGS reports a loss of precision where the energy's last digits are noise.
    largest = float(np.abs(result.jac).max()) * scale
    if largest > 3.0 * GRADIENT_TOLERANCE:
        raise RuntimeError(f"no minimum: {result.message} (force {largest:.1e} eV/A)")
    return float(result.fun), result.x.reshape(-1, 3) / scale


def finite_difference_hessian(
    function: EnergyAndForces, positions: np.ndarray
) -> np.ndarray:
    """Return the second derivatives [3 n, 3 n] (eV/A^2) from forces at four points.

    Two points would leave 26 cm^-1 in the rotations of water and 0.2 cm^-1 in its bend.
    """
    flat = positions.ravel()
    hessian = np.zeros((len(flat), len(flat)))
    for index in range(len(flat)):
        slopes = {}
        for multiple in (-2, -1, 1, 2):
            moved = flat.copy()
            moved[index] += multiple * DISPLACEMENT
            slopes[multiple] = -function(moved.reshape(-1, 3))[1].ravel()
        first, second = slopes[1] - slopes[-1], slopes[2] - slopes[-2]
        hessian[index] = (8.0 * first - second) / (12.0 * DISPLACEMENT)
    return 0.5 * (hessian + hessian.T)


def frequencies(hessian: np.ndarray, numbers: np.ndarray, modes: int) -> np.ndarray:
    """Return the highest harmonic frequencies (1/cm), imaginary ones negative.

    Args:
        hessian: Second derivatives [3 n, 3 n], eV/A^2.
        numbers: Atomic numbers [n].
        modes: How many, 3 n - 6 for a bent molecule.
    """
    from ase.data import atomic_masses  # other benchmarks run without ASE

    masses = np.repeat(atomic_masses[numbers], 3)
    weighted = hessian / np.sqrt(np.outer(masses, masses))
    squared = np.linalg.eigvalsh(weighted)[-modes:]
    squared *= EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2  # 1/fs^2
    omega = np.sign(squared) * np.sqrt(np.abs(squared))
    return omega / (2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS)

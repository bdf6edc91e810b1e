"""Forces against finite differences, isolated atoms, and what happens at the cutoff."""

from __future__ import annotations

import numpy as np

from openmm_se3.elements import numbers_of
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation.check import Check
from openmm_se3.validation.structures import Structure, evaluate

STEP = 5e-4  # A, of the finite differences
FORCE_LIMIT = 1e-6  # eV/A, float64
ISOLATED_LIMIT = {"double": 1e-12, "single": 1e-6}  # eV and eV/A
FAR = 100.0  # A
ADDITIVITY_LIMIT = 1e-9  # eV and eV/A, float64
CROSSING = 1e-6  # A, either side of the cutoff
JUMP_LIMIT = 1e-6  # eV and eV/A


def finite_difference_forces(
    network: SE3Transformer, structure: Structure
) -> np.ndarray:
    """Return -dE/dx [n_atoms, 3] (eV/A) from energies at four points each."""
    forces = np.zeros_like(structure.positions)
    for index in np.ndindex(*forces.shape):
        energies = {}
        for multiple in (-2, -1, 1, 2):
            positions = structure.positions.copy()
            positions[index] += multiple * STEP
            energies[multiple] = evaluate(network, structure.moved(positions))[0]
        first = energies[1] - energies[-1]
        second = energies[2] - energies[-2]
        forces[index] = -(8.0 * first - second) / (12.0 * STEP)
    return forces


def gradient_check(network: SE3Transformer, structure: Structure) -> Check:
    """Compare forces with finite differences of the energy in float64."""
    _, forces = evaluate(network, structure)
    difference = np.abs(forces - finite_difference_forces(network, structure)).max()
    direct = network.config.force_mode == "direct"
    return Check(
        "finite differences",
        f"forces, {structure.name}, double",
        float(difference),
        "eV/A",
        # Direct forces are not meant to be a gradient; how far they are is worth
        # knowing.
        high=None if direct else FORCE_LIMIT,
        note="direct forces" if direct else f"largest force {np.abs(forces).max():.2g}",
    )


def isolated_atom_checks(networks: dict[str, SE3Transformer]) -> list[Check]:
    """An atom without neighbors has no interaction energy and no force.

    The network's energy of such an atom is subtracted; the limit is of its rounding.
    """
    checks = []
    for precision, network in networks.items():
        subtracted = max(1.0, float(network.isolated.abs().max()))  # eV
        elements = network.config.elements
        numbers = np.array(numbers_of(elements))
        largest = 0.0
        for number in numbers:
            lone = Structure("atom", np.array([number]), np.zeros((1, 3)))
            energy, forces = evaluate(network, lone)
            largest = max(largest, abs(energy), float(np.abs(forces).max()))
        row = np.zeros((len(numbers) + 1, 3))
        row[:, 0] = 1.001 * network.config.cutoff * np.arange(len(row))
        apart = Structure("row", np.append(numbers, numbers[0]), row)
        energy, forces = evaluate(network, apart)
        checks += [
            Check(
                "isolated atoms",
                f"{name}, {precision}",
                value,
                "eV(/A)",
                high=ISOLATED_LIMIT[precision] * subtracted,
                note="energy and forces",
            )
            for name, value in (
                (", ".join(elements), largest),
                ("all beyond the cutoff", max(abs(energy), np.abs(forces).max())),
            )
        ]
    return checks


def additivity_check(network: SE3Transformer, structure: Structure) -> Check:
    """Two copies far apart have twice the energy and the same forces."""
    energy, forces = evaluate(network, structure)
    both = Structure(
        structure.name,
        np.tile(structure.numbers, 2),
        np.concatenate([structure.positions, structure.positions + FAR]),
    )
    energy_of_both, forces_of_both = evaluate(network, both)
    force_error = np.abs(forces_of_both - np.tile(forces, (2, 1))).max()
    return Check(
        "isolated atoms",
        "far copies add up, double",
        float(max(abs(energy_of_both - 2.0 * energy), force_error)),
        "eV(/A)",
        high=ADDITIVITY_LIMIT,
        note=f"{structure.name} twice, {FAR:g} A apart",
    )


def cutoff_check(network: SE3Transformer) -> Check:
    """Energy and force of a pair, its only neighbors, as they cross the cutoff."""
    elements = network.config.elements
    jump = 0.0
    for first in elements:
        for second in elements:
            numbers = np.array(numbers_of([first, second]))
            sides = []
            for side in (-CROSSING, CROSSING):
                distance = network.config.cutoff + side
                positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]])
                sides.append(evaluate(network, Structure("pair", numbers, positions)))
            (energy_in, forces_in), (energy_out, forces_out) = sides
            jump = max(jump, abs(energy_in - energy_out))
            jump = max(jump, float(np.abs(forces_in - forces_out).max()))
    return Check(
        "cutoff",
        "lone pair crosses it, double",
        jump,
        "eV(/A)",
        high=JUMP_LIMIT,
        note=f"jump at {network.config.cutoff:g} A within {CROSSING:g} A",
    )


def energy_checks(
    networks: dict[str, SE3Transformer], cluster: Structure, structure: Structure
) -> list[Check]:
    """Return the checks of this file for two structures."""
    double = networks["double"]
    return [
        gradient_check(double, cluster),
        gradient_check(double, structure),
        *isolated_atom_checks(networks),
        additivity_check(double, cluster),
        cutoff_check(double),
    ]

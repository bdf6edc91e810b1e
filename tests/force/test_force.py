"""The force in OpenMM: every backend and platform against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from openmm import unit
from random_model import (
    BOX,
    topology_of,
)
from water_potentials import (
    TOLERANCE,
    all_backends,
    all_platforms,
    assert_same,
    context_of,
    eager,
    positions_of,
    potential_of,
    run,
    symbols_of,
    system_of,
)

from openmm_se3.torchscript.build import DENSE_ATOMS

both_precisions = pytest.mark.parametrize("precision", TOLERANCE)


@both_precisions
@all_backends
@all_platforms
def test_free_molecules(
    platform: str, backend: str, precision: str, random_model: Path
) -> None:
    positions = positions_of(2)
    context = context_of(
        system_of(random_model, backend, precision, 2, False), platform
    )
    result = run(context, positions)
    tolerance = TOLERANCE[precision]
    assert np.abs(result[1]).max() > 0.1, "nothing to compare"
    assert_same(result, eager(symbols_of(2), positions, None, precision), tolerance)
    atoms = Atoms(symbols_of(2), positions)
    atoms.calc = potential_of(random_model, backend, precision).ase_calculator()
    other = atoms.get_potential_energy(), atoms.get_forces()
    assert_same(result, other, tolerance)


@both_precisions
@all_backends
@all_platforms
def test_a_box_smaller_than_two_cutoffs(
    platform: str, backend: str, precision: str, random_model: Path
) -> None:
    positions = positions_of(8)
    context = context_of(system_of(random_model, backend, precision, 8, True), platform)
    result = run(context, positions)
    expected = eager(symbols_of(8), positions, BOX, precision)
    assert_same(result, expected, TOLERANCE[precision])
    # Control: the images matter.
    free = eager(symbols_of(8), positions, None, precision)
    assert abs(free[0] - expected[0]) > 0.01


def test_a_box_that_is_given_later(random_model: Path) -> None:
    """The Context's box counts, not the one that the System was made with."""
    context = context_of(system_of(random_model, "torchforce", "double", 8, True))
    larger = 1.1 * BOX
    context.setPeriodicBoxVectors(*(larger * unit.angstrom))
    positions = positions_of(8)
    expected = eager(symbols_of(8), positions, larger)
    assert_same(run(context, positions), expected, TOLERANCE["double"])


def test_many_molecules_in_a_box(random_model: Path) -> None:
    symbols, positions = symbols_of(64), positions_of(64)
    box = np.diag([11.6, 12.0, 12.4])
    potential = potential_of(random_model, "torchforce", "double")
    context = context_of(potential.createSystem(topology_of(symbols, box)))
    result = run(context, positions)
    assert_same(result, eager(symbols, positions, box), TOLERANCE["double"])


@all_backends
def test_more_free_atoms_than_are_recorded(backend: str, random_model: Path) -> None:
    n_molecules = DENSE_ATOMS // 3 + 1
    assert 3 * n_molecules > DENSE_ATOMS
    positions = positions_of(n_molecules)
    system = system_of(random_model, backend, "double", n_molecules, False)
    expected = eager(symbols_of(n_molecules), positions)
    assert_same(run(context_of(system), positions), expected, TOLERANCE["double"])


@pytest.mark.parametrize("periodic", [False, True])
@all_backends
def test_right_over_many_calls(
    backend: str, periodic: bool, random_model: Path
) -> None:
    """TorchScript recompiles itself during the first calls."""
    context = context_of(system_of(random_model, backend, "double", 2, periodic))
    rng = np.random.default_rng(0)
    for _ in range(20):
        positions = positions_of(2) + 0.1 * rng.normal(size=(6, 3))
        expected = eager(symbols_of(2), positions, BOX if periodic else None)
        assert_same(run(context, positions), expected, TOLERANCE["double"])


@pytest.mark.parametrize("periodic", [False, True])
@all_platforms
def test_forces_are_the_slope_of_the_energy(
    platform: str, periodic: bool, random_model: Path
) -> None:
    """By finite differences through OpenMM."""
    context = context_of(
        system_of(random_model, "torchforce", "double", 2, periodic), platform
    )
    positions = positions_of(2)
    _, forces = run(context, positions)
    step = 1e-3
    for atom, axis in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)):
        energies = []
        for distance in (-2.0 * step, -step, step, 2.0 * step):
            moved = positions.copy()
            moved[atom, axis] += distance
            energies.append(run(context, moved)[0])
        weights = np.array([1.0, -8.0, 8.0, -1.0])  # of fourth order
        slope = weights @ energies / (12.0 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-7)


@all_backends
def test_molecules_across_the_boundary(backend: str, random_model: Path) -> None:
    context = context_of(system_of(random_model, backend, "double", 8, True))
    positions = positions_of(8)
    expected = run(context, positions)
    rng = np.random.default_rng(0)
    shifts = rng.integers(-5, 6, size=(24, 3))
    for images in (np.repeat(shifts[::3], 3, axis=0), shifts):  # molecules, atoms
        assert_same(run(context, positions + images @ BOX), expected, 1e-8)
    assert_same(run(context, positions + np.array([1.0, -2.0, 30.0])), expected, 1e-8)


@all_platforms
def test_positions_far_from_the_origin(platform: str, random_model: Path) -> None:
    """In single precision too, vectors are formed from OpenMM's positions."""
    context = context_of(
        system_of(random_model, "torchforce", "single", 2, False), platform
    )
    positions = positions_of(2)
    expected = run(context, positions)
    assert_same(run(context, positions + 1e5), expected, TOLERANCE["single"])


@all_backends
@all_platforms
def test_positions_stay_as_they_are(
    platform: str, backend: str, random_model: Path
) -> None:
    """The Reference platform hands over its own memory."""
    positions = positions_of(8)
    for periodic, n_molecules in ((False, 2), (True, 8)):
        system = system_of(random_model, backend, "double", n_molecules, periodic)
        context = context_of(system, platform)
        context.setPositions(positions[: 3 * n_molecules] * unit.angstrom)
        before = context.getState(getPositions=True).getPositions(asNumpy=True)
        context.getState(getEnergy=True, getForces=True)
        after = context.getState(getPositions=True).getPositions(asNumpy=True)
        assert np.array_equal(before._value, after._value)

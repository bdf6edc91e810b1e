"""Positions that are wrong, not finite or on top of each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit
from random_model import (
    BOX,
    WATER,
)
from water_potentials import (
    TOLERANCE,
    all_backends,
    all_platforms,
    assert_same,
    context_of,
    eager,
    positions_of,
    run,
    symbols_of,
    system_of,
)

from openmm_se3 import SE3Potential


@pytest.mark.parametrize(
    ("numbers", "change", "message"),
    [
        ([8, 1], lambda x: x, r"2 atoms must have shape \(2, 3\), got \(3, 3\)"),
        ([8, 1, 1], lambda x: x[:, :2], r"must have shape \(3, 3\), got \(3, 2\)"),
        (
            [8, 1, 1],
            lambda x: np.where(x > 0.7, np.nan, x),
            "position of atom 1 is not",
        ),
        (
            [8, 1, 1],
            lambda x: np.where(x < -0.7, np.inf, x),
            "position of atom 2 is not",
        ),
        ([8, 1, 0], lambda x: x, "atom 2 has atomic number 0"),
        ([8, 1, -3], lambda x: x, "atom 2 has atomic number -3"),
        ([8, 1, 500], lambda x: x, "atom 2 has atomic number 500"),
    ],
)
def test_wrong_positions_and_numbers(
    numbers: list[int],
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
    potential: SE3Potential,
) -> None:
    with pytest.raises(ValueError, match=message):
        potential.energy_and_forces(numbers, change(WATER))


def test_no_atoms_at_all(potential: SE3Potential) -> None:
    with pytest.raises(ValueError, match="no atoms"):
        potential.energy_and_forces([], np.zeros((0, 3)))


def test_positions_with_units(potential: SE3Potential) -> None:
    plain = potential.energy_and_forces([8, 1, 1], WATER)
    for quantity in (WATER * unit.angstrom, 0.1 * WATER * unit.nanometer):
        energy, forces = potential.energy_and_forces([8, 1, 1], quantity)
        assert energy == pytest.approx(plain[0], abs=1e-5)
        assert forces == pytest.approx(plain[1], abs=1e-5)


@pytest.mark.parametrize("periodic", [False, True])
@all_backends
@all_platforms
def test_positions_that_are_not_finite(
    platform: str, backend: str, periodic: bool, random_model: Path
) -> None:
    """They end in an error; on a GPU, which nobody waits for, perhaps in NaN."""
    context = context_of(
        system_of(random_model, backend, "double", 2, periodic), platform
    )
    for wrong in (np.nan, np.inf):
        positions = positions_of(2)
        positions[4, 1] = wrong
        if platform in ("Reference", "CPU"):
            with pytest.raises(openmm.OpenMMException, match="NaN|non-finite"):
                run(context, positions)
        else:
            with contextlib.suppress(openmm.OpenMMException):
                assert not np.isfinite(run(context, positions)[0])
    # The Context works afterwards.
    expected = eager(symbols_of(2), positions_of(2), BOX if periodic else None)
    assert_same(run(context, positions_of(2)), expected, TOLERANCE["double"])


@all_backends
def test_atoms_on_top_of_each_other(backend: str, random_model: Path) -> None:
    for periodic in (False, True):
        context = context_of(system_of(random_model, backend, "double", 2, periodic))
        positions = positions_of(2)
        positions[4] = positions[1]
        energy, forces = run(context, positions)
        assert energy > 1e3
        assert np.isfinite(forces).all()

"""The model without a System: Evaluator, and the calculator over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import unit
from random_model import BOX, WATER, topology_of

from openmm_se3 import Evaluator, SE3Calculator, SE3Potential
from openmm_se3.force import atoms as atoms_module


def test_box_vectors_may_have_a_unit(smallest_model: Path) -> None:
    evaluator = Evaluator(smallest_model)
    box = np.array([[5.0, 0, 0], [0.5, 5.2, 0], [0.2, -0.4, 5.5]])
    expected, _ = evaluator.energy_and_forces([8, 1, 1], WATER, box)
    free, _ = evaluator.energy_and_forces([8, 1, 1], WATER)
    assert abs(expected - free) > 1e-6
    vectors = [openmm.Vec3(*row) * 0.1 * unit.nanometer for row in box]
    for given in (0.1 * box * unit.nanometer, vectors, box.tolist()):
        found, _ = evaluator.energy_and_forces([8, 1, 1], WATER, given)
        assert found == pytest.approx(expected, abs=1e-6)


def test_it_agrees_with_the_potential(smallest_model: Path) -> None:
    evaluator = Evaluator(smallest_model, precision="double")
    potential = SE3Potential(smallest_model, precision="double")
    for box in (None, BOX):
        energy, forces = evaluator.energy_and_forces([8, 1, 1], WATER, box)
        expected, expected_forces = potential.energy_and_forces(
            ["O", "H", "H"], WATER, box
        )
        assert energy == expected
        np.testing.assert_array_equal(forces, expected_forces)
    atoms = Atoms("OHH", WATER, calculator=SE3Calculator(evaluator))
    assert (
        atoms.get_potential_energy() == evaluator.energy_and_forces([8, 1, 1], WATER)[0]
    )
    with pytest.warns(DeprecationWarning, match="energy_and_forces"):
        assert evaluator(["O", "H", "H"], WATER, BOX)[0] == energy


def test_what_is_wrong_is_named(smallest_model: Path) -> None:
    evaluator = Evaluator(smallest_model)
    with pytest.raises(ValueError, match="atom 1 is 'Xx'"):
        evaluator.energy_and_forces(["O", "Xx", "H"], WATER)
    with pytest.raises(ValueError, match="atom 2 is C"):
        evaluator.energy_and_forces(["O", "H", "C"], WATER)
    with pytest.raises(ValueError, match="at least one"):
        evaluator.energy_and_forces([], np.zeros((0, 3)))
    with pytest.raises(ValueError, match="'half'"):
        Evaluator(smallest_model, precision="half")


def test_the_atoms_of_a_system_are_checked_once(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = SE3Potential(smallest_model)
    topology = topology_of(["O", "H", "H"])
    calls = []
    species_of = atoms_module.species_of
    monkeypatch.setattr(
        atoms_module, "species_of", lambda *a: calls.append(a) or species_of(*a)
    )
    potential.createSystem(topology)
    assert len(calls) == 1
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    potential.createMixedSystem(topology, system, [0, 1, 2])
    assert len(calls) == 2

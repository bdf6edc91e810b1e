"""The System that a potential creates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app, unit
from random_model import (
    BOX,
    SELF_ENERGIES,
    SMALLEST,
    WATER,
    topology_of,
)
from water_potentials import (
    TOLERANCE,
    all_backends,
    all_platforms,
    assert_same,
    carbon_and_water,
    context_of,
    eager,
    positions_of,
    potential_of,
    run,
    symbols_of,
    system_of,
)


def test_the_system_holds_masses_box_and_force(random_model: Path) -> None:
    potential = potential_of(random_model, "pythonforce", "single")
    topology = topology_of(symbols_of(2), BOX)
    system = potential.createSystem(topology, removeCMMotion=True)
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(6)]
    assert masses == pytest.approx([15.99943, 1.007947, 1.007947] * 2)
    vectors = system.getDefaultPeriodicBoxVectors()
    rows = [vector.value_in_unit(unit.angstrom) for vector in vectors]
    assert np.array(rows) == pytest.approx(BOX)
    assert system.usesPeriodicBoundaryConditions()
    names = [force.getName() for force in system.getForces()]
    assert names == ["SE3Potential", "CMMotionRemover"]
    assert system.getNumConstraints() == 0
    assert not potential.createSystem(
        topology_of(symbols_of(1))
    ).usesPeriodicBoundaryConditions()


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "periodic"])
@all_backends
@all_platforms
def test_some_atoms_in_any_order(
    platform: str, backend: str, box: np.ndarray | None, smallest_model: Path
) -> None:
    symbols, positions, atoms = carbon_and_water()
    topology = topology_of(symbols, box)
    system = openmm.System()
    for symbol in symbols:
        system.addParticle(app.Element.getBySymbol(symbol).mass)
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*(box * unit.angstrom))
    potential = potential_of(smallest_model, backend, "double")
    potential.addForces(system, topology, atoms=atoms)
    energy, forces = run(context_of(system, platform), positions)
    expected, expected_forces = eager(
        ["H", "O", "H"], positions[atoms], box, **SMALLEST
    )
    assert energy == pytest.approx(expected, abs=1e-9)
    assert np.abs(forces[atoms] - expected_forces).max() < 1e-9
    assert not forces[[0, 2, 4]].any()


@all_backends
def test_beside_other_forces_in_a_group_of_its_own(
    backend: str, smallest_model: Path
) -> None:
    potential = potential_of(smallest_model, backend, "double")
    topology = topology_of(symbols_of(1))
    system = openmm.System()
    for symbol in symbols_of(1):
        system.addParticle(app.Element.getBySymbol(symbol).mass)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.1, 1e5)
    system.addForce(bond)
    potential.addForces(system, topology, forceGroup=7)
    assert [force.getForceGroup() for force in system.getForces()] == [0, 7]
    context = context_of(system)
    expected = eager(symbols_of(1), WATER, **SMALLEST)
    assert_same(run(context, WATER, groups={7}), expected, TOLERANCE["double"])
    bonded, _ = run(context, WATER, groups={0})
    together, _ = run(context, WATER)
    assert bonded > 1e-3
    assert together == pytest.approx(bonded + expected[0], abs=1e-9)


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "periodic"])
@all_backends
def test_total_energies(
    backend: str, box: np.ndarray | None, smallest_model: Path
) -> None:
    potential = potential_of(smallest_model, backend, "single")
    topology = topology_of(symbols_of(2), box)
    results = [
        run(context_of(potential.createSystem(topology, energy=kind)), positions_of(2))
        for kind in ("interaction", "total")
    ]
    self_energies = 2 * (SELF_ENERGIES["O"] + 2 * SELF_ENERGIES["H"])
    difference = results[1][0] - results[0][0]
    # Much more exact than float32, whose rounding is 2e-4 eV here.
    assert difference == pytest.approx(self_energies, abs=1e-9)
    assert np.array_equal(results[0][1], results[1][1])


@all_backends
@all_platforms
def test_a_lone_atom_has_its_self_energy(
    platform: str, backend: str, smallest_model: Path
) -> None:
    potential = potential_of(smallest_model, backend, "double")
    for box in (None, 50.0 * np.eye(3)):
        system = potential.createSystem(topology_of(["O"], box), energy="total")
        energy, forces = run(context_of(system, platform), np.ones((1, 3)))
        assert energy == pytest.approx(SELF_ENERGIES["O"], abs=1e-9)
        assert not forces.any()


def test_atoms_out_of_reach_have_no_energy(random_model: Path) -> None:
    positions = 100.0 * np.arange(18.0).reshape(6, 3)
    context = context_of(system_of(random_model, "torchforce", "double", 2, False))
    energy, forces = run(context, positions)
    assert energy == pytest.approx(0.0, abs=1e-12)
    assert not forces.any()

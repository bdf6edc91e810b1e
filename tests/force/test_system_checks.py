"""Systems that are refused or warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from random_model import (
    SMALLEST,
    WATER,
    topology_of,
)
from water_potentials import (
    assert_same,
    carbon_and_water,
    context_of,
    eager,
    positions_of,
    potential_of,
    run,
    symbols_of,
)

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_topology
from openmm_se3.torchscript import build as module
from openmm_se3.torchscript.build import DENSE_ATOMS


def system_with_masses(symbols: list[str]) -> openmm.System:
    system = openmm.System()
    for symbol in symbols:
        system.addParticle(app.Element.getBySymbol(symbol).mass)
    return system


def test_unknown_elements_are_named(potential: SE3Potential) -> None:
    message = r"atom 2 is C, which the model 'random' does not know.*\['H', 'O'\]"
    with pytest.raises(ValueError, match=message):
        potential.createSystem(topology_of(["O", "H", "C"]))
    with pytest.raises(ValueError, match=message):
        potential.energy_and_forces([8, 1, 6], np.zeros((3, 3)))
    symbols, _, _ = carbon_and_water()
    system = system_with_masses(symbols)
    with pytest.raises(ValueError, match="atom 4 is C"):
        potential.addForces(system, topology_of(symbols), atoms=[3, 4])
    assert system.getNumForces() == 0


def test_atoms_without_an_element_are_named(potential: SE3Potential) -> None:
    topology = topology_of(symbols_of(1))
    residue = next(topology.residues())
    topology.addAtom("M", None, residue)
    with pytest.raises(ValueError, match=r"atom 3 \(M of MOL 1\) has no element"):
        potential.createSystem(topology)


def test_missing_hydrogens_and_atoms_are_warned_of() -> None:
    potential = SE3Potential("water", backend="pythonforce")
    with pytest.warns(UserWarning, match="none of the model's 2 atoms is hydrogen"):
        potential.createSystem(topology_of(["O", "O"]))
    with pytest.warns(UserWarning, match="charge of 0 its atoms have 19 electrons, wh"):
        potential.createSystem(topology_of(["O", "H", "H", "O", "H"]))
    potential.createSystem(topology_of(["O"]))  # atoms on their own are no mistake
    potential.createSystem(topology_of(symbols_of(2)))


def test_atoms_without_mass_stay_and_act(smallest_model: Path) -> None:
    potential = potential_of(smallest_model, "torchforce", "double")
    system = potential.createSystem(topology_of(symbols_of(2)))
    for index in range(3):
        system.setParticleMass(index, 0.0)
    context = context_of(system)
    positions = positions_of(2)
    result = run(context, positions)
    assert_same(result, eager(symbols_of(2), positions, **SMALLEST), 1e-9)
    context.getIntegrator().step(3)
    state = context.getState(positions=True)
    moved = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom) - positions
    assert np.abs(moved[:3]).max() < 1e-9 < np.abs(moved[3:]).max()


def test_repartitioned_hydrogen_masses_change_no_energy(smallest_model: Path) -> None:
    potential = potential_of(smallest_model, "torchforce", "double")
    system = potential.createSystem(topology_of(symbols_of(2)))
    positions = positions_of(2)
    expected = run(context_of(system), positions)
    for index, symbol in enumerate(symbols_of(2)):
        system.setParticleMass(index, 3.0 if symbol == "H" else 12.0)
    context = context_of(system)
    assert_same(run(context, positions), expected, 1e-12)
    before = context.getState(energy=True, forces=True).getPotentialEnergy()
    context.getIntegrator().step(20)
    state = context.getState(energy=True)
    moved = abs((state.getPotentialEnergy() - before)._value)
    drift = abs((state.getPotentialEnergy() + state.getKineticEnergy() - before)._value)
    assert drift < 0.02 * moved


def test_virtual_sites_are_refused(potential: SE3Potential) -> None:
    system = system_with_masses(symbols_of(1))
    system.addParticle(0.0)
    system.setVirtualSite(3, openmm.TwoParticleAverageSite(0, 1, 0.5, 0.5))
    topology = topology_of([*symbols_of(1), "H"])
    with pytest.raises(ValueError, match="particle 3 is a virtual site"):
        potential.addForces(system, topology)
    potential.addForces(system, topology, atoms=[0, 1, 2])


def test_constrained_atoms_are_refused(potential: SE3Potential) -> None:
    symbols, _, atoms = carbon_and_water()
    topology = topology_of(symbols)
    system = system_with_masses(symbols)
    system.addConstraint(0, 2, 0.15)  # of carbons, which are not the model's
    potential.addForces(system, topology, atoms=atoms)
    system.addConstraint(3, 5, 0.1)
    with pytest.raises(ValueError, match="3 and 5 are constrained.*rigidWater=False"):
        potential.addForces(system, topology, atoms=atoms)


def test_numbers_of_atoms_must_agree(potential: SE3Potential) -> None:
    system = system_with_masses(symbols_of(2))
    with pytest.raises(
        ValueError, match="topology has 3 atoms, the System 6 particles"
    ):
        potential.addForces(system, topology_of(symbols_of(1)))


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([], "no atoms"),
        ([0, 1, 0], "atom 0 is given twice"),
        ([0, 3], "atom index 3 is out of range: the topology has 3 atoms"),
        ([-1], "atom index -1 is out of range"),
        ([0, 1.5], "1.5 in atoms is no atom"),
        ([0, float("nan")], "nan in atoms is no atom"),
        (["1"], "'1' in atoms is no atom"),
        ([0, True], "True in atoms is no atom"),
        ([True, False], "mask in atoms has 2 booleans, the System 3 particles"),
        ([False, False, False], "no atoms"),
    ],
)
def test_wrong_choices_of_atoms(
    atoms: list[Any], message: str, potential: SE3Potential
) -> None:
    system = system_with_masses(symbols_of(1))
    with pytest.raises(ValueError, match=message):
        potential.addForces(system, topology_of(symbols_of(1)), atoms=atoms)
    assert system.getNumForces() == 0


@pytest.mark.parametrize(
    "choose",
    [
        lambda topology: [5, 3, 1],
        lambda topology: np.array([5, 3, 1]),
        lambda topology: [5.0, 3, np.float64(1.0)],
        lambda topology: [list(topology.atoms())[i] for i in (5, 3, 1)],
        lambda topology: np.array([False, True, False, True, False, True]),
        lambda topology: [False, True, False, True, False, True],
    ],
    ids=["list", "array", "floats", "atoms", "mask", "list mask"],
)
def test_ways_to_choose_atoms(
    choose: Callable[[app.Topology], Any], smallest_model: Path
) -> None:
    symbols, positions, atoms = carbon_and_water()
    topology, system = topology_of(symbols), system_with_masses(symbols)
    potential = potential_of(smallest_model, "pythonforce", "double")
    potential.addForces(system, topology, atoms=choose(topology))
    energy, _ = run(context_of(system), positions)
    expected, _ = eager(["H", "O", "H"], positions[atoms], **SMALLEST)
    assert energy == pytest.approx(expected, abs=1e-9)


def test_a_second_potential_on_an_atom_is_warned_of(potential: SE3Potential) -> None:
    topology = topology_of(symbols_of(2))
    system = system_with_masses(symbols_of(2))
    potential.addForces(system, topology, atoms=[0, 1, 2])
    potential.addForces(system, topology, atoms=[5, 3, 4])  # as it should be
    potential.addForces(system, topology, scale="half")  # as it can be meant
    names = [force.getName() for force in system.getForces()]
    bare = "SE3Potential"
    assert names == [f"{bare} of atoms 0-2", f"{bare} of atoms 3-5", bare]
    for index in range(2):
        copy = openmm.XmlSerializer.clone(system)
        copy.removeForce(2)
        copy.removeForce(index)
        # Those of the other are free.
        potential.addForces(copy, topology, atoms=range(3 * index, 3 * index + 3))
        with pytest.warns(UserWarning, match="SE3Potential already on atom.*twice"):
            potential.addForces(copy, topology, atoms=[4, 0, 2, 3, 5, 1])


def test_a_mixed_system_of_the_same_atoms_is_refused(potential: SE3Potential) -> None:
    topology = topology_of(symbols_of(2))
    system = system_with_masses(symbols_of(2))
    mixed = potential.createMixedSystem(topology, system, atoms=[0, 1, 2])
    with pytest.raises(ValueError, match="SE3Potential already on atoms 0, 1, 2: make"):
        potential.createMixedSystem(topology, mixed, atoms=[0, 1, 2])
    potential.createMixedSystem(topology, mixed, atoms=[3, 4, 5])


def test_a_molecule_that_is_cut_is_warned_of(potential: SE3Potential) -> None:
    topology = water_topology(2)
    system = system_with_masses(symbols_of(2))
    potential.addForces(system, topology, atoms=[3, 4, 5])
    # One H of the other molecule; the electrons are even in number.
    with pytest.warns(UserWarning, match="within a molecule, at the bond.* 1 more"):
        potential.addForces(system_with_masses(symbols_of(2)), topology, [0, 1, 5])


@pytest.mark.parametrize("topology", [None, WATER.tolist()])
def test_what_is_no_topology_is_refused(topology: Any, potential: SE3Potential) -> None:
    message = f"openmm.app.Topology.*got .*{type(topology).__qualname__}"
    with pytest.raises(TypeError, match=message):
        potential.createSystem(topology)
    with pytest.raises(TypeError, match=message):
        potential.addForces(system_with_masses(symbols_of(1)), topology)


@pytest.mark.parametrize("n_molecules", [1, DENSE_ATOMS // 3 + 1])
def test_few_atoms_are_built_with_one_thread(
    n_molecules: int, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    check = module.require_equal

    def watched(*arguments: Any) -> float:
        threads.append(torch.get_num_threads())
        return check(*arguments)

    monkeypatch.setattr(module, "require_equal", watched)
    potential = potential_of(smallest_model, "torchforce", "single")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        potential.createSystem(topology_of(symbols_of(n_molecules)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


def test_an_empty_topology_is_refused(potential: SE3Potential) -> None:
    with pytest.raises(ValueError, match="no atoms"):
        potential.createSystem(app.Topology())


def test_wrong_arguments(potential: SE3Potential, random_model: Path) -> None:
    topology = topology_of(symbols_of(1))
    with pytest.raises(ValueError, match="'interaction' or 'total', got 'free'"):
        potential.createSystem(topology, energy="free")
    for group in (-1, 32):
        system = system_with_masses(symbols_of(1))
        with pytest.raises(
            ValueError, match=f"forceGroup must be 0 to 31, got {group}"
        ):
            potential.addForces(system, topology, forceGroup=group)
    with pytest.raises(
        ValueError, match=r"precision .*\['single', 'double'\], got 'half'"
    ):
        SE3Potential(random_model, precision="half")
    with pytest.raises(ValueError, match="backend must be 'auto' or .*got 'cuda'"):
        SE3Potential(random_model, backend="cuda")
    with pytest.raises(FileNotFoundError, match="no model 'watre'"):
        SE3Potential("watre")

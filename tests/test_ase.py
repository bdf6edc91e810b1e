"""The ASE calculator and single points: molecules, boxes, stress, charge and spin."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from evaluator import evaluate
from random_model import BOX, WATER, topology_of, water_cluster, write_random_weights

from openmm_se3 import Evaluator, SE3Calculator, SE3Potential
from openmm_se3.compiled.library import find_compiler
from openmm_se3.force import evaluator
from openmm_se3.force.memory import NotEnoughMemoryError
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import all_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.torchscript.build import DENSE_ATOMS
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

SYMBOLS = ["O", "H", "H"]


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> SE3Potential:
    folder = tmp_path_factory.mktemp("models") / "random"
    return SE3Potential(write_random_weights(folder), precision="double")


def water(potential: SE3Potential, **options: Any) -> Atoms:
    return Atoms(SYMBOLS, WATER, calculator=potential.ase_calculator(), **options)


def cluster(potential: SE3Potential, n_molecules: int, **options: Any) -> Atoms:
    _, positions = water_cluster(n_molecules)
    return Atoms(
        n_molecules * SYMBOLS,
        positions.numpy(),
        calculator=potential.ase_calculator(),
        **options,
    )


def test_a_molecule(potential: SE3Potential) -> None:
    atoms = water(potential)
    before = atoms.get_potential_energy()
    atoms.positions[1] *= 1.05
    after = atoms.get_potential_energy()
    assert before != after
    energy, forces = potential.energy_and_forces(atoms.numbers, atoms.positions)
    assert after == energy
    assert np.array_equal(atoms.get_forces(), forces)


def test_the_energy_consistent_with_forces_is_the_energy(
    potential: SE3Potential,
) -> None:
    atoms = water(potential)
    consistent = atoms.get_potential_energy(force_consistent=True)
    assert consistent == atoms.get_potential_energy()


def test_unknown_elements_are_refused(potential: SE3Potential) -> None:
    atoms = Atoms("CO", [[0, 0, 0], [1.1, 0, 0]], calculator=potential.ase_calculator())
    with pytest.raises(ValueError, match="atom 0 is C"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("n_molecules", [8, 30])
def test_a_box_has_the_energy_of_its_system(
    potential: SE3Potential, n_molecules: int
) -> None:
    """Also where atoms lie outside of it, and it is smaller than two cutoffs."""
    edge = BOX if n_molecules == 8 else 1.5 * BOX
    atoms = cluster(potential, n_molecules, cell=edge, pbc=True)
    atoms.positions += edge[0] - 2.0 * edge[2]
    system = potential.createSystem(topology_of(n_molecules * SYMBOLS, edge))
    energy, forces = evaluate(system, atoms.positions)
    assert atoms.get_potential_energy() == pytest.approx(energy / EV_TO_KJ_PER_MOL)
    expected = forces / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-9)


def test_a_box_in_any_orientation(potential: SE3Potential) -> None:
    atoms = cluster(potential, 2, cell=BOX, pbc=True)
    energy, stress = atoms.get_potential_energy(), atoms.get_stress(voigt=False)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    atoms.set_cell(atoms.cell.array @ rotation.T)
    atoms.positions = atoms.positions @ rotation.T
    assert atoms.get_potential_energy() == pytest.approx(energy)
    expected = rotation @ stress @ rotation.T
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected, atol=1e-10)


def test_stress_is_the_slope_of_the_energy(potential: SE3Potential) -> None:
    """By finite differences, in ASE's order xx, yy, zz, yz, xz, xy and sign."""
    atoms = cluster(potential, 2, cell=BOX, pbc=True)
    stress = atoms.get_stress()
    assert np.abs(stress).min() > 1e-6
    size, cell, volume = 1e-4, atoms.cell.array.copy(), atoms.get_volume()
    for index, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * size
            strain[b, a] += 0.5 * sign * size
            moved = atoms.copy()
            moved.set_cell(cell @ strain, scale_atoms=True)
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2.0 * size) / volume
        assert stress[index] == pytest.approx(slope, abs=1e-7)


def test_stress_needs_a_whole_box_and_a_conservative_model(
    potential: SE3Potential, tmp_path: Path
) -> None:
    for pbc in (False, [True, True, False]):
        with pytest.raises(PropertyNotImplementedError):
            water(potential, cell=10.0 * np.eye(3), pbc=pbc).get_stress()
    direct = write_random_weights(tmp_path / "direct", force_mode="direct")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = SE3Potential(direct)
    with pytest.raises(PropertyNotImplementedError):
        water(other, cell=10.0 * np.eye(3), pbc=True).get_stress()


@pytest.mark.parametrize("pbc", [[True, True, False], [False, True, False]])
def test_open_directions_have_no_images(potential: SE3Potential, pbc: list) -> None:
    """As in a box whose open directions are long."""
    cell = BOX.copy()
    atoms = cluster(potential, 2, cell=cell, pbc=pbc)
    long = cell.copy()
    for index in np.flatnonzero(~np.array(pbc)):
        others = np.delete(np.eye(3), index, axis=0)
        long[index] = 60.0 * np.cross(*others)
        cell[index] = 0.0
    wide = cluster(potential, 2, cell=long, pbc=True)
    assert wide.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(wide.get_forces(), atoms.get_forces(), atol=1e-10)
    # Vectors of open directions do not matter.
    atoms.set_cell(cell)
    assert wide.get_potential_energy() == pytest.approx(atoms.get_potential_energy())


def test_a_periodic_direction_needs_a_vector(potential: SE3Potential) -> None:
    atoms = water(potential, cell=[0.0, 5.0, 5.0], pbc=True)
    with pytest.raises(ValueError, match="set atoms.cell"):
        atoms.get_potential_energy()


# --------------------------------------------------------------- charge and spin


@pytest.fixture(scope="module")
def singlet() -> SE3Potential:
    """A potential of neutral molecules without unpaired electrons."""
    potential = SE3Potential("water")
    level = potential.metadata["level_of_theory"]
    assert (level["charge"], level["spin"]) == (0, 0)
    return potential


@pytest.mark.parametrize(
    ("key", "value"), [("charge", 2), ("charge", -1), ("spin", 2), ("multiplicity", 3)]
)
def test_other_charges_and_spins_are_refused(
    singlet: SE3Potential, key: str, value: int
) -> None:
    atoms = water(singlet)
    atoms.info[key] = value
    with pytest.raises(ValueError, match=f"{key}.* is {value}"):
        atoms.get_potential_energy()
    atoms.info[key] = {"charge": 0, "spin": 0, "multiplicity": 1}[key]
    atoms.get_potential_energy()
    atoms.info["spin"] = 1  # a multiplicity
    atoms.rattle()
    atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("total_charge", 1, 0),
        ("Charge", 2, "0"),
        ("spin_multiplicity", 3, 1),
        ("total_spin", 2, 0),
        ("unpaired_electrons", 2, 0.0),
        ("charge", np.array([1]), np.array([0])),
        ("charge", "+1", "+0"),
        ("charge", 0.4, -0.0),
        ("charge", "neutral", np.int64(0)),
    ],
)
def test_states_are_refused_under_every_name(
    key: str, wrong: object, right: object, smallest_model: Path
) -> None:
    """Also where the energy of these positions is known already."""
    atoms = Atoms("OH2", WATER, calculator=SE3Calculator(Evaluator(smallest_model)))
    energy = atoms.get_potential_energy()
    atoms.info[key] = wrong
    with pytest.raises(ValueError, match=key):
        atoms.get_potential_energy()
    atoms.info[key] = right
    assert atoms.get_potential_energy() == energy


def test_initial_charges_and_moments_of_another_state_are_refused(
    singlet: SE3Potential,
) -> None:
    atoms = water(singlet)
    atoms.set_initial_charges([-0.8, 0.4, 0.4])  # partial charges are no state
    atoms.get_potential_energy()
    atoms.set_initial_charges([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="charges .* 1;"):
        atoms.get_potential_energy()
    atoms.set_initial_charges([0.0, 0.0, 0.0])
    atoms.set_initial_magnetic_moments([2.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="moments .* 2;"):
        atoms.get_potential_energy()


def test_an_odd_number_of_electrons_is_warned_of_once(singlet: SE3Potential) -> None:
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], calculator=singlet.ase_calculator())
    with pytest.warns(UserWarning, match="9 electrons"):
        atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.rattle()
        atoms.get_potential_energy()


# ------------------------------------------------------- implementations and size


def test_many_atoms_take_a_neighbor_list(
    potential: SE3Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_molecules = DENSE_ATOMS // 3 + 1
    species, x = water_cluster(n_molecules)
    network = load_model_network(potential)
    energy, forces = ForceField(network)(x, species, all_pairs(len(x)))
    monkeypatch.setattr("openmm_se3.single_point.all_pairs", None)
    numbers = n_molecules * [8, 1, 1]
    found, found_forces = potential.energy_and_forces(numbers, x.numpy())
    assert found == pytest.approx(energy.item())
    np.testing.assert_allclose(found_forces, forces.numpy(), atol=1e-9)


def load_model_network(potential: SE3Potential) -> torch.nn.Module:
    return potential.model.network(torch.float64)


def test_too_little_memory_is_said_before_it_is_taken(
    potential: SE3Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openmm_se3.force.memory.available_memory", lambda: 1e-6)
    monkeypatch.setattr(evaluator, "evaluate", None)
    monkeypatch.setattr(evaluator, "strain_derivative", None)
    _, x = water_cluster(DENSE_ATOMS)
    numbers = DENSE_ATOMS * [8, 1, 1]
    for box in (None, 20.0 * np.eye(3)):
        with pytest.raises(NotEnoughMemoryError, match=f"{len(numbers)} atoms"):
            potential.energy_and_forces(numbers, x.numpy(), box)
    with pytest.raises(NotEnoughMemoryError):
        cluster(potential, DENSE_ATOMS, cell=20.0 * np.eye(3), pbc=True).get_stress()


@pytest.mark.parametrize("box", [np.eye(2), np.nan * np.eye(3), np.zeros((3, 3))])
def test_what_is_no_box_is_refused(potential: SE3Potential, box: np.ndarray) -> None:
    with pytest.raises(ValueError, match="box"):
        potential.energy_and_forces([8, 1, 1], WATER, box)


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler on this machine")
def test_the_implementation_in_use_computes_single_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = SE3Potential("water", implementation="compiled")
    network = load_model("water").network(torch.float64)
    single = {box is None: box for box in (None, BOX + 4.0 * np.eye(3))}.values()
    expected = {}
    for n_molecules in (1, 2):
        _, x = water_cluster(n_molecules)
        for index, box in enumerate(single):
            expected[n_molecules, index] = evaluator.evaluate(
                network, n_molecules * SYMBOLS, x.numpy(), box
            )
    monkeypatch.setattr(evaluator, "evaluate", None)  # by the network
    for n_molecules in (1, 2, 1):
        _, x = water_cluster(n_molecules)
        for index, box in enumerate(single):
            numbers = n_molecules * [8, 1, 1]
            energy, forces = compiled.energy_and_forces(numbers, x.numpy(), box)
            wanted, wanted_forces = expected[n_molecules, index]
            assert energy == pytest.approx(wanted, abs=1e-4)
            np.testing.assert_allclose(forces, wanted_forces, atol=1e-4)


def test_compiled_code_that_fails_its_check_is_not_used(
    monkeypatch: pytest.MonkeyPatch, smallest_model: Path
) -> None:
    from openmm_se3.torchscript import build

    def wrong(network: torch.nn.Module, precision: str) -> torch.jit.ScriptModule:
        return torch.jit.script(build.GenericForce(other))

    other = load_model(smallest_model).network(torch.float64)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setattr(build, "compiled_force", wrong)
    for module in (build, evaluator):
        monkeypatch.setattr(module, "compile_implementation", lambda *_: "compiled")
    monkeypatch.setattr(build, "_failed", set())
    network = load_model(smallest_model).network(torch.float64)
    expected, _ = evaluator.evaluate(network, SYMBOLS, WATER)
    topology = topology_of(SYMBOLS)
    for backend, at_once in (("torchforce", True), ("pythonforce", False)):
        build._failed.clear()
        potential = SE3Potential(smallest_model, precision="double", backend=backend)
        assert potential.implementation == "compiled"
        system = potential.createSystem(topology)
        known = "torchscript" if at_once else "compiled"
        assert potential.implementation == known
        energy, _ = evaluate(system, WATER)
        assert energy / EV_TO_KJ_PER_MOL == pytest.approx(expected)
        assert potential.implementation == "torchscript"
        assert "implementation='torchscript'" in repr(potential)
    # It is not tried again for this model, and what others have stays.
    monkeypatch.setattr(build, "compiled_force", None)
    other_system = SE3Potential(smallest_model, precision="double")
    assert other_system.implementation == "torchscript"
    other_system.createSystem(topology)
    assert SE3Potential(smallest_model).implementation == "compiled"
    # By itself too: the first single point finds it.
    build._failed.clear()
    monkeypatch.setattr(build, "compiled_force", wrong)
    single = evaluator.Evaluator(smallest_model, precision="double")
    assert single.energy_and_forces(SYMBOLS, WATER)[0] == pytest.approx(expected)
    assert single.implementation == "torchscript"

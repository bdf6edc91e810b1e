"""The force in OpenMM: every backend and platform against the network and ASE."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from evaluator import PLATFORMS, evaluate
from openmm import app, unit
from random_model import (
    BOX,
    SELF_ENERGIES,
    SMALLEST,
    WATER,
    random_network,
    topology_of,
    water_cluster,
    write_random_model,
)

from openmm_se3 import SE3Potential
from openmm_se3.force import plugin
from openmm_se3.force.backends import BACKENDS
from openmm_se3.model_file import WEIGHTS, contents, load_model
from openmm_se3.neighbors import all_pairs
from openmm_se3.simulation import water_topology
from openmm_se3.torchscript import build as module
from openmm_se3.torchscript.build import DENSE_ATOMS

TOLERANCE = {"single": 5e-5, "double": 1e-9}  # eV and eV/A
DTYPE = {"single": torch.float32, "double": torch.float64}
KJ_PER_MOL = 96.48533212331  # in 1 eV
ROOT = Path(plugin.__file__).parents[2]

Result = tuple[float, np.ndarray]

all_platforms = pytest.mark.parametrize("platform", PLATFORMS)
all_backends = pytest.mark.parametrize("backend", BACKENDS)
both_precisions = pytest.mark.parametrize("precision", TOLERANCE)


def symbols_of(n_molecules: int) -> list[str]:
    return ["O", "H", "H"] * n_molecules


def positions_of(n_molecules: int, seed: int = 0) -> np.ndarray:
    """Return positions [3 n_molecules, 3], A."""
    array: np.ndarray = water_cluster(n_molecules, seed)[1].numpy()
    return array


@functools.cache
def potential_of(model: Path, backend: str, precision: str) -> SE3Potential:
    return SE3Potential(model, backend=backend, precision=precision)


@functools.cache
def system_of(
    model: Path, backend: str, precision: str, n_molecules: int, periodic: bool
) -> openmm.System:
    topology = topology_of(symbols_of(n_molecules), BOX if periodic else None)
    return potential_of(model, backend, precision).createSystem(topology)


def context_of(system: openmm.System, platform: str = "Reference") -> openmm.Context:
    integrator = openmm.VerletIntegrator(0.0005)
    properties = {"Precision": "double"} if platform in ("CUDA", "OpenCL") else {}
    return openmm.Context(
        system, integrator, openmm.Platform.getPlatformByName(platform), properties
    )


def run(context: openmm.Context, positions: np.ndarray, **selection: Any) -> Result:
    """Return energy (eV) and forces (eV/A) in OpenMM at positions in A."""
    context.setPositions(positions * unit.angstrom)
    state = context.getState(getEnergy=True, getForces=True, **selection)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True)
    forces = forces.value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
    return energy / KJ_PER_MOL, forces / KJ_PER_MOL


def eager(
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None = None,
    precision: str = "double",
    **changes: Any,
) -> Result:
    """Return what the network gives, with the edges that ASE finds."""
    network = random_network(torch.float32, **changes)
    if precision == "double":
        double = type(network)(network.config)
        double.load_state_dict(network.state_dict())
        network = double.eval()
    species = torch.tensor(["HO".index(symbol) for symbol in symbols])
    x = torch.tensor(positions)
    if box is None:
        energy, forces = network.energy_and_forces(x, species, *all_pairs(len(x)))
    else:
        atoms = Atoms(symbols, positions, cell=box, pbc=True)
        i, j, s = neighbor_list("ijS", atoms, 4.0)
        centre, neighbour = torch.tensor(i), torch.tensor(j)
        shifts = torch.tensor(s @ box)
        energy, forces = network.energy_and_forces(
            x, species, centre, neighbour, shifts
        )
    return energy.item(), forces.double().numpy()


def assert_same(one: Result, other: Result, tolerance: float) -> None:
    assert np.isfinite(one[0]) and np.isfinite(one[1]).all()
    assert abs(one[0] - other[0]) < tolerance * max(1.0, len(other[1]) / 10.0)
    assert np.abs(one[1] - other[1]).max() < tolerance


# ------------------------------------------------------------ right numbers


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


# ------------------------------------------------------------ the System


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


def carbon_and_water() -> tuple[list[str], np.ndarray, list[int]]:
    """Return symbols and positions of a mixture, and the water's atoms out of order."""
    symbols = ["C", "H", "C", "O", "C", "H"]
    positions = np.zeros((6, 3))
    positions[[3, 1, 5]] = WATER
    positions[[0, 2, 4]] = [[1.5, 1.0, 1.0], [-1.5, 2.0, 0.4], [0.3, -1.2, 1.1]]
    return symbols, positions, [5, 3, 1]


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


# ------------------------------------------------------ copies and other processes

DESERIALIZE = """
import json, sys
import numpy, openmm
import openmm_se3
from evaluator import evaluate
openmm_se3.register_plugins()
results = []
for file, positions in json.loads(sys.argv[1]):
    system = openmm.XmlSerializer.deserialize(open(file).read())
    energy, forces = evaluate(system, numpy.array(positions))
    results.append([energy, forces.tolist()])
print(json.dumps(results))
"""


def test_xml_in_another_process(smallest_model: Path, tmp_path: Path) -> None:
    """A System written as XML holds the whole model and opens once we are imported."""
    jobs, expected = [], []
    for backend in BACKENDS:
        potential = potential_of(smallest_model, backend, "double")
        for n_molecules, box, scale in ((2, None, None), (8, BOX, "lambda_ml")):
            topology = topology_of(symbols_of(n_molecules), box)
            system = potential.createSystem(topology, scale=scale)
            positions = positions_of(n_molecules)
            file = tmp_path / f"{backend}-{n_molecules}.xml"
            file.write_text(openmm.XmlSerializer.serialize(system))
            jobs.append((str(file), positions.tolist()))
            energy, forces = evaluate(system, positions)
            expected.append([energy, forces.tolist()])
    helpers = Path(__file__).parents[1] / "helpers"
    path = os.pathsep.join([str(ROOT), str(helpers)])
    process = subprocess.run(
        [sys.executable, "-c", DESERIALIZE, json.dumps(jobs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == expected  # to the bit


@pytest.mark.parametrize(
    "copied",
    [
        openmm.XmlSerializer.clone,
        copy.deepcopy,
        lambda system: pickle.loads(pickle.dumps(system)),
    ],
    ids=["clone", "deepcopy", "pickle"],
)
@all_backends
def test_copies_of_a_system_are_the_same(
    backend: str, copied: Callable[[openmm.System], openmm.System], smallest_model: Path
) -> None:
    system = system_of(smallest_model, backend, "double", 2, False)
    energy, forces = evaluate(copied(system), positions_of(2))
    expected, expected_forces = evaluate(system, positions_of(2))
    assert energy == expected
    assert np.array_equal(forces, expected_forces)


def test_damage_of_the_model_in_xml_is_seen(smallest_model: Path) -> None:
    """OpenMM reports it when the model is first called, and lives on."""
    system = system_of(smallest_model, "pythonforce", "double", 1, False)
    weights = contents(load_model(smallest_model))[WEIGHTS].hex()
    text = openmm.XmlSerializer.serialize(system)
    assert text.count(weights) == 1
    other = weights[:-1] + ("0" if weights[-1] != "0" else "1")
    damaged = openmm.XmlSerializer.deserialize(text.replace(weights, other))
    with pytest.raises(openmm.OpenMMException, match="not match its SHA-256: damaged"):
        evaluate(damaged, WATER)


def test_a_pickled_potential(smallest_model: Path) -> None:
    potential = potential_of(smallest_model, "pythonforce", "single")
    other = pickle.loads(pickle.dumps(potential))
    energy, forces = other.energy_and_forces([8, 1, 1], WATER)
    expected, expected_forces = potential.energy_and_forces([8, 1, 1], WATER)
    assert energy == expected and np.array_equal(forces, expected_forces)


# ------------------------------------------------------------------ backends


@pytest.fixture
def without_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = "the plugin openmmtorch is not installed; fix: pip install it"
    monkeypatch.setattr(plugin, "torchforce_problem", lambda: cause)


def test_auto_takes_torchforce_where_it_works(random_model: Path) -> None:
    assert SE3Potential(random_model).backend == "torchforce"


def test_without_the_plugin_pythonforce_serves(
    without_plugin: None, smallest_model: Path
) -> None:
    with pytest.warns(UserWarning, match="not installed; fix: .*with pythonforce"):
        potential = SE3Potential(smallest_model, precision="double")
    assert potential.backend == "pythonforce"
    system = potential.createSystem(topology_of(symbols_of(2)))
    assert isinstance(system.getForce(0), openmm.PythonForce)
    expected = eager(symbols_of(2), positions_of(2), **SMALLEST)
    assert_same(run(context_of(system), positions_of(2)), expected, 1e-9)


def test_torchforce_asked_for_and_missing(
    without_plugin: None, random_model: Path
) -> None:
    with pytest.raises(plugin.PluginError, match="torchforce cannot be used.*fix:"):
        SE3Potential(random_model, backend="torchforce")


def test_no_backend_at_all(
    without_plugin: None, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "pythonforce_problem", lambda: "no PythonForce")
    with pytest.raises(
        plugin.PluginError, match="not installed.*; pythonforce.*: no Py"
    ):
        SE3Potential(random_model)


# ------------------------------------------------------------------- refusals


@pytest.fixture
def potential(random_model: Path) -> SE3Potential:
    return potential_of(random_model, "pythonforce", "single")


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


# ------------------------------------------------------------- direct forces


def test_direct_forces_reach_openmm(tmp_path: Path) -> None:
    model = write_random_model(
        tmp_path / "direct", **{**SMALLEST, "lmax": 1}, force_mode="direct"
    )
    for backend in BACKENDS:
        with pytest.warns(UserWarning, match="energy is not conserved: .* 'direct'"):
            potential = SE3Potential(model, backend=backend, precision="double")
        expected = potential.energy_and_forces([8, 1, 1], WATER)
        for box in (None, 30.0 * np.eye(3)):
            system = potential.createSystem(topology_of(symbols_of(1), box))
            assert_same(run(context_of(system), WATER), expected, 1e-9)


def test_a_direct_head_estimates_the_error_of_conservative_forces(
    tmp_path: Path,
) -> None:
    changes = {**SMALLEST, "lmax": 1}
    plain = SE3Potential(
        write_random_model(tmp_path / "plain", **changes), precision="double"
    )
    both = SE3Potential(
        write_random_model(tmp_path / "both", **changes, force_mode="both"),
        precision="double",
    )
    # OpenMM gets the conservative forces.
    expected = plain.energy_and_forces([8, 1, 1], WATER)
    system = both.createSystem(topology_of(symbols_of(1)))
    assert_same(run(context_of(system), WATER), expected, 1e-9)

    network = both.model.network(torch.float64)
    _, forces, direct = network.energy_and_both_forces(
        torch.tensor(WATER), torch.tensor([1, 0, 0]), *all_pairs(3)
    )
    estimate = both.force_error([8, 1, 1], WATER * unit.angstrom)
    np.testing.assert_allclose(estimate, (direct - forces).norm(dim=1), rtol=1e-12)
    assert estimate.shape == (3,) and estimate.min() > 1e-3
    with pytest.raises(ValueError, match="'plain' has conservative forces only"):
        plain.force_error([8, 1, 1], WATER)
    with pytest.raises(ValueError, match="atom 2 is C"):
        both.force_error([8, 1, 6], WATER)

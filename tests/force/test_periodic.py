"""Boxes: supercells, molecules as wholes, pressure, and boxes that cannot be."""

from __future__ import annotations

import warnings
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from evaluator import Evaluator, evaluate
from openmm import app, unit
from random_model import BOX, topology_of, water_cluster

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_topology
from openmm_se3.units import AVOGADRO

N_MOLECULES = 8
BAR = 1e5 * 1e-27 * AVOGADRO / 1e3  # kJ/mol/nm^3


def boxed_water(box: np.ndarray = BOX) -> tuple[app.Topology, np.ndarray]:
    """Return waters with bonds in a box, and positions [24, 3], A."""
    topology = water_topology(N_MOLECULES)
    topology.setPeriodicBoxVectors(box * unit.angstrom)
    return topology, water_cluster(N_MOLECULES)[1].numpy()


@pytest.fixture(scope="module")
def boxed(smallest_model: Path) -> openmm.System:
    topology, _ = boxed_water()
    return SE3Potential(smallest_model, precision="double").createSystem(topology)


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 1)])
def test_a_supercell_has_the_energy_of_its_cells(
    repeats: tuple[int, int, int], smallest_model: Path, boxed: openmm.System
) -> None:
    _, positions = boxed_water()
    energy, forces = evaluate(boxed, positions)
    cells = [np.array(index) @ BOX for index in np.ndindex(*repeats)]
    box = np.array(repeats)[:, None] * BOX
    symbols = ["O", "H", "H"] * (N_MOLECULES * len(cells))
    potential = SE3Potential(smallest_model, precision="double")
    larger = potential.createSystem(topology_of(symbols, box))
    result = evaluate(larger, np.concatenate([positions + cell for cell in cells]))
    assert result[0] == pytest.approx(len(cells) * energy, rel=1e-9)
    np.testing.assert_allclose(result[1], np.tile(forces, (len(cells), 1)), atol=1e-6)


# ----------------------------------------------------------- molecules and pressure


def test_openmm_knows_the_molecules(smallest_model: Path, boxed: openmm.System) -> None:
    molecules = Evaluator(boxed).context.getMolecules()
    assert [sorted(m) for m in molecules] == [
        [3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)
    ]
    # Bonds without strength add no energy.
    _, positions = boxed_water()
    bare = topology_of(["O", "H", "H"] * N_MOLECULES, BOX)
    potential = SE3Potential(smallest_model, precision="double")
    alone = potential.createSystem(bare)
    assert alone.getNumForces() == 1 and boxed.getNumForces() == 2
    energy, forces = evaluate(alone, positions)
    result = evaluate(boxed, positions)
    assert result[0] == energy and np.array_equal(result[1], forces)


def test_a_mixed_system_keeps_the_molecules_that_it_takes_over(
    waters, smallest_model: Path
) -> None:
    _, positions = waters
    topology = water_topology(3)
    topology.setPeriodicBoxVectors(np.eye(3) * 2.0 * unit.nanometer)
    classical = app.ForceField("tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.CutoffPeriodic,
        nonbondedCutoff=0.9,
        rigidWater=False,
    )
    potential = SE3Potential(smallest_model)
    mixed = potential.createMixedSystem(topology, classical, [0, 1, 2])
    evaluator = Evaluator(mixed)
    assert len(evaluator.context.getMolecules()) == 3
    assert np.isfinite(evaluator(positions)[0])


def with_barostat(system: openmm.System, pressure: float) -> openmm.System:
    """Return a copy with a barostat (bar, 300 K) as its last force."""
    copy = openmm.XmlSerializer.clone(system)
    barostat = openmm.MonteCarloBarostat(pressure, 300.0, 1)
    barostat.setRandomNumberSeed(5)
    copy.addForce(barostat)
    return copy


def test_pressure(smallest_model: Path, boxed: openmm.System) -> None:
    """What OpenMM computes is -dE/dV with molecules moved as wholes."""
    topology, positions = boxed_water()
    potential = SE3Potential(smallest_model, precision="double", backend="pythonforce")
    system = with_barostat(potential.createSystem(topology), 1.0)
    evaluator = Evaluator(system)
    evaluator(positions)
    evaluator.context.setVelocities(np.zeros_like(positions))
    barostat = system.getForce(system.getNumForces() - 1)
    pressure = barostat.computeCurrentPressure(evaluator.context)

    energies, volumes = [], []
    centers = positions.reshape(-1, 3, 3).mean(axis=1).repeat(3, axis=0)
    free = Evaluator(boxed)
    for scale in (1.001, 0.999):
        free.context.setPeriodicBoxVectors(*(0.1 * scale * BOX))
        energies.append(free(positions + (scale - 1.0) * centers)[0])
        volumes.append(np.linalg.det(0.1 * scale * BOX))
    expected = -(energies[0] - energies[1]) / (volumes[0] - volumes[1]) / BAR
    assert pressure.value_in_unit(unit.bar) == pytest.approx(expected, rel=1e-3)


def test_the_pressure_needs_pythonforce(boxed: openmm.System) -> None:
    """OpenMM holds Python's lock here, which torch refuses; no crash, no number."""
    system = with_barostat(boxed, 1.0)
    evaluator = Evaluator(system)
    evaluator(boxed_water()[1])
    barostat = system.getForce(system.getNumForces() - 1)
    with pytest.raises(openmm.OpenMMException, match="called while holding the GIL"):
        barostat.computeCurrentPressure(evaluator.context)


def test_a_barostat_changes_the_box_both_ways(boxed: openmm.System) -> None:
    """A large pressure compresses, none expands; molecules stay as they are."""
    _, positions = boxed_water()
    volumes = {}
    for pressure in (1e6, -1e6):  # bar
        system = with_barostat(boxed, pressure)
        integrator = openmm.VerletIntegrator(1e-9)  # only the barostat moves atoms
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, integrator, platform)
        context.setPositions(0.1 * positions)
        integrator.step(15)
        state = context.getState(positions=True)
        volumes[pressure] = state.getPeriodicBoxVolume()._value
        after = 10.0 * state.getPositions(asNumpy=True)._value
        for x in (positions, after):
            assert np.linalg.norm(x[1::3] - x[::3], axis=1) == pytest.approx(
                np.linalg.norm(positions[1::3] - positions[::3], axis=1), abs=1e-4
            )
    start = np.linalg.det(0.1 * BOX)
    assert volumes[1e6] < 0.99 * start and volumes[-1e6] > 1.01 * start


def test_trajectories_hold_whole_molecules(
    boxed: openmm.System, tmp_path: Path
) -> None:
    topology, positions = boxed_water()
    integrator = openmm.VerletIntegrator(1e-9)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, boxed, integrator, platform)
    simulation.context.setPositions(0.1 * (positions + [3.0, -1.0, 40.0]))
    simulation.reporters.append(app.DCDReporter(str(tmp_path / "run.dcd"), 1))
    simulation.step(1)
    frame = mdtraj.load(
        str(tmp_path / "run.dcd"), top=mdtraj.Topology.from_openmm(topology)
    )
    x = 10.0 * frame.xyz[0].reshape(-1, 3, 3)
    assert np.linalg.norm(x[:, 1:] - x[:, :1], axis=2).max() < 1.3
    assert np.abs(x).max() < 20.0  # wrapped: they were at 40 A


# ------------------------------------------------------------------------ refusals


def system_with_masses(topology: app.Topology) -> openmm.System:
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    return system


def test_free_molecules_of_a_model_of_boxes_are_warned_of(smallest_model: Path) -> None:
    boxed, _ = boxed_water()
    free = app.Topology()
    free.addAtom("O", app.element.oxygen, free.addResidue("O", free.addChain()))
    potential = SE3Potential(smallest_model)

    def warned(surroundings: str, topology: app.Topology) -> bool:
        potential.model.metadata["training_data"] = {"surroundings": surroundings}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            potential.createSystem(topology)
        said = [w for w in caught if "periodic boxes only" in str(w.message)]
        assert all(w.filename == __file__ for w in said)
        return bool(said)

    assert warned("periodic", free)
    assert not warned("periodic", boxed)
    assert not warned("free", free)
    assert not warned("both", free)


def test_another_box_in_the_topology_is_warned_of(smallest_model: Path) -> None:
    topology, _ = boxed_water()
    potential = SE3Potential(smallest_model)
    with pytest.warns(
        UserWarning, match=r"box is \[\[0.65.*System's \[\[2.0.*which co"
    ):
        potential.addForces(system_with_masses(topology), topology)


def test_a_box_beside_forces_without_one_is_warned_of(smallest_model: Path) -> None:
    topology, _ = boxed_water()
    classical = app.ForceField("tip3p.xml").createSystem(topology, rigidWater=False)
    potential = SE3Potential(smallest_model)
    with pytest.warns(UserWarning, match="NonbondedForce is not periodic, and the mod"):
        potential.createMixedSystem(topology, classical, [0, 1, 2])


def test_a_periodic_system_whose_topology_has_no_box(smallest_model: Path) -> None:
    topology, positions = boxed_water()
    expected = evaluate(
        SE3Potential(smallest_model, precision="double").createSystem(topology),
        positions,
    )[0]
    system = system_with_masses(topology)
    system.setDefaultPeriodicBoxVectors(*(0.1 * BOX))
    periodic = openmm.HarmonicBondForce()
    periodic.setUsesPeriodicBoundaryConditions(True)
    system.addForce(periodic)
    topology.setPeriodicBoxVectors(None)
    potential = SE3Potential(smallest_model, precision="double")
    potential.addForces(system, topology)
    assert evaluate(system, positions)[0] == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="module", params=["torchscript", "compiled"])
def in_a_box(request: pytest.FixtureRequest, smallest_model: Path) -> Evaluator:
    """A Context of each implementation, with a model for it."""
    models = {"torchscript": str(smallest_model), "compiled": "water"}
    potential = SE3Potential(
        models[request.param], precision="double", implementation=request.param
    )
    return Evaluator(potential.createSystem(boxed_water()[0]))


@pytest.mark.parametrize(
    "box",
    [
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        np.diag([6.0, 6.0, -6.0]),
        np.array([[6.0, 0.0, 0.0], [5.0, 6.0, 0.0], [0.0, 0.0, 6.0]]),  # not reduced
        np.array([[6.0, 1.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 6.0]]),
        np.diag([0.1, 0.1, 0.1]),  # whose neighbors would fill any memory
    ],
    ids=["zero", "nan", "negative", "not reduced", "turned", "collapsed"],
)
def test_boxes_that_cannot_be(box: np.ndarray, in_a_box: Evaluator) -> None:
    """An error, and the Context works afterwards."""
    positions = boxed_water()[1]
    in_a_box.context.setPeriodicBoxVectors(*(0.1 * BOX))
    expected = in_a_box(positions)[0]
    with pytest.raises(openmm.OpenMMException):
        in_a_box.context.setPeriodicBoxVectors(*(0.1 * box))
        in_a_box(positions)
    in_a_box.context.setPeriodicBoxVectors(*(0.1 * BOX))
    assert in_a_box(positions)[0] == pytest.approx(expected, abs=1e-9)

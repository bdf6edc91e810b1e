"""What OpenMM can do with a System works with the force in it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openmm
import pytest
from evaluator import Evaluator, evaluate
from openmm import app, unit
from random_model import BOX, topology_of, water_cluster

from openmm_se3 import SE3Potential
from openmm_se3.force.backends import BACKENDS

N_MOLECULES = 4

all_backends = pytest.mark.parametrize("backend", BACKENDS)


def frames(n: int, n_molecules: int = N_MOLECULES) -> list[np.ndarray]:
    """Return positions [3 n_molecules, 3], A, of slightly moved molecules."""
    rng = np.random.default_rng(1)
    start = water_cluster(n_molecules)[1].numpy()
    return [start + rng.normal(scale=0.05, size=start.shape) for _ in range(n)]


def system_of(
    model: str | Path,
    backend: str = "torchforce",
    box: np.ndarray | None = BOX,
    implementation: str = "torchscript",
) -> openmm.System:
    potential = SE3Potential(
        model, backend=backend, precision="double", implementation=implementation
    )
    return potential.createSystem(topology_of(["O", "H", "H"] * N_MOLECULES, box))


def context_of(system: openmm.System, integrator: openmm.Integrator) -> openmm.Context:
    platform = openmm.Platform.getPlatformByName("Reference")
    return openmm.Context(system, integrator, platform)


def positions_in(context: openmm.Context) -> np.ndarray:
    """Return positions [n_atoms, 3], nm."""
    state = context.getState(positions=True)
    array: np.ndarray = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return array


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


# ---------------------------------------------------------------------- contexts


@all_backends
def test_contexts_in_threads(
    backend: str, implementation_and_model: tuple[str, str]
) -> None:
    """Each has its own neighbor list and memory, or they take turns with one."""
    implementation, model = implementation_and_model
    system = system_of(model, backend, implementation=implementation)
    evaluators = [Evaluator(system) for _ in range(3)]
    moved = frames(20)
    expected = [evaluators[0](positions)[0] for positions in moved]
    assert np.ptp(expected) > 1.0
    found: list[list[float]] = [[] for _ in evaluators]

    def work(index: int) -> None:
        for positions in moved:
            found[index].append(evaluators[index](positions)[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for energies in found:
        assert energies == pytest.approx(expected, abs=1e-9)


@all_backends
def test_contexts_do_not_know_of_each_other(
    backend: str, implementation_and_model: tuple[str, str]
) -> None:
    implementation, model = implementation_and_model
    system = system_of(model, backend, implementation=implementation)
    first, second = frames(2)
    one, other = Evaluator(system), Evaluator(system)
    expected = one(first)[0], other(second)[0]
    one.context.setPeriodicBoxVectors(*(0.12 * BOX))
    assert abs(one(first)[0] - expected[0]) > 1e-3
    assert other(second)[0] == expected[1]
    del one
    assert other(second)[0] == expected[1]


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "periodic"])
@all_backends
def test_memory_does_not_grow(
    backend: str, box: np.ndarray | None, implementation_and_model: tuple[str, str]
) -> None:
    implementation, model = implementation_and_model
    context = context_of(
        system_of(model, backend, box, implementation=implementation),
        openmm.VerletIntegrator(1e-6),
    )
    context.setPositions(0.1 * frames(1)[0])
    context.getIntegrator().step(150)
    before = resident_pages()
    context.getIntegrator().step(500)
    # Below one page, 4 kB, a step: less than any list of neighbors or graph.
    assert resident_pages() - before < 500


# ------------------------------------------------------------ changes between steps


def test_positions_and_box_between_steps(smallest_model: Path) -> None:
    system = system_of(smallest_model)
    context = context_of(system, openmm.VerletIntegrator(0.0005))
    start, other = frames(2)
    context.setPositions(0.1 * start)
    for positions, box in ((start, BOX), (other, BOX), (start, 1.1 * BOX)):
        context.getIntegrator().step(2)
        context.setPositions(0.1 * positions)
        context.setPeriodicBoxVectors(*(0.1 * box))
        fresh = Evaluator(system)
        fresh.context.setPeriodicBoxVectors(*(0.1 * box))
        state = context.getState(energy=True)
        energy = state.getPotentialEnergy()._value
        assert energy == pytest.approx(fresh(positions)[0], abs=1e-9)


@all_backends
def test_states_and_checkpoints_restore_a_run(
    backend: str, smallest_model: Path, tmp_path: Path
) -> None:
    def simulation() -> app.Simulation:
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
        integrator.setRandomNumberSeed(7)
        platform = openmm.Platform.getPlatformByName("Reference")
        made = app.Simulation(topology, system, integrator, platform)
        made.context.setPositions(0.1 * frames(1)[0])
        return made

    system = system_of(smallest_model, backend)
    topology = topology_of(["O", "H", "H"] * N_MOLECULES, BOX)
    run = simulation()
    run.step(3)
    run.saveState(str(tmp_path / "state.xml"))
    run.saveCheckpoint(str(tmp_path / "run.chk"))
    saved = positions_in(run.context)
    run.step(3)
    expected = positions_in(run.context)
    assert np.abs(expected - saved).max() > 1e-5
    other = simulation()
    other.loadCheckpoint(str(tmp_path / "run.chk"))  # random numbers too
    other.step(3)
    assert np.array_equal(positions_in(other.context), expected)
    other.loadState(str(tmp_path / "state.xml"))
    assert np.array_equal(positions_in(other.context), saved)
    energies = [
        made.context.getState(energy=True).getPotentialEnergy()._value
        for made in (other, run)
    ]
    assert energies[0] != energies[1]
    assert energies[0] == pytest.approx(evaluate(system, 10.0 * saved)[0], abs=1e-9)


# ------------------------------------------------------------- minimizers, integrators


@all_backends
def test_minimizer(backend: str) -> None:
    system = SE3Potential("water", backend=backend, precision="double").createSystem(
        topology_of(["O", "H", "H"])
    )
    context = context_of(system, openmm.VerletIntegrator(0.0005))
    context.setPositions(0.1 * frames(1, 1)[0])
    before = context.getState(energy=True).getPotentialEnergy()._value
    openmm.LocalEnergyMinimizer.minimize(context, 0.1)
    state = context.getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value < before - 1.0
    assert np.abs(state.getForces(asNumpy=True)._value).max() < 1.0  # kJ/mol/nm


@pytest.mark.parametrize("distance", [0.01, 0.3])  # A, of the hydrogens
def test_minimizer_from_a_start_that_cannot_be(distance: float) -> None:
    """It ends, with finite positions and a lower energy."""
    system = SE3Potential("water").createSystem(topology_of(["O", "H", "H"]))
    context = context_of(system, openmm.VerletIntegrator(0.0005))
    start = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, distance, 0.0]])
    context.setPositions(0.1 * start)
    before = context.getState(energy=True).getPotentialEnergy()._value
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    after = context.getState(energy=True).getPotentialEnergy()._value
    assert np.isfinite(positions_in(context)).all() and after < before


@all_backends
def test_minimizer_refuses_what_is_no_number(
    backend: str, smallest_model: Path
) -> None:
    """On the Reference platform it would search for ever."""
    context = context_of(
        system_of(smallest_model, backend, None), openmm.VerletIntegrator(0.0005)
    )
    start = frames(1)[0]
    start[3, 1] = np.nan
    context.setPositions(0.1 * start)
    with pytest.raises(openmm.OpenMMException, match="NaN or infinite"):
        openmm.LocalEnergyMinimizer.minimize(context)


@all_backends
def test_path_integrals(backend: str, smallest_model: Path) -> None:
    system = system_of(smallest_model, backend, None)
    integrator = openmm.RPMDIntegrator(8, 300.0, 1.0, 0.0002)
    integrator.setRandomNumberSeed(3)
    context = context_of(system, integrator)
    for copy, positions in enumerate(frames(8)):
        integrator.setPositions(copy, 0.1 * positions)
    integrator.step(2)
    evaluator = Evaluator(system)
    energies = []
    for copy in range(8):
        state = integrator.getState(copy, getPositions=True, getEnergy=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        energies.append(state.getPotentialEnergy()._value)
        assert energies[-1] == pytest.approx(evaluator(positions)[0], abs=1e-6)
    assert np.ptp(energies) > 1.0
    del context


@pytest.mark.parametrize("slow", [True, False], ids=["slow", "fast"])
def test_multiple_time_steps(slow: bool, smallest_model: Path) -> None:
    """With the force in either group the trajectory is that of very short steps."""
    potential = SE3Potential(smallest_model, precision="double")
    topology = topology_of(["O", "H", "H"] * N_MOLECULES)
    system = openmm.System()
    bonds = openmm.HarmonicBondForce()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
        if atom.index % 3:
            bonds.addBond(atom.index, atom.index - atom.index % 3, 0.096, 2e5)
    bonds.setForceGroup(1 if slow else 0)
    system.addForce(bonds)
    potential.addForces(system, topology, forceGroup=0 if slow else 1)
    ends = []
    for dt, steps in ((0.0002, 10), (0.00002, 100)):
        integrator = openmm.MTSIntegrator(dt, [(0, 1), (1, 4)])
        context = context_of(system, integrator)
        context.setPositions(0.1 * frames(1)[0])
        integrator.step(steps)
        ends.append(positions_in(context))
    moved = np.abs(ends[0] - 0.1 * frames(1)[0]).max()
    assert np.abs(ends[0] - ends[1]).max() < 0.01 * moved
    integrator = openmm.MTSLangevinIntegrator(300.0, 1.0, 0.0005, [(0, 1), (1, 4)])
    context = context_of(system, integrator)
    context.setPositions(0.1 * frames(1)[0])
    integrator.step(5)
    assert np.isfinite(positions_in(context)).all()

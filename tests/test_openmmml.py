"""Our models through openmm-ml: whole and mixed systems, interpolation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
from evaluator import PLATFORMS, Evaluator, evaluate
from openmm import app, unit
from openmmml import MLPotential
from random_model import WATER

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_topology


@pytest.fixture(scope="module")
def classical(waters) -> openmm.System:
    return app.ForceField("tip3p.xml").createSystem(waters[0], constraints=None)


def test_whole_system(waters, smallest_model: Path) -> None:
    topology, positions = waters
    ours = SE3Potential(smallest_model)
    potential = MLPotential("se3", modelPath=str(smallest_model))
    energy, forces = evaluate(potential.createSystem(topology), positions)
    expected, expected_forces = evaluate(ours.createSystem(topology), positions)
    assert energy == pytest.approx(expected, abs=1e-6) and abs(energy) > 1.0
    np.testing.assert_allclose(forces, expected_forces, atol=1e-4)
    total = potential.createSystem(topology, returnEnergyType="energy")
    expected, _ = evaluate(ours.createSystem(topology, energy="total"), positions)
    assert evaluate(total, positions)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("atoms", [[0, 1, 2], [5, 3, 4]])
def test_mixed_system(
    waters, classical, smallest_model: Path, atoms: list[int]
) -> None:
    topology, positions = waters
    potential = MLPotential("se3", modelPath=str(smallest_model))
    mixed = potential.createMixedSystem(topology, classical, atoms)
    molecule = SE3Potential(smallest_model)
    alone = openmm.System()
    for index in range(len(positions)):
        alone.addParticle(classical.getParticleMass(index))
    molecule.addForces(alone, topology, atoms)
    # Rigid water has no energy of its own, and its atoms do not see each other.
    expected, expected_forces = (
        a + b
        for a, b in zip(
            evaluate(classical, positions), evaluate(alone, positions), strict=True
        )
    )
    energy, forces = evaluate(mixed, positions)
    assert energy == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(forces, expected_forces, atol=1e-3)
    assert abs(evaluate(alone, positions)[0]) > 1.0
    removed = classical.getNumConstraints() - mixed.getNumConstraints()
    assert removed == 3


def test_interpolation_goes_from_one_field_to_the_other(
    waters, classical, smallest_model: Path
) -> None:
    topology, positions = waters
    potential = MLPotential("se3", modelPath=str(smallest_model))
    mixed = potential.createMixedSystem(topology, classical, [0, 1, 2])
    both = potential.createMixedSystem(topology, classical, [0, 1, 2], interpolate=True)
    ends = evaluate(classical, positions)[0], evaluate(mixed, positions)[0]
    assert abs(ends[1] - ends[0]) > 1.0
    evaluator = Evaluator(both)
    for share in (0.0, 0.3, 1.0):
        expected = (1.0 - share) * ends[0] + share * ends[1]
        energy = evaluator(positions, lambda_interpolate=share)[0]
        assert energy == pytest.approx(expected, abs=1e-4)


def test_options_that_would_be_lost(smallest_model: Path) -> None:
    topology = water_topology(1)
    potential = MLPotential("se3", modelPath=str(smallest_model))
    with pytest.raises(TypeError, match="give modelPath to MLPotential.'se3'"):
        potential.createSystem(topology, modelPath="water")
    with pytest.raises(TypeError, match="precision.* belong to createSystem"):
        MLPotential("se3", precision="double")
    with pytest.warns(UserWarning, match=r"does not know \['charges'\]"):
        potential.createSystem(topology, charges=0)


# What openmm-ml 1.7 tests of its own potentials, on each platform.

EDGE = 20.0  # A


@pytest.fixture(scope="module")
def solution() -> app.Modeller:
    """Water as solute, away from the middle of a box of TIP3P."""
    modeller = app.Modeller(water_topology(1), (WATER + 3.0) * unit.angstrom)
    field = app.ForceField("tip3p.xml")
    modeller.addSolvent(field, boxSize=openmm.Vec3(*(3 * [0.1 * EDGE])))
    return modeller


def positions_of(modeller: app.Modeller) -> np.ndarray:
    return np.array(modeller.positions.value_in_unit(unit.angstrom))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_solute_in_explicit_solvent(
    platform: str, solution: app.Modeller, smallest_model: Path
) -> None:
    topology, positions = solution.topology, positions_of(solution)
    solute = app.Modeller(topology, solution.positions)
    solute.delete(list(topology.residues())[1:])
    classical, alone = (
        app.ForceField("tip3p.xml").createSystem(
            some, nonbondedMethod=app.PME, nonbondedCutoff=0.8
        )
        for some in (topology, solute.topology)
    )
    potential = MLPotential("se3", modelPath=str(smallest_model))
    mixed = potential.createMixedSystem(topology, classical, [0, 1, 2])
    both = potential.createMixedSystem(topology, classical, [0, 1, 2], interpolate=True)
    between = Evaluator(both, platform)
    ends = [Evaluator(system, platform)(positions) for system in (classical, mixed)]
    assert abs(ends[1][0] - ends[0][0]) > 1.0
    # With interpolate=True the solute's charges act on their own images at both ends.
    images, on_solute = Evaluator(alone, platform)(positions[:3])
    ends[1][1][:3] += on_solute
    ends[1] = ends[1][0] + images, ends[1][1]
    for share, (energy, forces) in enumerate(ends):
        result = between(positions, lambda_interpolate=float(share))
        assert result[0] == pytest.approx(energy, rel=1e-5)
        np.testing.assert_allclose(result[1], forces, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_shifted_box_has_the_same_energy(
    platform: str, solution: app.Modeller, smallest_model: Path
) -> None:
    potential = MLPotential("se3", modelPath=str(smallest_model))
    evaluator = Evaluator(potential.createSystem(solution.topology), platform)
    positions = positions_of(solution)
    energy = evaluator(positions)[0]
    assert abs(energy) > 1.0
    for shift in (9.0, 18.0, -3 * EDGE):
        assert evaluator(positions + shift)[0] == pytest.approx(energy, rel=1e-5)
    wider = positions * 1.01
    assert evaluator(wider)[0] != pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_langevin_dynamics(platform: str, waters) -> None:
    topology, _ = waters
    system = MLPotential("se3", modelPath="water").createSystem(topology)
    integrator = openmm.LangevinIntegrator(300.0, 1.0, 0.0005)
    chosen = openmm.Platform.getPlatformByName(platform)
    context = openmm.Context(system, integrator, chosen)
    start = np.concatenate([WATER + np.array([4.0 * n, 0.0, 0.0]) for n in range(3)])
    context.setPositions(0.1 * start)
    integrator.step(10)
    end = context.getState(positions=True).getPositions(asNumpy=True)
    moved = np.abs(end.value_in_unit(unit.angstrom) - start)
    assert 1e-4 < moved.max() < 0.5


def test_wrong_arguments_are_refused(waters, smallest_model: Path) -> None:
    with pytest.raises(TypeError, match=r"got \['modelpath'\]"):
        MLPotential("se3", modelpath=str(smallest_model))
    potential = MLPotential("se3", modelPath=str(smallest_model))
    with pytest.raises(ValueError, match="returnEnergyType must be one of"):
        potential.createSystem(waters[0], returnEnergyType="all")
    for name, value in (("charge", 1), ("multiplicity", 3)):
        with pytest.raises(ValueError, match=f"{name} is {value}, but models of"):
            potential.createSystem(waters[0], **{name: value})
    potential.createSystem(waters[0], charge=0, multiplicity=1)
    with pytest.raises(FileNotFoundError, match="no model 'nothing'"):
        MLPotential("se3", modelPath="nothing").createSystem(waters[0])


def test_openmmml_is_imported_without_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'e3nn', 'vesin_torch', 'openmmtorch'):\n"
        "    sys.modules[name] = None\n"
        "import openmmml\n"
        "assert 'se3' in openmmml.MLPotential._implFactories\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

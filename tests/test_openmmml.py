"""Our models through openmm-ml: whole and mixed systems, interpolation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
from evaluator import Evaluator, evaluate
from openmm import app
from openmmml import MLPotential

from openmm_se3 import SE3Potential


@pytest.fixture(scope="module")
def classical(waters) -> openmm.System:
    return app.ForceField("tip3p.xml").createSystem(waters[0], constraints=None)


def test_whole_system(waters, random_model: Path) -> None:
    topology, positions = waters
    ours = SE3Potential(random_model)
    potential = MLPotential("se3", modelPath=str(random_model))
    energy, forces = evaluate(potential.createSystem(topology), positions)
    expected, expected_forces = evaluate(ours.createSystem(topology), positions)
    assert energy == pytest.approx(expected, abs=1e-6) and abs(energy) > 1.0
    np.testing.assert_allclose(forces, expected_forces, atol=1e-4)
    total = potential.createSystem(topology, returnEnergyType="energy")
    expected, _ = evaluate(ours.createSystem(topology, energy="total"), positions)
    assert evaluate(total, positions)[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("atoms", [[0, 1, 2], [5, 3, 4]])
def test_mixed_system(waters, classical, random_model: Path, atoms: list[int]) -> None:
    topology, positions = waters
    potential = MLPotential("se3", modelPath=str(random_model))
    mixed = potential.createMixedSystem(topology, classical, atoms)
    molecule = SE3Potential(random_model)
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
    waters, classical, random_model: Path
) -> None:
    topology, positions = waters
    potential = MLPotential("se3", modelPath=str(random_model))
    mixed = potential.createMixedSystem(topology, classical, [0, 1, 2])
    both = potential.createMixedSystem(topology, classical, [0, 1, 2], interpolate=True)
    ends = evaluate(classical, positions)[0], evaluate(mixed, positions)[0]
    assert abs(ends[1] - ends[0]) > 1.0
    evaluator = Evaluator(both)
    for share in (0.0, 0.3, 1.0):
        expected = (1.0 - share) * ends[0] + share * ends[1]
        energy = evaluator(positions, lambda_interpolate=share)[0]
        assert energy == pytest.approx(expected, abs=1e-4)


def test_wrong_arguments_are_refused(waters, random_model: Path) -> None:
    with pytest.raises(TypeError, match=r"got \['modelpath'\]"):
        MLPotential("se3", modelpath=str(random_model))
    potential = MLPotential("se3", modelPath=str(random_model))
    with pytest.raises(ValueError, match="returnEnergyType must be one of"):
        potential.createSystem(waters[0], returnEnergyType="all")
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

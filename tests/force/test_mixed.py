"""Mixed systems: the model inside some atoms, the classical field for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from evaluator import Evaluator, evaluate
from openmm import app
from openmmml import MLPotential

from openmm_se3 import SE3Potential
from openmm_se3.force.mixed import INSEPARABLE


@pytest.fixture(scope="module")
def flexible(waters) -> openmm.System:
    field = app.ForceField("tip3p.xml")
    system = field.createSystem(waters[0], constraints=None, rigidWater=False)
    # Terms of other kinds: one inside the first molecule, one to the second.
    pull = openmm.CustomBondForce("10*r")
    pull.addBond(1, 2)
    pull.addBond(0, 3)
    repulsion = openmm.CustomNonbondedForce("0.01/r")
    for _ in range(system.getNumParticles()):
        repulsion.addParticle()
    system.addForce(pull)
    system.addForce(repulsion)
    return system


@pytest.mark.parametrize("atoms", [[0, 1, 2], [5, 3, 4], [0, 1, 2, 3, 4, 5]])
def test_equal_to_openmm_ml(
    waters, flexible, random_model: Path, atoms: list[int]
) -> None:
    topology, positions = waters
    ours = SE3Potential(random_model).createMixedSystem(
        topology, flexible, atoms, restraints=[]
    )
    theirs = MLPotential("se3", modelPath=str(random_model)).createMixedSystem(
        topology, flexible, atoms
    )
    energy, forces = evaluate(ours, positions)
    expected, expected_forces = evaluate(theirs, positions)
    assert energy == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(forces, expected_forces, atol=1e-4)
    assert abs(energy - evaluate(flexible, positions)[0]) > 1.0


@pytest.mark.parametrize("implementation", ["torchscript", "compiled"])
def test_forces_are_the_slope_of_the_mixed_energy(
    waters, flexible, implementation: str
) -> None:
    topology, positions = waters
    potential = SE3Potential("water", precision="double", implementation=implementation)
    system = potential.createMixedSystem(topology, flexible, [0, 1, 2], restraints=[])
    evaluator = Evaluator(system)
    _, forces = evaluator(positions)
    for atom in (0, 1, 4):  # of both regions
        for axis in range(3):
            step = np.zeros_like(positions)
            step[atom, axis] = 1e-3
            up, down = (evaluator(positions + s * step)[0] for s in (1, -1))
            slope = (up - down) / 2e-4  # nm
            assert forces[atom, axis] == pytest.approx(-slope, abs=0.05, rel=1e-4)


def test_constraints_inside_go_and_those_across_are_refused(
    waters, random_model: Path
) -> None:
    topology, _ = waters
    rigid = app.ForceField("tip3p.xml").createSystem(topology)
    potential = SE3Potential(random_model)
    mixed = potential.createMixedSystem(topology, rigid, [0, 1, 2])
    assert (rigid.getNumConstraints(), mixed.getNumConstraints()) == (9, 6)
    with pytest.raises(ValueError, match="are constrained; the model's atoms"):
        potential.createMixedSystem(topology, rigid, [0, 1])


def test_forces_that_cannot_be_taken_out_are_refused(
    waters, flexible, random_model: Path
) -> None:
    topology, _ = waters
    solvent = openmm.GBSAOBCForce()
    for _ in range(9):
        solvent.addParticle(0.0, 0.15, 1.0)
    system = openmm.XmlSerializer.clone(flexible)
    system.addForce(solvent)
    with pytest.raises(ValueError, match="GBSAOBCForce, whose part between"):
        SE3Potential(random_model).createMixedSystem(topology, system, [0, 1, 2])


# Inside the model's atoms these are removed or excluded ...
TAKEN_OUT = """HarmonicBondForce HarmonicAngleForce PeriodicTorsionForce RBTorsionForce
CMAPTorsionForce CustomBondForce CustomAngleForce CustomTorsionForce
CustomCompoundBondForce NonbondedForce CustomNonbondedForce""".split()
# ... and these stay: biases, restraints, other models, thermostats, barostats.
KEPT = """CustomCVForce CustomCentroidBondForce CustomExternalForce CustomVolumeForce
RMSDForce RGForce OrientationRestraintForce PythonForce AndersenThermostat
CMMotionRemover MonteCarloBarostat MonteCarloAnisotropicBarostat
MonteCarloFlexibleBarostat MonteCarloMembraneBarostat RPMDMonteCarloBarostat""".split()


def test_every_force_of_openmm_is_accounted_for() -> None:
    def below(kind: type) -> set[type]:
        children = kind.__subclasses__()
        return {*children}.union(*map(below, children))

    own = [kind for kind in below(openmm.Force) if kind.__module__ == "openmm.openmm"]
    found = {kind.__name__ for kind in own}
    assert not found - INSEPARABLE - {*TAKEN_OUT, *KEPT}
    assert found >= {"GBSAOBCForce", "NonbondedForce", "CustomCVForce"}

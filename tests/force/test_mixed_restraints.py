"""Restraints and other forces of users in mixed Systems."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from mixed_systems import chosen, energy, field_system, molecules, nonbonded_of
from openmm import app
from openmmml import MLPotential

from openmm_se3 import SE3Potential
from openmm_se3.force.mixed import without_internal_terms
from openmm_se3.force.remaining import remaining_energy, require_nothing_inside
from openmm_se3.simulation import water_topology


@pytest.fixture
def restrained() -> tuple[app.Topology, openmm.System]:
    topology = water_topology(3)
    system = app.ForceField("tip3p.xml").createSystem(
        topology, constraints=None, rigidWater=False
    )
    return topology, system


def add(system: openmm.System, kind: str) -> tuple[openmm.Force, set[int]]:
    """Add a term that may be a restraint, of the first two molecules."""
    force: Any
    if kind == "bond":
        force = openmm.CustomBondForce("100*r^2")
        force.addBond(0, 3)
    elif kind == "angle":
        force = openmm.CustomAngleForce("10*theta^2")
        force.addAngle(0, 1, 3)
    elif kind == "torsion":
        force = openmm.CustomTorsionForce("10*(1+cos(theta))")
        force.addTorsion(0, 1, 3, 4)
    elif kind == "compound":
        force = openmm.CustomCompoundBondForce(2, "100*distance(p1,p2)^2")
        force.addBond([0, 3])
    elif kind == "harmonic":
        force = openmm.HarmonicBondForce()
        force.addBond(0, 3, 0.1, 1e5)
    else:
        force = openmm.PeriodicTorsionForce()
        force.addTorsion(0, 1, 3, 4, 1, 0.0, 10.0)
    force.setName("restraint")
    system.addForce(force)
    return force, {0, 3}


RESTRAINTS = ["bond", "angle", "torsion", "compound", "harmonic", "periodic"]


@pytest.mark.parametrize("kind", RESTRAINTS)
def test_a_restraint_inside_is_kept_or_removed_as_told(
    kind: str, restrained: tuple[app.Topology, openmm.System], smallest_model: Path
) -> None:
    topology, system = restrained
    force, _ = add(system, kind)
    alone = openmm.System()
    for index in range(9):
        alone.addParticle(system.getParticleMass(index))
    alone.addForce(openmm.XmlSerializer.clone(force))
    positions = 0.3 * np.random.default_rng(3).random((9, 3))
    of_restraint = energy(alone, positions)
    assert abs(of_restraint) > 0.1
    potential = SE3Potential(smallest_model)

    def mixed(**options: Any) -> float:
        made = potential.createMixedSystem(
            topology, system, range(9), forceGroup=1, **options
        )
        return energy(made, positions)

    with pytest.raises(ValueError, match=r"'restraint'.*\b0\b.*\b3\b"):
        mixed()
    assert mixed(restraints=["restraint"]) == pytest.approx(of_restraint)
    assert mixed(restraints=[]) == 0.0
    with pytest.raises(ValueError, match="'pull'.*'restraint'"):
        mixed(restraints=["pull"])
    with pytest.raises(ValueError, match="list"):
        mixed(restraints="restraint")


def test_a_restraint_to_the_rest_stays(
    restrained: tuple[app.Topology, openmm.System], smallest_model: Path
) -> None:
    topology, system = restrained
    add(system, "bond")
    mixed = SE3Potential(smallest_model).createMixedSystem(topology, system, [0, 1, 2])
    kept = {force.getName(): force for force in mixed.getForces()}["restraint"]
    assert kept.getNumBonds() == 1


def drude(parent: int) -> openmm.DrudeForce:
    force = openmm.DrudeForce()
    force.addParticle(9, parent, -1, -1, -1, -1.0, 0.001, 0.0, 0.0)
    return force


def test_drude_particles_elsewhere_stay(
    restrained: tuple[app.Topology, openmm.System], smallest_model: Path
) -> None:
    topology, system = restrained
    topology.addAtom("D", None, list(topology.residues())[-1])
    system.addParticle(0.4)
    nonbonded_of(system).addParticle(-1.0, 0.1, 0.0)
    system.addForce(drude(6))
    potential = SE3Potential(smallest_model)
    potential.createMixedSystem(topology, system, [0, 1, 2])
    with pytest.raises(ValueError, match="DrudeForce.*atoms 6 "):
        potential.createMixedSystem(topology, system, [6, 7, 8])


def hidden_nonbonded(system: openmm.System) -> openmm.Force:
    return openmm.XmlSerializer.clone(nonbonded_of(system))


def hidden_bonds(system: openmm.System) -> openmm.Force:
    force = openmm.HarmonicBondForce()
    force.addBond(0, 1, 0.1, 1000.0)
    return force


@pytest.mark.parametrize("inner", [hidden_nonbonded, hidden_bonds])
def test_a_force_field_inside_collective_variables_is_refused(
    inner: Callable[[openmm.System], openmm.Force],
    restrained: tuple[app.Topology, openmm.System],
    smallest_model: Path,
) -> None:
    topology, system = restrained
    force = openmm.CustomCVForce("0.5*x")
    force.addCollectiveVariable("x", inner(system))
    force.setName("scaled")
    system.addForce(force)
    potential = SE3Potential(smallest_model)
    for options in ({}, {"restraints": []}):
        with pytest.raises(ValueError, match="'scaled'"):
            potential.createMixedSystem(topology, system, [0, 1, 2], **options)
    potential.createMixedSystem(topology, system, [0, 1, 2], restraints=["scaled"])


def second_bonds() -> openmm.Force:
    force = openmm.HarmonicBondForce()
    force.addBond(0, 1, 0.2, 1000.0)
    return force


def second_angles() -> openmm.Force:
    force = openmm.HarmonicAngleForce()
    force.addAngle(2, 0, 1, 1.0, 10.0)
    return force


def angle_without_bonds() -> openmm.Force:
    force = openmm.HarmonicAngleForce()
    force.addAngle(0, 1, 2, 1.0, 10.0)  # the oxygen is not in the middle
    return force


@pytest.mark.parametrize("kind", [second_bonds, second_angles, angle_without_bonds])
def test_a_restraint_within_a_molecule_is_asked_about(
    kind: Callable[[], openmm.Force],
    restrained: tuple[app.Topology, openmm.System],
    smallest_model: Path,
) -> None:
    """It has the class of a force field's terms, and acts on bonded atoms."""
    topology, system = restrained
    force = kind()
    force.setName("hold")
    system.addForce(force)
    potential = SE3Potential(smallest_model)
    with pytest.raises(ValueError, match="'hold' acts inside"):
        potential.createMixedSystem(topology, system, range(9))
    kept = potential.createMixedSystem(topology, system, range(9), restraints=["hold"])
    left = next(f for f in kept.getForces() if f.getName() == "hold")
    assert left.getNumBonds() if "Bond" in type(left).__name__ else left.getNumAngles()
    # Forces whose names nobody has set have the same one.
    system.getForce(system.getNumForces() - 1).setName(type(force).__name__)
    with pytest.raises(ValueError, match="acts inside"):
        potential.createMixedSystem(topology, system, range(9))


def test_a_torsion_held_twice_is_asked_about(smallest_model: Path) -> None:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    atoms = [topology.addAtom(n, app.element.oxygen, residue) for n in "abcd"]
    for first, second in itertools.pairwise(atoms):
        topology.addBond(first, second)
    system = openmm.System()
    for _ in atoms:
        system.addParticle(16.0)
    for name in ("field", "hold"):
        force = openmm.PeriodicTorsionForce()
        force.setName(name)
        for periodicity in (1, 2, 3) if name == "field" else (1,):
            force.addTorsion(0, 1, 2, 3, periodicity, 0.0, 5.0)
        system.addForce(force)
    bonds = [(0, 1), (1, 2), (2, 3)]
    mixed = without_internal_terms(system, range(4), bonds, ["hold"])
    assert [f.getNumTorsions() for f in mixed.getForces()] == [0, 1]
    with pytest.raises(ValueError, match="'hold' acts inside"):
        without_internal_terms(system, range(4), bonds)


def test_a_python_force_that_cannot_be_copied_is_named(
    restrained: tuple[app.Topology, openmm.System], smallest_model: Path
) -> None:
    topology, system = restrained
    system.addForce(openmm.PythonForce(lambda state: (0.0, np.zeros((9, 3)))))
    with pytest.raises(ValueError, match="PythonForce must call"):
        SE3Potential(smallest_model).createMixedSystem(topology, system, [0, 1, 2])


def test_a_distance_as_collective_variable_stays(
    restrained: tuple[app.Topology, openmm.System], smallest_model: Path
) -> None:
    topology, system = restrained
    distance = openmm.CustomBondForce("r")
    distance.addBond(0, 1)
    force = openmm.CustomCVForce("10*x")
    force.addCollectiveVariable("x", distance)
    system.addForce(force)
    mixed = SE3Potential(smallest_model).createMixedSystem(
        topology, system, range(9), forceGroup=1
    )
    positions = np.zeros((9, 3))
    positions[:, 0] = 0.2 * np.arange(9)
    assert energy(mixed, positions) == pytest.approx(2.0)


def test_two_regions_leave_out_both_insides(
    boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = molecules(boxes["tip4pew"], 30)
    whole = mixed = field_system(box, "tip4pew", app.PME)
    expected = energy(whole, box.positions)
    potential = SE3Potential(smallest_model)
    for molecule in (0, 1):
        residues = list(box.topology.residues())
        one = app.Modeller(box.topology, box.positions)
        one.delete([r for r in residues if r.index != molecule])
        alone = field_system(one, "tip4pew", app.PME)
        expected -= energy(alone, one.positions)
        atoms = [a.index for a in residues[molecule].atoms() if a.element is not None]
        mixed = potential.createMixedSystem(box.topology, mixed, atoms, forceGroup=1)
    assert energy(mixed, box.positions) == pytest.approx(expected, abs=1e-6)


def test_openmm_ml_leaves_nothing_inside_either(
    boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = molecules(boxes["tip4pew"], 30)
    few = molecules(box, 2)
    whole = field_system(box, "tip4pew", app.PME)
    potential = MLPotential("se3", modelPath=str(smallest_model))
    mixed = potential.createMixedSystem(box.topology, whole, chosen(few), forceGroup=1)
    alone = field_system(few, "tip4pew", app.PME)
    expected = energy(whole, box.positions) - energy(alone, few.positions)
    assert energy(mixed, box.positions) == pytest.approx(expected, abs=1e-6)
    solvent = openmm.GBSAOBCForce()
    for _ in range(whole.getNumParticles()):
        solvent.addParticle(0.0, 0.15, 1.0)
    whole.addForce(solvent)
    with pytest.raises(ValueError, match="GBSAOBCForce"):
        potential.createMixedSystem(box.topology, whole, chosen(few))


def bonded(kind: str) -> openmm.Force:
    force: Any = getattr(openmm, kind)(*(["1+r"] if "Custom" in kind else []))
    force.addBond(0, 1, *([0.1, 1.0] if "Harmonic" in kind else []))
    return force


@pytest.mark.parametrize("left", ["images", "tail", "pairs", "bond", "site"])
def test_the_check_sees_what_is_left(left: str, boxes: dict[str, app.Modeller]) -> None:
    water = "tip4pew" if left == "site" else "tip3p"
    method = {"images": app.PME, "tail": app.CutoffPeriodic}.get(left, app.NoCutoff)
    box = molecules(boxes[water], 10)
    system = field_system(box, water, method)
    region = chosen(molecules(box, 2))
    force = nonbonded_of(system)
    force.setUseDispersionCorrection(left == "tail")
    for index in reversed(range(system.getNumForces())):
        if not isinstance(system.getForce(index), openmm.NonbondedForce):
            system.removeForce(index)
    if left == "bond":
        system.addForce(bonded("CustomBondForce"))
    if left != "pairs":
        for i in region:
            for j in region:
                if i < j:
                    force.addException(i, j, 0.0, 1.0, 0.0, True)
    assert remaining_energy(system, region) > 1e-3
    with pytest.raises(ValueError, match=r"kJ/mol.*Force"):
        require_nothing_inside(system, region)
    if left == "bond":
        require_nothing_inside(system, region, restraints=["CustomBondForce"])

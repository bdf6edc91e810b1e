"""Inside the atoms of a mixed System nothing acts but the model.

The oracle: the classical energy that is left, of group 0, is that of the whole System
minus that of the model's molecules alone in the same box.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from openmm import app, unit
from openmmml import MLPotential

from openmm_se3 import SE3Potential
from openmm_se3.force.remaining import remaining_energy, require_nothing_inside
from openmm_se3.simulation import water_topology

EDGE = 1.7  # nm
CUTOFF = 0.8  # nm
LATTICE = (app.Ewald, app.PME, app.LJPME)
ONE_4PI_EPS0 = 138.935456
FIELDS = {"tip3p": "tip3p.xml", "tip4pew": "tip4pew.xml", "tip5p": "tip5p.xml"}


def liquid(water: str) -> app.Modeller:
    """Return a small box of a rigid or flexible classical water."""
    modeller = app.Modeller(app.Topology(), [])
    field = app.ForceField(FIELDS[water])
    modeller.addSolvent(
        field, model=water, boxSize=openmm.Vec3(EDGE, EDGE, EDGE) * unit.nanometer
    )
    positions = modeller.positions.value_in_unit(unit.nanometer)
    noise = np.random.default_rng(1).normal(scale=0.003, size=(len(positions), 3))
    return app.Modeller(modeller.topology, (positions + noise) * unit.nanometer)


@pytest.fixture(scope="module")
def boxes() -> dict[str, app.Modeller]:
    return {water: liquid(water) for water in FIELDS}


def molecules(modeller: app.Modeller, n: int | None) -> app.Modeller:
    """Return the first molecules alone in the same box."""
    few = app.Modeller(modeller.topology, modeller.positions)
    residues = list(modeller.topology.residues())
    few.delete([] if n is None else residues[n:])
    return few


def chosen(modeller: app.Modeller) -> list[int]:
    """Return the atoms, without virtual sites."""
    return [a.index for a in modeller.topology.atoms() if a.element is not None]


def without_box(modeller: app.Modeller) -> app.Topology:
    """Return the topology without its box; the System's counts."""
    topology = molecules(modeller, None).topology
    topology.setPeriodicBoxVectors(None)
    return topology


def energy(
    system: openmm.System,
    positions: Any,
    box: float | None = None,
    **parameters: float,
) -> float:
    """Return the energy of group 0, kJ/mol."""
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    if box is not None:
        context.setPeriodicBoxVectors(*(box * np.eye(3)))
    context.setPositions(positions)
    context.computeVirtualSites()
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, groups={0})
    return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


def field_system(modeller: app.Modeller, water: str, method: Any) -> openmm.System:
    system = app.ForceField(FIELDS[water]).createSystem(
        modeller.topology,
        nonbondedMethod=method,
        nonbondedCutoff=CUTOFF * unit.nanometer,
        constraints=None,
        rigidWater=False,
    )
    nonbonded = nonbonded_of(system)
    nonbonded.setUseDispersionCorrection(False)
    if method in LATTICE:  # the same in a System of few particles
        nonbonded.setPMEParameters(3.4, 24, 24, 24)
        nonbonded.setLJPMEParameters(3.4, 24, 24, 24)
    return system


def nonbonded_of(system: openmm.System) -> openmm.NonbondedForce:
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    return force


METHODS = {
    "tip3p": [app.NoCutoff, app.CutoffNonPeriodic, app.CutoffPeriodic, *LATTICE],
    "tip4pew": [app.NoCutoff, app.CutoffPeriodic, app.PME],
    "tip5p": [app.PME],
}
CASES = [(water, method) for water, methods in METHODS.items() for method in methods]


@pytest.mark.parametrize(("water", "method"), CASES)
def test_what_remains_is_the_whole_minus_the_inside(
    water: str, method: Any, boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = boxes[water]
    few = molecules(box, 2)
    whole = field_system(box, water, method)
    alone = field_system(few, water, method)
    mixed = SE3Potential(smallest_model).createMixedSystem(
        without_box(box), whole, chosen(few), forceGroup=1
    )
    for scale in (1.0, 1.05):  # of box and positions
        moved = box.positions * scale
        inside = energy(alone, few.positions * scale, scale * EDGE)
        assert abs(inside) > 1.0
        expected = energy(whole, moved, scale * EDGE) - inside
        assert energy(mixed, moved, scale * EDGE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize(("water", "method"), CASES)
def test_nothing_classical_remains_of_all_molecules(
    water: str,
    method: Any,
    correction: bool,
    boxes: dict[str, app.Modeller],
    smallest_model: Path,
) -> None:
    box = molecules(boxes[water], 40)
    whole = field_system(box, water, method)
    nonbonded_of(whole).setUseDispersionCorrection(correction)
    # The System's box still counts once the force that has it is gone.
    periodic = whole.usesPeriodicBoundaryConditions()
    mixed = SE3Potential(smallest_model).createMixedSystem(
        without_box(box), whole, chosen(box), forceGroup=1
    )
    assert mixed.usesPeriodicBoundaryConditions() == periodic
    assert abs(energy(whole, box.positions)) > 10.0
    for edge in (EDGE, 1.1 * EDGE):
        assert energy(mixed, box.positions, edge) == pytest.approx(0.0, abs=1e-9)


def tail(system: openmm.System, region: list[int]) -> float:
    """Return the dispersion correction between some particles, kJ/mol nm^3."""
    force = nonbonded_of(system)
    n = system.getNumParticles()
    total = 0.0
    for first, i in enumerate(region):
        for j in region[: first + 1]:
            _, sigma_i, epsilon_i = force.getParticleParameters(i)
            _, sigma_j, epsilon_j = force.getParticleParameters(j)
            sigma = 0.5 * (sigma_i + sigma_j)._value
            epsilon = np.sqrt(epsilon_i._value * epsilon_j._value)
            total += epsilon * (
                sigma**12 / (9 * CUTOFF**9) - sigma**6 / (3 * CUTOFF**3)
            )
    return 8 * np.pi * n**2 * total / (n * (n + 1) / 2)


def custom(system: openmm.System, groups: bool) -> openmm.CustomNonbondedForce:
    """Return the Lennard-Jones part of a System as a force of its own."""
    force = openmm.CustomNonbondedForce("4*sqrt(e1*e2)*(s^12-s^6); s=0.5*(s1+s2)/r")
    force.addPerParticleParameter("s")
    force.addPerParticleParameter("e")
    nonbonded = nonbonded_of(system)
    for index in range(system.getNumParticles()):
        _, sigma, epsilon = nonbonded.getParticleParameters(index)
        force.addParticle([sigma, epsilon])
    for k in range(nonbonded.getNumExceptions()):
        force.addExclusion(*nonbonded.getExceptionParameters(k)[:2])
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF)
    force.setUseLongRangeCorrection(True)
    if groups:
        everything = range(system.getNumParticles())
        force.addInteractionGroup(everything, everything[: len(everything) // 2])
    return force


@pytest.mark.parametrize("kind", ["lennard-jones", "offsets", "custom", "groups"])
def test_the_dispersion_correction_leaves_out_the_inside(
    kind: str, boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = boxes["tip3p"]
    region = chosen(molecules(box, 3))
    whole = field_system(box, "tip3p", app.CutoffPeriodic)
    expected = -tail(whole, region) / EDGE**3
    if kind in ("custom", "groups"):
        whole.addForce(custom(whole, kind == "groups"))
    if kind == "groups":  # counts pairs of different particles only
        own = sum(tail(whole, [index]) for index in region)
        expected = -(tail(whole, region) * EDGE**-3 - own * EDGE**-3)
    if kind == "offsets":
        nonbonded_of(whole).addGlobalParameter("lambda", 1.0)
        nonbonded_of(whole).addParticleParameterOffset("lambda", 0, 0.0, 0.0, 0.0)

    def mixed_energy(corrected: bool) -> tuple[float, float]:
        system = openmm.XmlSerializer.clone(whole)
        for force in system.getForces():
            if isinstance(force, openmm.CustomNonbondedForce):
                force.setUseLongRangeCorrection(corrected)
            elif isinstance(force, openmm.NonbondedForce) and kind in (
                "lennard-jones",
                "offsets",
            ):
                force.setUseDispersionCorrection(corrected)
        mixed = SE3Potential(smallest_model).createMixedSystem(
            box.topology, system, region, forceGroup=1
        )
        return energy(system, box.positions), energy(mixed, box.positions)

    (plain, mixed_plain), (corrected, mixed_corrected) = map(
        mixed_energy, (False, True)
    )
    change = (mixed_corrected - mixed_plain) - (corrected - plain)
    assert change == pytest.approx(expected, rel=1e-4) and abs(change) > 1e-4


def test_a_correction_that_depends_on_parameters_is_refused_with_the_number(
    boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = boxes["tip3p"]
    whole = field_system(box, "tip3p", app.CutoffPeriodic)
    force = custom(whole, groups=False)
    force.setEnergyFunction("soft*" + force.getEnergyFunction())
    force.addGlobalParameter("soft", 1.0)
    whole.addForce(force)
    potential = SE3Potential(smallest_model)
    region = chosen(molecules(box, 3))
    number = f"{tail(whole, region) / EDGE**3:.3g}"
    with pytest.raises(ValueError, match=f"{number}.*setUseLongRangeCorrection"):
        potential.createMixedSystem(box.topology, whole, region)
    force = whole.getForce(whole.getNumForces() - 1)
    force.setUseLongRangeCorrection(False)
    potential.createMixedSystem(box.topology, whole, region)


@pytest.mark.parametrize("n", [1, None])
def test_alchemical_offsets_act_outside_only(
    n: int | None, boxes: dict[str, app.Modeller], smallest_model: Path
) -> None:
    box = molecules(boxes["tip3p"], 30)
    few = molecules(box, n)

    def alchemical(modeller: app.Modeller) -> openmm.System:
        system = field_system(modeller, "tip3p", app.PME)
        force = nonbonded_of(system)
        force.addGlobalParameter("lambda", 1.0)
        force.addParticleParameterOffset("lambda", 0, -0.5, 0.0, 0.3)
        for k in range(force.getNumExceptions()):
            i, j, *_ = force.getExceptionParameters(k)
            if i == 0 or j == 0:
                force.addExceptionParameterOffset("lambda", k, 1.5, -0.95, 0.2)
        return system

    whole, alone = alchemical(box), alchemical(few)
    mixed = SE3Potential(smallest_model).createMixedSystem(
        box.topology, whole, chosen(few), forceGroup=1
    )
    values = {}
    for value in (0.0, 1.0):
        inside = energy(alone, few.positions, **{"lambda": value})
        expected = energy(whole, box.positions, **{"lambda": value}) - inside
        found = energy(mixed, box.positions, **{"lambda": value})
        assert found == pytest.approx(expected, abs=1e-6)
        values[value] = inside
    assert abs(values[1.0] - values[0.0]) > 100.0


@pytest.mark.parametrize("kind", ["average", "local"])
def test_sites_on_atoms_of_both_kinds_are_refused_by_name(
    kind: str, smallest_model: Path
) -> None:
    topology = water_topology(2)
    last = list(topology.residues())[-1]
    topology.addAtom("M", None, last)
    system = app.ForceField("tip3p.xml").createSystem(
        water_topology(2), constraints=None, rigidWater=False
    )
    system.addParticle(0.0)
    nonbonded_of(system).addParticle(-0.5, 0.1, 0.0)
    if kind == "average":
        site = openmm.ThreeParticleAverageSite(0, 1, 3, 0.4, 0.3, 0.3)
    else:
        site = openmm.LocalCoordinatesSite(
            [0, 1, 3], [0.5, 0.5, 0], [1, -1, 0], [1, 0, -1], openmm.Vec3(0.1, 0, 0)
        )
    system.setVirtualSite(6, site)
    potential = SE3Potential(smallest_model)
    with pytest.raises(ValueError, match=r"particle 6 .*\[0, 1, 3\].*\[3\]"):
        potential.createMixedSystem(topology, system, [0, 1, 2])
    # All of its atoms: it leaves with them.
    mixed = potential.createMixedSystem(topology, system, range(6), forceGroup=1)
    positions = np.random.default_rng(0).random((7, 3))
    assert energy(mixed, positions) == 0.0


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

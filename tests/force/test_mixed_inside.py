"""Inside the atoms of a mixed System nothing acts but the model.

The oracle: the classical energy that is left, of group 0, is that of the whole System
minus that of the model's molecules alone in the same box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from mixed_systems import (
    CUTOFF,
    EDGE,
    LATTICE,
    chosen,
    energy,
    field_system,
    molecules,
    nonbonded_of,
    tail,
)
from openmm import app

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_topology


def without_box(modeller: app.Modeller) -> app.Topology:
    """Return the topology without its box; the System's counts."""
    topology = molecules(modeller, None).topology
    topology.setPeriodicBoxVectors(None)
    return topology


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

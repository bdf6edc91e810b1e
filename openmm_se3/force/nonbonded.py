"""Nonbonded forces of a classical System, without what acts inside a region.

Pairs inside the region are excluded.  Exclusions leave what a force computes without
pairs: the interaction of the region with its own periodic images (Ewald, PME, LJPME),
and the region's share of the long-range dispersion correction.  Both are subtracted,
so that the energy left is that of the others, and between the region and the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import openmm
from openmm import unit

from openmm_se3.force.dispersion_correction import tail_coefficient
from openmm_se3.force.system_checks import inside_name, listed
from openmm_se3.geometry import rows_of
from openmm_se3.units import NM_TO_ANGSTROM

LATTICE = (
    openmm.NonbondedForce.Ewald,
    openmm.NonbondedForce.PME,
    openmm.NonbondedForce.LJPME,
)


def exclude_inside(system: openmm.System, region: AbstractSet[int]) -> None:
    """Take out of a System what nonbonded forces do inside a region.

    A force that acts on no other particle is removed.

    Args:
        system: The System; changed in place.
        region: Particles.

    Raises:
        ValueError: A long-range correction depends on global parameters.
    """
    for index in reversed(range(system.getNumForces())):
        force = system.getForce(index)
        if isinstance(force, openmm.NonbondedForce):
            if _acts_outside(force, region):
                _exclude_nonbonded(system, force, region)
            elif force.getNumGlobalParameters():  # a Context may set them
                _keep_only(force, set())
            else:
                system.removeForce(index)
        elif isinstance(force, openmm.CustomNonbondedForce):
            if system.getNumParticles() > len(region):
                _exclude_custom(system, force, region)
            elif not force.getNumGlobalParameters():
                system.removeForce(index)
            else:
                _exclude_pairs(force, region)
                force.setUseLongRangeCorrection(False)


def only_inside(force: openmm.Force, region: AbstractSet[int]) -> openmm.Force:
    """Return a copy of a nonbonded force that acts between particles of a region only.

    That of a CustomNonbondedForce has no long-range correction, whose part follows
    from :func:`~openmm_se3.force.dispersion_correction.tail_coefficient`.

    Args:
        force: A NonbondedForce or CustomNonbondedForce.
        region: Particles.
    """
    copy = openmm.XmlSerializer.clone(force)
    if isinstance(copy, openmm.NonbondedForce):
        _keep_only(copy, region)
        return copy
    copy.setUseLongRangeCorrection(False)
    groups = [
        copy.getInteractionGroupParameters(k)
        for k in range(copy.getNumInteractionGroups())
    ]
    if not groups:
        everything = set(range(copy.getNumParticles()))
        copy.addInteractionGroup(everything, everything)
        groups = [(everything, everything)]
    for k, (first, second) in enumerate(groups):
        copy.setInteractionGroupParameters(k, set(first) & region, set(second) & region)
    return copy


def _acts_outside(force: openmm.NonbondedForce, region: AbstractSet[int]) -> bool:
    return any(not particles <= region for particles in _charged(force))


def _acts_inside(force: openmm.NonbondedForce, region: AbstractSet[int]) -> bool:
    return any(particles <= region for particles in _charged(force))


def _charged(force: openmm.NonbondedForce) -> list[set[int]]:
    """Return the particles of each charge and dispersion that is not zero."""
    found: list[tuple[set[int], tuple[Any, ...]]] = []
    for k in range(force.getNumParticles()):
        found.append(({k}, force.getParticleParameters(k)))
    for k in range(force.getNumParticleParameterOffsets()):
        _, particle, *strengths = force.getParticleParameterOffset(k)
        found.append(({particle}, tuple(strengths)))
    for k in range(force.getNumExceptions()):
        i, j, *strengths = force.getExceptionParameters(k)
        found.append(({i, j}, tuple(strengths)))
    for k in range(force.getNumExceptionParameterOffsets()):
        _, exception, *strengths = force.getExceptionParameterOffset(k)
        i, j, *_ = force.getExceptionParameters(exception)
        found.append(({i, j}, tuple(strengths)))
    return [
        particles
        for particles, (charge, _, epsilon) in found
        if _number(charge) or _number(epsilon)
    ]


def _number(value: Any) -> float:
    """Return a parameter as a number: OpenMM gives those of offsets without units."""
    return (
        float(value.value_in_unit_system(unit.md_unit_system))
        if unit.is_quantity(value)
        else float(value)
    )


def _exclude_nonbonded(
    system: openmm.System, force: openmm.NonbondedForce, region: AbstractSet[int]
) -> None:
    _exclude_pairs(force, region)
    method = force.getNonbondedMethod()
    corrected = force.getUseDispersionCorrection()
    if not _acts_inside(force, region):
        return
    if method in LATTICE or (
        method == force.CutoffPeriodic
        and corrected
        and force.getNumParticleParameterOffsets()
    ):
        _subtract(system, force, region)
    elif method == force.CutoffPeriodic and corrected:
        _subtract_tail(system, force, region)


def _exclude_custom(
    system: openmm.System, force: openmm.CustomNonbondedForce, region: AbstractSet[int]
) -> None:
    _exclude_pairs(force, region)
    if not has_tail(force):
        return
    if force.getNumGlobalParameters():
        raise ValueError(
            f"the long-range correction of {force.getName()} depends on its global "
            "parameters, so that the part between the model's atoms "
            f"{listed(region)}, now {_tail(system, force, region):.3g} kJ/mol, cannot "
            "be taken out: call its setUseLongRangeCorrection(False)"
        )
    _subtract_tail(system, force, region)


def _exclude_pairs(
    force: openmm.NonbondedForce | openmm.CustomNonbondedForce,
    region: AbstractSet[int],
) -> None:
    pairs = itertools.combinations(sorted(region), 2)
    if isinstance(force, openmm.CustomNonbondedForce):
        known = {
            frozenset(force.getExclusionParticles(k))
            for k in range(force.getNumExclusions())
        }
        for i, j in pairs:
            if frozenset((i, j)) not in known:
                force.addExclusion(i, j)
        return
    for i, j in pairs:
        force.addException(i, j, 0.0, 1.0, 0.0, True)
    for k in range(force.getNumExceptionParameterOffsets()):
        parameter, exception, *_ = force.getExceptionParameterOffset(k)
        i, j, *_ = force.getExceptionParameters(exception)
        if {i, j} <= region:
            force.setExceptionParameterOffset(k, parameter, exception, 0.0, 0.0, 0.0)


def _keep_only(force: openmm.NonbondedForce, region: AbstractSet[int]) -> None:
    """Take charges and dispersion from all particles outside a region."""
    for index in range(force.getNumParticles()):
        if index not in region:
            force.setParticleParameters(index, 0.0, 1.0, 0.0)
    for k in range(force.getNumParticleParameterOffsets()):
        parameter, index, *_ = force.getParticleParameterOffset(k)
        if index not in region:
            force.setParticleParameterOffset(k, parameter, index, 0.0, 0.0, 0.0)
    for k in range(force.getNumExceptions()):
        i, j, *_ = force.getExceptionParameters(k)
        if not {i, j} <= region:
            force.setExceptionParameters(k, i, j, 0.0, 1.0, 0.0)
    for k in range(force.getNumExceptionParameterOffsets()):
        parameter, exception, *_ = force.getExceptionParameterOffset(k)
        i, j, *_ = force.getExceptionParameters(exception)
        if not {i, j} <= region:
            force.setExceptionParameterOffset(k, parameter, exception, 0.0, 0.0, 0.0)


def _subtract(
    system: openmm.System, force: openmm.NonbondedForce, region: AbstractSet[int]
) -> None:
    """Add the negative of what a force without pairs in a region does inside it."""
    inside = only_inside(force, region)
    inside.setReciprocalSpaceForceGroup(-1)  # computed together
    negative = openmm.CustomCVForce("-inside")
    negative.addCollectiveVariable("inside", inside)
    _add(system, negative, force, region)


def _subtract_tail(
    system: openmm.System,
    force: openmm.NonbondedForce | openmm.CustomNonbondedForce,
    region: AbstractSet[int],
) -> None:
    """Add the negative of a region's share of a long-range correction."""
    coefficient = tail_coefficient(force, region)
    if coefficient:
        negative = openmm.CustomVolumeForce(f"{-coefficient!r}/v")
        _add(system, negative, force, region)


def _tail(
    system: openmm.System, force: openmm.CustomNonbondedForce, region: AbstractSet[int]
) -> float:
    """Return a region's share of a long-range correction, kJ/mol."""
    edges = rows_of(system.getDefaultPeriodicBoxVectors()) / NM_TO_ANGSTROM
    return tail_coefficient(force, region) / abs(float(np.linalg.det(edges)))


def has_tail(force: openmm.CustomNonbondedForce) -> bool:
    """Tell whether a CustomNonbondedForce has a long-range correction."""
    return bool(
        force.getNonbondedMethod() == force.CutoffPeriodic
        and force.getUseLongRangeCorrection()
    )


def _add(
    system: openmm.System,
    negative: openmm.Force,
    force: openmm.Force,
    region: AbstractSet[int],
) -> None:
    negative.setName(inside_name(region, force.getName()))
    negative.setForceGroup(force.getForceGroup())
    system.addForce(negative)

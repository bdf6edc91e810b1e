"""Whether a System is fit for a model: refusals, and warnings of what looks wrong.

Warnings point at the line outside this package that led to them.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.domain import OutsideDomainWarning, outside_domain
from openmm_se3.elements import chemical_symbol
from openmm_se3.geometry import rows_of
from openmm_se3.model_file import ModelFile


def refuse_unfit(system: openmm.System, chosen: list[int]) -> None:
    """Refuse particles that a model of free atoms cannot act on.

    Raises:
        ValueError: Names the particle and the fix.
    """
    members = set(chosen)
    for index in chosen:
        if system.isVirtualSite(index):
            raise ValueError(
                f"particle {index} is a virtual site: leave it out of atoms"
            )
    for index in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(index)
        if first in members or second in members:
            raise ValueError(
                f"particles {first} and {second} are constrained; the model's atoms "
                "move freely: make the System with constraints=None, rigidWater=False"
            )


def box_volume(
    system: openmm.System, box: np.ndarray | None, periodic: bool
) -> float | None:
    """Return the volume of the box, A^3; None without a box.

    Args:
        system: The System, whose default box counts where the topology has none.
        box: Box vectors of the topology as rows [3, 3], A; None without a box.
        periodic: The System is periodic.
    """
    if box is None and periodic:
        box = rows_of(system.getDefaultPeriodicBoxVectors())
    return None if box is None else abs(float(np.linalg.det(box)))


def warn_of_other_box(system: openmm.System, topology: app.Topology) -> None:
    """Warn where topology and System disagree about the box."""
    vectors = topology.getPeriodicBoxVectors()
    if vectors is None:
        return
    box, other = (
        np.array([vector.value_in_unit(unit.nanometer) for vector in three])
        for three in (vectors, system.getDefaultPeriodicBoxVectors())
    )
    if not np.allclose(box, other, atol=1e-4):
        _warn(
            f"the topology's box is {box.tolist()} nm, the System's {other.tolist()}, "
            "which counts unless a Context is given another; fix: system."
            "setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())",
        )
    for force in system.getForces():
        if (
            isinstance(force, openmm.NonbondedForce | openmm.CustomNonbondedForce)
            and not force.usesPeriodicBoundaryConditions()
        ):
            _warn(
                f"the topology has a box, but the System's {force.getName()} is not "
                "periodic, and the model will be: make the System with "
                "nonbondedMethod=app.PME, or clear the topology's box with "
                "topology.setPeriodicBoxVectors(None)",
            )


def warn_of_second_model(system: openmm.System, chosen: list[int]) -> None:
    """Warn of atoms on which another SE3Potential of the System acts."""
    twice = sorted(atoms_with_model(system).intersection(chosen))
    if twice:
        _warn(
            f"the System has an SE3Potential already on {_few(twice)}, whose energy "
            "is counted twice now; add this one to a new System, or choose other atoms "
            "with atoms="
        )


def refuse_second_model(system: openmm.System, chosen: list[int]) -> None:
    """Refuse to make a mixed System of atoms that are on a potential already.

    Raises:
        ValueError: Names the atoms.
    """
    twice = sorted(atoms_with_model(system).intersection(chosen))
    if twice:
        raise ValueError(
            f"the System has an SE3Potential already on {_few(twice)}: make the mixed "
            "System from the classical one, or choose other atoms"
        )


def warn_of_cut_molecules(topology: app.Topology, chosen: list[int]) -> None:
    """Warn of bonds from the model's atoms to others."""
    members = set(chosen)
    cut = [
        (first.index, second.index)
        for first, second, *_ in topology.bonds()
        if (first.index in members) != (second.index in members)
    ]
    if cut:
        others = f" and {len(cut) - 1:,} more" if len(cut) > 1 else ""
        _warn(
            "the model's atoms end within a molecule, at the bond of atoms "
            f"{cut[0][0]} and {cut[0][1]}{others}: the model sees the piece as if it "
            "were alone; choose whole molecules"
        )


def _few(atoms: list[int]) -> str:
    shown = ", ".join(str(atom) for atom in atoms[:3])
    more = f" and {len(atoms) - 3:,} more" if len(atoms) > 3 else ""
    return f"atom{'s' if len(atoms) > 1 else ''} {shown}{more}"


def warn_of_missing_atoms(
    model: ModelFile, topology: app.Topology, chosen: list[int]
) -> None:
    """Warn of missing hydrogen, else of odd electrons, else of unknown molecules."""
    elements = [atom.element for atom in topology.atoms()]
    numbers = [elements[index].atomic_number for index in chosen]
    level = model.metadata["level_of_theory"]
    if "H" in model.config.elements and len(chosen) > 1 and 1 not in numbers:
        _warn(
            f"none of the model's {len(chosen)} atoms is hydrogen; structures from "
            "X-ray diffraction lack it: add it with app.Modeller's addHydrogens",
        )
        return
    electrons = sum(numbers) - level.get("charge", 0)
    if {"charge", "spin"} <= set(level) and (electrons - level["spin"]) % 2:
        _warn(
            f"with the model's charge of {level['charge']} its atoms have "
            f"{electrons} electrons, which cannot have its spin of "
            f"{level['spin']}: are atoms missing or chosen by mistake?",
            OutsideDomainWarning,
        )
        return
    fault = _other_molecule(model, topology, chosen)
    if fault is not None:
        _warn(
            f"outside of the training data of the model {model.metadata['name']!r}: "
            f"{fault}; its energy and forces mean nothing there, and 'openmm-se3 run' "
            "refuses it",
            OutsideDomainWarning,
        )


def _other_molecule(
    model: ModelFile, topology: app.Topology, chosen: list[int]
) -> str | None:
    """Return what is outside of a model's domain by the topology's bonds, or None."""
    place = {atom: index for index, atom in enumerate(chosen)}
    elements = [atom.element for atom in topology.atoms()]
    bonds = [
        (place[first.index], place[second.index])
        for first, second, *_ in topology.bonds()
        if first.index in place and second.index in place
    ]
    symbols = [chemical_symbol(elements[index]) for index in chosen]
    return outside_domain(model.domain, symbols, np.array(bonds))


def warn_of_free_molecules(model: ModelFile) -> None:
    """Warn of a model from periodic boxes only in a System that has none."""
    if model.boxes_only:
        _warn(
            f"the model {model.metadata['name']!r} has seen periodic boxes "
            "only: free molecules and surfaces are outside its data, and molecules "
            "may fall apart there; give the topology a box",
        )


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].startswith("openmm_se3"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


NAME = "SE3Potential"
# Starts the name of forces that subtract what a classical one does inside a region.
INSIDE = f"{NAME} minus inside of"
PATTERN = re.compile(rf"{NAME}(?: of atoms (?P<atoms>[\d,-]+))?")


def force_name(atoms: Sequence[int], n_particles: int) -> str:
    """Return "SE3Potential", or if not of all atoms "SE3Potential of atoms 0-2,7"."""
    ordered = sorted(atoms)
    if ordered == list(range(n_particles)):
        return NAME
    return f"{NAME} of atoms {_ranges(ordered)}"


def inside_name(region: Iterable[int], force: str) -> str:
    """Return the name of what subtracts a force inside a region of particles."""
    return f"{INSIDE} {_ranges(sorted(region))}: {force}"


def _ranges(ordered: list[int]) -> str:
    runs: list[list[int]] = []
    for atom in ordered:
        if runs and atom == runs[-1][-1] + 1:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return ",".join(
        f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs
    )


def atoms_with_model(system: openmm.System) -> set[int]:
    """Return the atoms on which our forces in a System act already."""
    found: set[int] = set()
    for force in system.getForces():
        named = PATTERN.fullmatch(force.getName())
        if named is None:
            continue
        if named["atoms"] is None:
            return set(range(system.getNumParticles()))
        for part in named["atoms"].split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def listed(particles: AbstractSet[int]) -> str:
    """Return the first particles and the number of the others, for a message."""
    shown = ", ".join(str(index) for index in sorted(particles)[:5])
    return shown + (f" and {len(particles) - 5:,} more" if len(particles) > 5 else "")

"""Names of our forces in a System, which tell the atoms that they act on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import openmm

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

"""Names of our forces in a System, which tell the atoms that they act on."""

from __future__ import annotations

import re
from collections.abc import Sequence

import openmm

NAME = "SE3Potential"
PATTERN = re.compile(rf"{NAME}(?: of atoms (?P<atoms>[\d,-]+))?")


def force_name(atoms: Sequence[int], n_particles: int) -> str:
    """Return "SE3Potential", or if not of all atoms "SE3Potential of atoms 0-2,7"."""
    ordered = sorted(atoms)
    if ordered == list(range(n_particles)):
        return NAME
    runs: list[list[int]] = []
    for atom in ordered:
        if runs and atom == runs[-1][-1] + 1:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return f"{NAME} of atoms {','.join(parts)}"


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

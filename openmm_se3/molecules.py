"""Molecules of a System whose forces have no bonds to find them by."""

from __future__ import annotations

from collections.abc import Iterable

import openmm
from openmm import app

NAME = "SE3Potential molecules"  # of the force that holds the bonds


def keep_molecules(
    system: openmm.System,
    topology: app.Topology,
    atoms: Iterable[int] | None = None,
    group: int = 0,
) -> None:
    """Add the topology's bonds, without strength, by which OpenMM finds molecules.

    Args:
        system: The System; changed in place.
        topology: Its topology.
        atoms: Only bonds between these are added; None for all.
        group: Force group.
    """
    members = None if atoms is None else set(atoms)
    molecules = openmm.HarmonicBondForce()
    for bond in topology.bonds():
        first, second = (atom.index for atom in bond)
        if members is None or {first, second} <= members:
            molecules.addBond(first, second, 0.0, 0.0)
    if molecules.getNumBonds():
        molecules.setName(NAME)
        molecules.setForceGroup(group)
        system.addForce(molecules)

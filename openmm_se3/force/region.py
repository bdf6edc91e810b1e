"""The particles that a model takes over: its atoms and the sites built on them."""

from __future__ import annotations

from collections.abc import Collection

import openmm


def region_of(system: openmm.System, atoms: Collection[int]) -> set[int]:
    """Return the model's atoms and the virtual sites that depend on nothing else.

    The energy of such a site, the M site of a TIP4P water for example, is a function of
    the model's atoms alone, so that it must not act inside the region.

    Args:
        system: The System.
        atoms: The model's atoms.

    Raises:
        ValueError: A virtual site depends on chosen atoms and on others, or is a copy
            of a chosen atom by symmetry.
    """
    region = set(atoms)
    sites = {
        index: _parents(system.getVirtualSite(index))
        for index in range(system.getNumParticles())
        if system.isVirtualSite(index) and index not in region
    }
    found = True
    while found:  # a site may depend on another site
        found = False
        for index, parents in list(sites.items()):
            if parents <= region:
                _refuse_copy(system, index, parents)
                region.add(index)
                del sites[index]
                found = True
    for index, parents in sites.items():
        if parents & region:
            raise ValueError(
                f"particle {index} is a virtual site built on atoms {sorted(parents)}, "
                f"of which only {sorted(parents & region)} are the model's: choose "
                f"{sorted(parents - region)} too, or none of them"
            )
    return region


def _parents(site: openmm.VirtualSite) -> set[int]:
    return {site.getParticle(k) for k in range(site.getNumParticles())}


def _refuse_copy(system: openmm.System, index: int, parents: set[int]) -> None:
    if isinstance(system.getVirtualSite(index), openmm.SymmetrySite):
        raise ValueError(
            f"particle {index} is a copy by symmetry of the model's atoms "
            f"{sorted(parents)}, which the model would not see: make the System of the "
            "whole unit cell, without SymmetrySite"
        )

"""The model that a campaign leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_se3.active_learning.campaign import MODEL, Campaign
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.export import write_committee
from openmm_se3.simulation.small_molecule import molecule_topology


def write_model(
    campaign: Campaign,
    settings: Settings,
    number: int,
    system: System,
    minimum: np.ndarray,
    threshold: float,
) -> Path:
    """Write the committee of a round as a model folder.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        number: The round.
        system: The system whose minimum the model keeps for its checks.
        minimum: Its positions [n_atoms, 3], A.
        threshold: Deviation above which a frame is uncertain, eV/A.
    """
    folder = campaign.folder / MODEL
    members = [campaign.member_folder(number, m) for m in range(settings.members)]
    reference = system.symbols, minimum
    write_committee(
        members, folder, reference=reference, threshold=threshold, overwrite=True
    )
    return folder


def write_structures(
    campaign: Campaign, systems: Sequence[System], minima: Sequence[np.ndarray]
) -> list[Path]:
    """Write the minimum of each system as PDB, from which a simulation can start."""
    from openmm import app, unit

    paths = []
    for index, (system, minimum) in enumerate(zip(systems, minima, strict=True)):
        bonds = [(int(i), int(j), None, None) for i, j in system.bonds_of(minimum)]
        topology = molecule_topology(system.symbols, bonds)
        name = "molecule.pdb" if len(systems) == 1 else f"molecule-{index + 1}.pdb"
        paths.append(campaign.folder / name)
        with open(paths[-1], "w", encoding="ascii") as file:
            positions = unit.Quantity(minimum, unit.angstrom)
            app.PDBFile.writeFile(topology, positions, file, keepIds=True)
    return paths

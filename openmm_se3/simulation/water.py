"""Water molecules: their topology, a start, and the run on a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit
from rich.console import Console

from openmm_se3._moved import renamed_names
from openmm_se3.geometry import random_rotation
from openmm_se3.renamed_fields import accepts_old_names
from openmm_se3.simulation.folder import chosen_seed
from openmm_se3.simulation.model import ModelRunOptions, run_model
from openmm_se3.simulation.phases import RunRecord
from openmm_se3.water_molecule import GAS_PHASE, water_molecule

__getattr__ = renamed_names(__name__, {"WaterRun": "WaterRunOptions"})
HYDROGEN_BOND = 2.9  # A, O-O distance of a new molecule to its donor
# A, least distances between molecules of a start; closer ones would be pushed apart.
MIN_CONTACT = {("H", "H"): 1.8, ("H", "O"): 1.7, ("O", "O"): 2.6}
TRIES = 200  # orientations of a new molecule before another donor is taken


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class WaterRunOptions(ModelRunOptions):
    """Options of a run of water molecules.

    Attributes:
        molecules: Number of water molecules, without a box.
    """

    out: str | Path = "water-run"
    molecules: int = 1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value is out of its range; the message names it.
        """
        super().__post_init__()
        if self.molecules < 1:
            raise ValueError(f"molecules is {self.molecules}; it must be at least 1")
        if self.ensemble == "npt":
            raise ValueError("ensemble is 'npt', but these molecules have no box")


def run_water(
    options: WaterRunOptions, console: Console | None = None, command: str = ""
) -> RunRecord:
    """Run water molecules on a model and write the trajectory to ``options.out``.

    Args:
        options: What to run.
        console: Shows progress there; None shows nothing.
        command: The command that repeats the run, for its report.

    Raises:
        FolderInUseError: The folder has results already, or another run writes to it.
        ValueError: There is no such platform.
        FileNotFoundError: There is no such model.
    """
    options = dataclasses.replace(options, seed=chosen_seed(options))
    topology = water_topology(options.molecules)
    positions = water_start(options.molecules, options.seed)
    about: dict[str, Any] = {"molecules": options.molecules}
    if command:
        about["command"] = command
    return run_model(topology, positions, options, about, console)


def water_topology(n_molecules: int) -> app.Topology:
    """Return a topology of water molecules: O, H1, H2 each, with their bonds."""
    topology = app.Topology()
    chain = topology.addChain()
    oxygen, hydrogen = app.element.oxygen, app.element.hydrogen
    for _ in range(n_molecules):
        residue = topology.addResidue("HOH", chain)
        center = topology.addAtom("O", oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(center, topology.addAtom(name, hydrogen, residue))
    return topology


def water_start(n_molecules: int, seed: int | None = None) -> unit.Quantity:
    """Return start positions [n_atoms, 3] with their unit: a hydrogen-bonded cluster.

    One molecule has its gas-phase geometry.  Each further one accepts a hydrogen bond
    from a molecule that is there, in a random orientation without bad contacts.  The
    run minimizes whatever this gives on its model.

    Args:
        n_molecules: Number of molecules.
        seed: Seed of the random choices; None draws one.
    """
    rng = np.random.default_rng(seed)
    length, angle = GAS_PHASE
    shape = water_molecule(length, length, angle)
    molecules = [shape]
    while len(molecules) < n_molecules:
        donor = molecules[rng.integers(len(molecules))]
        bond = donor[rng.integers(1, 3)] - donor[0]
        oxygen = donor[0] + bond / np.linalg.norm(bond) * HYDROGEN_BOND
        for _ in range(TRIES):
            molecule = oxygen + shape @ random_rotation(rng).T
            if not _has_bad_contact(molecule, molecules):
                molecules.append(molecule)
                break
    return unit.Quantity(np.concatenate(molecules), unit.angstrom)


def _has_bad_contact(molecule: np.ndarray, others: list[np.ndarray]) -> bool:
    least = np.array(
        [[MIN_CONTACT[min(a, b), max(a, b)] for b in "OHH"] for a in "OHH"]
    )
    separation = np.array(others)[:, None, :, :] - molecule[None, :, None, :]
    return bool((np.linalg.norm(separation, axis=-1) < least).any())

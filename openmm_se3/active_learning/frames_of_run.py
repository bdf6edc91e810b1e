"""Frames of a simulation that are to be learned, such as those that stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.choose import diverse_frames
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.structures import System
from openmm_se3.data.frames import Structure
from openmm_se3.elements import symbols_of
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.simulation.folder import (
    LAST_GOOD_FRAME,
    TOPOLOGY,
    TRAJECTORY,
    TRAJECTORY_XTC,
)
from openmm_se3.units import NM_TO_ANGSTROM

if TYPE_CHECKING:
    from rdkit import Chem

MOST_FRAMES = 2000  # of a trajectory whose deviation is computed, the last ones
KEPT = 100  # of those, of highest deviation


def take_run(
    campaign: Campaign,
    run: Path,
    systems: Sequence[System],
    committee: Committee,
    number: int,
) -> int:
    """Keep the frames of a simulation on which the committee deviates most.

    Args:
        campaign: The folder.
        run: Folder of a run of ``openmm-se3 run``.
        systems: What the campaign learns; the run must be of one of them.
        committee: The committee.
        number: The round after which they are labeled.

    Returns:
        Number of frames that were kept; those with a broken bond are not.

    Raises:
        FileNotFoundError: The folder holds no trajectory.
        ValueError: The run is of another molecule.
    """
    numbers, bonds, frames = _read_run(run)
    orders = [_order(numbers, bonds, system) for system in systems]
    index, order = next(
        ((i, order) for i, order in enumerate(orders) if order is not None), (0, None)
    )
    if order is None:
        names = ", ".join(system.name for system in systems)
        raise ValueError(
            f"{run} is a run of another molecule than this campaign's: {names}"
        )
    system = systems[index]
    frames = frames[-MOST_FRAMES:, order]
    frames = frames[system.intact(frames)]
    if len(frames):
        atoms = Atoms([system.numbers])
        deviation = np.array(
            [committee.predict(atoms, x).deviations(atoms)[0] for x in frames]
        )
        picked = diverse_frames(list(frames), deviation, [], KEPT)
        frames = frames[picked[np.argsort(-deviation[picked], kind="stable")]]
    path = campaign.folder / "data" / f"given-{number:02d}.npz"
    write_arrays(path, {"system": np.array(index), "positions": frames})
    campaign.record("given", round=number, run=run.name, frames=len(frames))
    return len(frames)


def _order(numbers: np.ndarray, bonds: np.ndarray, system: System) -> np.ndarray | None:
    """Return which atom of a run each atom of a system is; None if it is another.

    Atoms are told by their element and their bonds: atoms that can change places are
    the same to a network.
    """
    if len(numbers) != len(system.numbers):
        return None
    target = _graph(numbers, bonds)
    for minimum in system.minima:
        query = _graph(system.numbers, system.bonds_of(minimum))
        if query.GetNumBonds() == target.GetNumBonds():
            match = target.GetSubstructMatch(query)
            if match:
                return np.array(match)
    return None


def _graph(numbers: np.ndarray, bonds: np.ndarray) -> Chem.Mol:
    """Return atoms and bonds, all bonds alike."""
    from rdkit import Chem

    mol = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds:
        mol.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    return mol.GetMol()


def given_structures(
    campaign: Campaign, number: int, system: System, index: int
) -> list[Structure]:
    """Return the frames that were kept for a round, the most uncertain first.

    Args:
        campaign: The folder.
        number: The round.
        system: What they have to be of.
        index: Its number among what is learned.
    """
    if campaign.find("given", round=number) is None:
        return []
    path = campaign.folder / "data" / f"given-{number:02d}.npz"
    arrays = read_arrays(path)
    if int(arrays["system"]) != index:
        return []
    return [
        Structure(
            numbers=system.numbers,
            positions=frame - frame.mean(axis=0),
            trajectory=f"{system.trajectory}-given-{number}-{place}",
            kind="run",
            charge=system.charge,
            spin=0,
        )
        for place, frame in enumerate(arrays["positions"])
    ]


def _read_run(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atomic numbers [n_atoms], bonds [n_bonds, 2] and positions, A.

    Bonds are those of the topology, or without any those of the first frame's
    distances.  Positions are [n_frames, n_atoms, 3].
    """
    import mdtraj

    topology = run / TOPOLOGY
    trajectories = [run / name for name in (TRAJECTORY, TRAJECTORY_XTC)]
    found = [path for path in trajectories if path.is_file()]
    if not topology.is_file() or not found:
        raise FileNotFoundError(
            f"{run} holds no simulation: {TOPOLOGY} and {TRAJECTORY} are missing"
        )
    trajectory = mdtraj.load(str(found[0]), top=str(topology))
    numbers = np.array([a.element.atomic_number for a in trajectory.topology.atoms])
    frames = [trajectory.xyz.astype(float) * NM_TO_ANGSTROM]
    last = run / LAST_GOOD_FRAME
    if last.is_file():
        frames.append(mdtraj.load(str(last)).xyz.astype(float) * NM_TO_ANGSTROM)
    bonds = np.array(
        [(first.index, second.index) for first, second in trajectory.topology.bonds],
        dtype=int,
    )
    if not len(bonds):
        bonds = bonds_by_distance(symbols_of(numbers), frames[0][0], None)
    return numbers, bonds, np.concatenate(frames)

"""Frames of a simulation that are to be learned, such as those that stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.choose import diverse_frames
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.structures import System
from openmm_se3.data.frames import Structure
from openmm_se3.simulation.folder import (
    LAST_GOOD_FRAME,
    TOPOLOGY,
    TRAJECTORY,
    TRAJECTORY_XTC,
)
from openmm_se3.units import NM_TO_ANGSTROM

MOST_FRAMES = 2000  # of a trajectory whose deviation is computed, the last ones
KEPT = 100  # of those, of highest deviation


def take_run(
    campaign: Campaign,
    run: Path,
    systems: Sequence[System],
    committee: Committee,
    number: int,
) -> None:
    """Keep the frames of a simulation on which the committee deviates most.

    Args:
        campaign: The folder.
        run: Folder of a run of ``openmm-se3 run``.
        systems: What the campaign learns; the run must be of one of them.
        committee: The committee.
        number: The round after which they are labeled.

    Raises:
        FileNotFoundError: The folder holds no trajectory.
        ValueError: The run is of other atoms.
    """
    numbers, frames = _read_run(run)
    order = np.argsort(-numbers, kind="stable")
    names = [system.name for system in systems]
    matching = [s for s in systems if np.array_equal(s.numbers, numbers[order])]
    if not matching:
        raise ValueError(
            f"{run} is a run of other atoms than this campaign's: {', '.join(names)}"
        )
    frames = frames[-MOST_FRAMES:, order]
    atoms = Atoms([numbers[order]])
    deviation = np.array(
        [committee.predict(atoms, x).deviations(atoms)[0] for x in frames]
    )
    picked = diverse_frames(list(frames), deviation, [], KEPT)
    picked = picked[np.argsort(-deviation[picked], kind="stable")]
    path = campaign.folder / "data" / f"given-{number:02d}.npz"
    write_arrays(path, {"numbers": numbers[order], "positions": frames[picked]})
    campaign.record("given", round=number, run=run.name, frames=len(picked))


def given_structures(
    campaign: Campaign, number: int, system: System
) -> list[Structure]:
    """Return the frames that were kept for a round, the most uncertain first."""
    if campaign.find("given", round=number) is None:
        return []
    path = campaign.folder / "data" / f"given-{number:02d}.npz"
    arrays = read_arrays(path)
    numbers, positions = arrays["numbers"], arrays["positions"]
    if not np.array_equal(numbers, system.numbers):
        return []
    intact = system.intact(positions)
    return [
        Structure(
            numbers=numbers,
            positions=frame - frame.mean(axis=0),
            trajectory=f"{system.trajectory}-given-{number}-{index}",
            kind="run",
            charge=system.charge,
            spin=0,
        )
        for index, frame in enumerate(positions[intact])
    ]


def _read_run(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return atomic numbers [n_atoms] and positions [n_frames, n_atoms, 3], A."""
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
    return numbers, np.concatenate(frames)

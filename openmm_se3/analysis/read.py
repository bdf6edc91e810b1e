"""Reads what a run left, or any trajectory that mdtraj can read."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from openmm_se3.report.page import stride
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.log import COLUMNS, UNCERTAINTY
from openmm_se3.simulation.reporters import DCD_HEADER_BYTES
from openmm_se3.units import FS_TO_PS, NM_TO_ANGSTROM


@dataclasses.dataclass(frozen=True)
class Recording:
    """A trajectory and whatever else is known about it.

    Attributes:
        trajectory: Frames, as mdtraj holds them (nm).
        reference: Positions [n_atoms, 3], A, in the topology file; a run's minimum.
        times: Time of each frame [n_frames], ps; None if unknown.
        velocities: Velocities [n_frames, n_atoms, 3], A/fs, each half a step before its
            frame; None if they were not saved.
        log: Columns of the log by name; empty if there is none.
        run: What ``run.json`` says; empty if there is none.
        missing: One sentence for each thing that cannot be given, and why.
    """

    trajectory: mdtraj.Trajectory
    reference: np.ndarray
    times: np.ndarray | None
    velocities: np.ndarray | None
    log: dict[str, np.ndarray]
    run: dict[str, Any]
    missing: tuple[str, ...]

    def __repr__(self) -> str:
        """Say what there is; the arrays would fill screens."""
        there = [
            name
            for name, value in (
                ("times", self.times),
                ("velocities", self.velocities),
                ("log", self.log or None),
            )
            if value is not None
        ]
        return f"Recording({self.trajectory}, {', '.join(there) or 'frames only'})"


def read_folder(folder: str | Path) -> Recording:
    """Read the folder of a run, finished or not.

    Raises:
        ValueError: It is not such a folder, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not (folder / names.RUN).is_file():
        raise ValueError(
            f"{folder} is not the folder of a run: it has no {names.RUN}; for other "
            "trajectories give --trajectory and --topology"
        )
    run = names.read_facts(folder / names.RUN)
    top = folder / names.TOPOLOGY
    path = folder / names.trajectory_name(run)
    trajectory = _read_frames(path, top, may_be_empty=True)
    missing = []
    if run["status"] == "running":
        missing.append("The run has not ended: it goes on, or it was killed.")
    log = {}
    if (folder / names.LOG).is_file():
        log = read_log(folder / names.LOG)
        missing += _gaps(log["step"])
    else:
        missing.append("No energies, drift and temperature: there is no log.csv.")
    velocities = None
    if (folder / names.VELOCITIES).is_file():
        velocities = _read_velocities(folder / names.VELOCITIES)
        # A killed run may have written a frame to one file and not to the other.
        n_frames = min(len(velocities), trajectory.n_frames)
        velocities, trajectory = velocities[:n_frames], trajectory[:n_frames]
    else:
        missing.append("No vibrational spectrum: there is no velocities.npy.")
    wanted = run.get("steps", 0) // run["frame_interval"]
    if trajectory.n_frames < wanted:
        missing.insert(
            0,
            f"Only {trajectory.n_frames} of {wanted} frames are there: a file was cut "
            "short after the run. What follows is of these frames.",
        )
    spacing = run["frame_interval"] * run["options"]["dt_fs"] * FS_TO_PS
    return Recording(
        trajectory=trajectory,
        reference=_read_reference(top),
        times=spacing * np.arange(1, trajectory.n_frames + 1),
        velocities=velocities,
        log=log,
        run=run,
        missing=tuple(missing),
    )


def read_thinned(
    folder: Path, run: dict[str, Any]
) -> tuple[mdtraj.Trajectory, np.ndarray]:
    """Read as many frames of a run as a page shows, and their times [n_frames], ps."""
    path = folder / names.trajectory_name(run)
    frames = run.get("steps", 0) // run["frame_interval"]
    every = stride(frames, len(run["masses"]))
    top = folder / names.TOPOLOGY
    trajectory = _read_frames(path, top, may_be_empty=True, stride=every)
    spacing = run["frame_interval"] * run["options"]["dt_fs"] * FS_TO_PS
    return trajectory, spacing * (1 + every * np.arange(trajectory.n_frames))


def read_files(
    trajectory: str | Path, topology: str | Path, frame_fs: float | None = None
) -> Recording:
    """Read any trajectory.

    Args:
        trajectory: File that mdtraj can read.
        topology: PDB file of the same atoms, whose bond lengths serve as the reference.
        frame_fs: Time between frames, fs; by default as in the file, if it has times.

    Raises:
        ValueError: A file cannot be read, the two do not fit together, or the time is
            not positive.
    """
    if frame_fs is not None and not 0.0 < frame_fs < math.inf:
        raise ValueError(f"the time between frames must be positive, got {frame_fs} fs")
    frames = _read_frames(Path(trajectory), Path(topology))
    missing = [
        "No energies, energy drift and temperature: they need the log of a run.",
        "No vibrational spectrum: it needs saved velocities, which trajectories lack.",
    ]
    times = None
    if frame_fs is not None:
        times = frame_fs * FS_TO_PS * np.arange(1, frames.n_frames + 1)
    elif Path(trajectory).suffix in (".xtc", ".trr", ".h5", ".nc"):
        times = np.asarray(frames.time, float)
    else:
        missing.append(
            "No times: a file of this kind has none; give --frame-interval in fs."
        )
    return Recording(
        trajectory=frames,
        reference=_read_reference(Path(topology)),
        times=times,
        velocities=None,
        log={},
        run={},
        missing=tuple(missing),
    )


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns of a log by name; empty fields are not-a-number.

    A last line that was cut short by a kill is left out.

    Raises:
        ValueError: The file is not such a log.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    columns = tuple(rows[0]) if rows else ()
    if columns not in (COLUMNS, (*COLUMNS, UNCERTAINTY)):
        raise ValueError(f"{path} is not a log: its first line must name {COLUMNS}")
    whole = rows[1:]
    if whole and len(whole[-1]) < len(columns):
        del whole[-1]
    for line, row in enumerate(whole, start=2):
        if len(row) != len(columns):
            raise ValueError(
                f"{path} is damaged: line {line} has {len(row)} fields instead of "
                f"{len(columns)}; take it out"
            )
    try:
        table = np.array([[float(x or "nan") for x in row] for row in whole])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return dict(zip(columns, table.reshape(-1, len(columns)).T, strict=True))


def _gaps(steps: np.ndarray) -> list[str]:
    """Return a sentence if rows of a log are missing between others."""
    apart = np.diff(steps)
    wide = np.flatnonzero(apart > apart.min(initial=np.inf))
    if not len(wide):
        return []
    first = steps[wide[0]], steps[wide[0] + 1]
    return [
        f"The log lacks rows in {len(wide)} places, the first between the steps "
        f"{first[0]:.0f} and {first[1]:.0f}."
    ]


def _read_velocities(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, and all but the spectrum is "
            "analyzed"
        ) from error


def _read_reference(topology: Path) -> np.ndarray:
    with _ascii_name(topology) as name:
        frame = mdtraj.load(name)[0]
    if frame.unitcell_lengths is not None and frame.topology.n_bonds:
        # A bond across the face of the box is as long as the box.
        frame.make_molecules_whole(inplace=True)
    return np.asarray(frame.xyz[0], float) * NM_TO_ANGSTROM


@contextlib.contextmanager
def _ascii_name(path: Path) -> Iterator[str]:
    """Give a name of a file that mdtraj can open, which must be ASCII."""
    if str(path).isascii():
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="openmm-se3-") as folder:
        compressed = path.suffix == ".gz"
        link = Path(folder) / f"file{''.join(path.suffixes[-1 - compressed :])}"
        if not str(link).isascii():
            # The suffix, or the folder for temporary files.
            raise ValueError(
                f"mdtraj reads only files with names in ASCII, and {path} has no other "
                "name: rename it, or set TMPDIR to a folder with such a name"
            )
        link.symlink_to(path.absolute())
        yield str(link)


def _read_frames(
    path: Path, topology: Path, may_be_empty: bool = False, stride: int = 1
) -> mdtraj.Trajectory:
    if not topology.is_file():
        raise ValueError(f"there is no topology file {topology}")
    try:
        with _ascii_name(topology) as name:
            atoms = mdtraj.load_topology(name)
    except Exception as error:
        raise ValueError(
            f"mdtraj cannot read the topology {topology}: {error}"
        ) from error
    if may_be_empty and (not path.is_file() or _is_empty(path)):
        return mdtraj.Trajectory(np.empty((0, atoms.n_atoms, 3), np.float32), atoms)
    if not path.is_file():
        raise ValueError(f"there is no trajectory file {path}")
    try:
        with _quiet_stdout(), _ascii_name(path) as name:
            return mdtraj.load(name, top=atoms, stride=stride)
    # mdtraj raises errors of many kinds, some of them bare Exceptions.
    except Exception as error:
        raise ValueError(
            f"mdtraj cannot read {path} with the {atoms.n_atoms} atoms of {topology}: "
            f"{error or 'it is empty or damaged'}"
        ) from error


def _is_empty(path: Path) -> bool:
    # A DCD has its header when the run starts, and the first frame later.
    return path.stat().st_size <= (DCD_HEADER_BYTES if path.suffix == ".dcd" else 0)


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    # mdtraj's DCD reader prints from C, past sys.stdout.
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)

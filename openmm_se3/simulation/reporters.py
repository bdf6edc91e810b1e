"""OpenMM reporters for what the analysis needs: frames and velocities.

A file of an earlier sitting is continued: ``keep`` of its bytes, as many as it had at
the checkpoint, stay and the rest is cut off.

DCD and velocities are readable up to the last whole record at any moment, also after a
kill.  Velocities are those the integrator holds: OpenMM's Verlet, LangevinMiddle and
Nose-Hoover integrators are leapfrogs, so they belong to half a step before the
positions of the same frame.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.units import NM_TO_ANGSTROM

PS_TO_FS = 1000.0
NUMPY_MAGIC = b"\x93NUMPY\x01\x00"
NUMPY_HEADER_BYTES = 128
DCD_HEADER_BYTES, DCD_BOX_BYTES = 276, 56
DCD_COUNT_AT = 8  # place of the number of frames in the header


def every(
    simulation: app.Simulation, interval: int, include: tuple[str, ...]
) -> dict[str, Any]:
    """Return OpenMM's description of the next report of a reporter.

    Positions are asked for unwrapped: an ML force has no bonds, so OpenMM would wrap
    atom by atom and tear molecules apart.
    """
    steps = interval - simulation.currentStep % interval
    return {"steps": steps, "periodic": False, "include": list(include)}


def open_at(path: str | Path, keep: int) -> io.BufferedRandom:
    """Open a file for reading and writing with its first ``keep`` bytes only."""
    file = open(path, "r+b" if keep else "w+b")
    file.truncate(keep)
    file.seek(keep)
    return file


def synced_size(file: io.BufferedRandom) -> int:
    """Return the size of a file in bytes, once all of it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    return os.fstat(file.fileno()).st_size


class TrajectoryReporter:
    """Writes a DCD or XTC trajectory, by the suffix of its name.

    Molecules stay whole and are not put back into the box when they leave it.

    Args:
        path: File to write.
        interval: Steps between frames.
        topology: Topology of the atoms.
        dt_fs: Time step, fs.
        keep: Bytes of an earlier sitting that stay.
    """

    def __init__(
        self,
        path: str | Path,
        interval: int,
        topology: app.Topology,
        dt_fs: float,
        keep: int = 0,
    ) -> None:
        self.interval = interval
        self._file = open_at(path, keep)
        step = dt_fs / PS_TO_FS * unit.picosecond
        settings = (topology, step, interval, interval, keep > 0)
        if Path(path).suffix == ".xtc":
            self._writer = app.XTCFile(str(path), *settings)
            return
        if keep:
            # OpenMM counts a frame before it writes it, and goes on from the count.
            atoms, periodic = topology.getNumAtoms(), topology.getPeriodicBoxVectors()
            frame = 3 * (4 * atoms + 8) + (DCD_BOX_BYTES if periodic else 0)
            self._file.seek(DCD_COUNT_AT)
            self._file.write(struct.pack("<i", (keep - DCD_HEADER_BYTES) // frame))
        self._writer = app.DCDFile(self._file, *settings)

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        return every(simulation, self.interval, ("positions",))

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        self._writer.writeModel(
            state.getPositions(asNumpy=True),
            periodicBoxVectors=state.getPeriodicBoxVectors(),
        )

    def sync(self) -> int:
        """Bring all frames to the disk and return their bytes."""
        return synced_size(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class VelocityReporter:
    """Writes velocities as one NumPy array [n_frames, n_atoms, 3], float32, A/fs.

    Frames are appended, and the number of them in the header is renewed after each, so
    that ``numpy.load`` reads every whole frame of an unfinished file.

    Args:
        path: File to write.
        interval: Steps between frames.
        n_atoms: Number of atoms.
        keep: Bytes of an earlier sitting that stay.
    """

    def __init__(
        self, path: str | Path, interval: int, n_atoms: int, keep: int = 0
    ) -> None:
        self.interval = interval
        self._n_atoms = n_atoms
        self._n_frames = max(0, keep - NUMPY_HEADER_BYTES) // (12 * n_atoms)
        self._file = open_at(path, keep)
        self._write_header()

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        return every(simulation, self.interval, ("velocities",))

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Append one frame."""
        velocities = state.getVelocities(asNumpy=True)._value  # nm/ps
        frame = np.asarray(velocities * (NM_TO_ANGSTROM / PS_TO_FS), "<f4")
        self._file.seek(0, io.SEEK_END)
        self._file.write(frame.tobytes())
        self._file.flush()
        self._n_frames += 1
        self._write_header()

    def sync(self) -> int:
        """Bring all frames to the disk and return their bytes, header included."""
        return synced_size(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        # NumPy's format 1.0, padded so that the number of frames may grow in place.
        # Written by hand, as NumPy's own function would take a tenth of a step's time.
        shape = f"({self._n_frames}, {self._n_atoms}, 3)"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.ljust(NUMPY_HEADER_BYTES - len(NUMPY_MAGIC) - 3) + "\n"
        self._file.seek(0)
        self._file.write(NUMPY_MAGIC + len(text).to_bytes(2, "little") + text.encode())
        self._file.flush()

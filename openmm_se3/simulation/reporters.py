"""OpenMM reporters for what the analysis needs: frames and velocities.

Each file is readable up to its last whole record at any moment, also after a kill.
Velocities are those the integrator holds: VerletIntegrator and LangevinMiddleIntegrator
are leapfrogs, so they belong to half a step before the positions of the same frame.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.units import NM_TO_ANGSTROM

PS_TO_FS = 1000.0
NUMPY_MAGIC = b"\x93NUMPY\x01\x00"
HEADER_BYTES = 128


def every(
    simulation: app.Simulation, interval: int, include: tuple[str, ...]
) -> dict[str, Any]:
    """Return OpenMM's description of the next report of a reporter.

    Positions are asked for unwrapped: an ML force has no bonds, so OpenMM would wrap
    atom by atom and tear molecules apart.
    """
    steps = interval - simulation.currentStep % interval
    return {"steps": steps, "periodic": False, "include": list(include)}


class TrajectoryReporter:
    """Writes a DCD trajectory.

    Args:
        path: File to write.
        interval: Steps between frames.
        topology: Topology of the atoms.
        dt_fs: Time step, fs.
    """

    def __init__(
        self, path: str | Path, interval: int, topology: app.Topology, dt_fs: float
    ) -> None:
        self.interval = interval
        self._file = open(path, "wb")
        step = dt_fs / PS_TO_FS * unit.picosecond
        self._dcd = app.DCDFile(self._file, topology, step, interval, interval)

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to report next, and what."""
        return every(simulation, self.interval, ("positions",))

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        self._dcd.writeModel(
            state.getPositions(asNumpy=True),
            periodicBoxVectors=state.getPeriodicBoxVectors(),
        )

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
    """

    def __init__(self, path: str | Path, interval: int, n_atoms: int) -> None:
        self.interval = interval
        self._n_atoms = n_atoms
        self._n_frames = 0
        self._file = open(path, "wb")
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

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_header(self) -> None:
        # NumPy's format 1.0, padded so that the number of frames may grow in place.
        # Written by hand, as NumPy's own function would take a tenth of a step's time.
        shape = f"({self._n_frames}, {self._n_atoms}, 3)"
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.ljust(HEADER_BYTES - len(NUMPY_MAGIC) - 3) + "\n"
        self._file.seek(0)
        self._file.write(NUMPY_MAGIC + len(text).to_bytes(2, "little") + text.encode())
        self._file.flush()

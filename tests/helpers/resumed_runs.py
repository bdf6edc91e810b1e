"""Runs that are stopped and resumed, and what they leave."""

from __future__ import annotations

import json
import signal
import struct
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from openmm import app
from rich.console import Console

from openmm_se3.simulation import (
    RunOptions,
    RunRecord,
    run_dynamics,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.ensemble import PRODUCTION
from openmm_se3.simulation.progress import ProgressReporter

STEPS = 2000

EDGE = 8.0  # A, of the box of eight molecules

KINDS: dict[str, dict[str, Any]] = {
    "nve": {},
    "nvt": {"ensemble": "nvt", "trajectory": "xtc"},
    "nose-hoover": {"ensemble": "nvt", "thermostat": "nose-hoover"},
    "npt": {"ensemble": "npt", "pressure_bar": 1000.0},
}


def run(
    out: Path,
    about: dict[str, Any] | None = None,
    console: Console | None = None,
    **changes: Any,
) -> RunRecord:
    """Run harmonic water: two molecules, or eight in a box for NPT."""
    settings: dict[str, Any] = {
        "steps": STEPS,
        "platform": "Reference",
        "equilibration_ps": 0.2,
        "frame_fs": 2.0,
        "checkpoint_ps": 0.1,
        "seed": 1,
        **changes,
    }
    if settings.get("ensemble") == "npt":
        system, topology = harmonic_water(8, EDGE)
        corners = np.stack(np.meshgrid(*[[0.0, EDGE / 2]] * 3), axis=-1).reshape(
            8, 1, 3
        )
        start = (water_positions(1) + corners).reshape(-1, 3)
    else:
        system, topology = harmonic_water(2)
        start = water_positions(2, 1)
    return run_dynamics(
        system, topology, start, RunOptions(out=out, **settings), about, console
    )


def content(folder: Path) -> dict[str, Any]:
    """Return what a run recorded, and how long it took."""
    facts = json.loads((folder / names.RUN).read_text())
    path = folder / names.trajectory_name(facts)
    frames = mdtraj.load(str(path), top=str(folder / names.TOPOLOGY))
    return {
        "status": facts["status"],
        "positions": frames.xyz,
        "times": frames.time,
        "box": frames.unitcell_vectors,
        "velocities": np.load(folder / names.VELOCITIES),
        "log": (folder / names.LOG).read_text(),
        "final state": (folder / names.FINAL_STATE).read_text(),
        "frames counted": frames_counted(path),
        "seconds": facts["seconds"],
    }


def frames_counted(path: Path) -> int:
    """Return the number of frames that the header of a DCD says; 0 of an XTC."""
    return struct.unpack_from("<i", path.read_bytes(), 8)[0] * (path.suffix == ".dcd")


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in found.keys() - {"seconds"}:
        assert np.array_equal(found[name], expected[name]), name


def stop_at(
    step: int,
    number: signal.Signals,
    out: Path,
    phase: int = PRODUCTION,
    **changes: Any,
) -> None:
    """Run until a signal comes at a step of a phase."""
    report = ProgressReporter.report

    def send(
        self: ProgressReporter, simulation: app.Simulation, state: openmm.State
    ) -> None:
        now = simulation.integrator.getCurrentIntegrator()
        if now == phase and 0 <= simulation.currentStep - step < self.interval:
            signal.raise_signal(number)
        report(self, simulation, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressReporter, "report", send)
        run(out, **changes)

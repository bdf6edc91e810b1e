"""Runs of harmonic water, and forces that break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from analytic_water import harmonic_water, water_positions

from openmm_se3.simulation import (
    RunOptions,
    RunRecord,
    run_dynamics,
)

MASSES = np.array([15.99943, 1.007947, 1.007947])  # OpenMM's, dalton


def run(out: Path, n_molecules: int = 1, **options: object) -> RunRecord:
    system, topology = harmonic_water(n_molecules)
    settings = {
        "platform": "Reference",
        "equilibration_ps": 0.2,
        "frame_fs": 2.0,
        "seed": 1,
        **options,
    }
    chosen = RunOptions(out=out, **settings)  # type: ignore[arg-type]
    return run_dynamics(system, topology, water_positions(n_molecules, 1), chosen)

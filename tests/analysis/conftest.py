"""A finished run."""

from __future__ import annotations

from pathlib import Path

import pytest
from analytic_water import harmonic_water, water_positions

from openmm_se3.simulation import (
    RunOptions,
    run_dynamics,
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a dimer."""
    out = tmp_path_factory.mktemp("run") / "dimer"
    system, topology = harmonic_water(2)
    options = RunOptions(
        out=out,
        seed=1,
        steps=4000,
        equilibration_ps=0.2,
        platform="Reference",
        temperature=100,
    )
    run_dynamics(system, topology, water_positions(2, 1), options)
    return out

"""Progress, starting structures and platforms."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from openmm import unit
from rich.console import Console

from openmm_se3.simulation import (
    best_platform,
    water_topology,
)
from openmm_se3.simulation.platforms import named_platform
from openmm_se3.simulation.progress import ProgressReporter


@pytest.mark.parametrize("width", [80, 120])
def test_progress_fits_into_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    steps = 2_000_000
    log = SimpleNamespace(shadows=[], totals=list(range(100)), times=list(range(100)))
    progress = ProgressReporter(console, "Production", steps, 0.5, 4, log, (300.0, 6))  # type: ignore[arg-type]
    with progress.running():
        progress.report(SimpleNamespace(currentStep=steps), None)  # type: ignore[arg-type]
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    last = [line for line in re.split(r"[\r\n]+", written) if line.strip()][-1]
    assert len(last) <= width
    assert last.count("━") >= 10
    for part in ("Production", "2000000/2000000", "1000.0 ps", "ns/day", "0:00:00"):
        assert part in last
    assert ("drift +" in last) is (width == 120)


# Starts and platforms


@pytest.mark.parametrize("n_molecules", [1, 2, 6, 20])
def test_start_is_a_connected_cluster_without_overlaps(n_molecules: int) -> None:
    positions = water_positions(n_molecules, 3)
    assert (positions == water_positions(n_molecules, 3)).all()
    assert positions.shape == (3 * n_molecules, 3)
    assert water_topology(n_molecules).getNumAtoms() == 3 * n_molecules
    oxygens = positions[::3]
    distance = np.linalg.norm(oxygens[:, None] - oxygens, axis=-1)
    np.fill_diagonal(distance, np.inf)
    if n_molecules > 1:
        assert 2.6 <= distance.min(axis=1).min()
        assert distance.min(axis=1).max() < 3.0
    for hydrogen in (1, 2):
        length = np.linalg.norm(positions[hydrogen::3] - oxygens, axis=1)
        assert np.abs(length - 0.9572).max() < 1e-12


def test_best_platform_runs_and_says_why() -> None:
    system, _ = harmonic_water()
    platform, why = best_platform(system, water_positions(1))
    assert platform.getName() in ("CUDA", "Reference", "CPU")
    assert why
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(water_positions(1) * unit.angstrom)
    assert named_platform("reference").getName() == "Reference"
    with pytest.raises(ValueError, match="no platform 'Abacus' here; choose from"):
        named_platform("Abacus")

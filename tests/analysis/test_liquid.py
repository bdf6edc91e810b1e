"""Density and pair distributions of boxes whose answer is known."""

from __future__ import annotations

import dataclasses
import io

import mdtraj
import numpy as np
import pytest
from analytic_water import water_positions
from recordings import recording
from rich.console import Console

from openmm_se3.analysis import (
    analyze,
    liquid,
    print_report,
    summary,
)
from openmm_se3.analysis.figure import draw


def boxed(frames: np.ndarray, vectors: np.ndarray) -> mdtraj.Trajectory:
    """Return frames [n_frames, n_atoms, 3] in boxes [n_frames, 3, 3], A."""
    trajectory = recording(frames).trajectory
    trajectory.unitcell_vectors = 0.1 * vectors
    return trajectory


def test_density_and_ideal_pair_distribution_of_a_triclinic_box() -> None:
    rng = np.random.default_rng(5)
    vectors = np.array([[14.0, 0.0, 0.0], [4.0, 13.0, 0.0], [-3.0, 5.0, 12.0]])
    volume = 14.0 * 13.0 * 12.0
    frames = rng.random((60, 180, 3)) @ vectors
    found = liquid(boxed(frames, np.repeat(vectors[None], 60, axis=0)))
    assert found is not None and not found.changes
    grams = 60 * 18.01528 / 6.02214076e23
    assert found.density == pytest.approx(grams / (volume * 1e-24), rel=1e-4)
    # Widths between faces are shorter than the vectors.
    assert 0.5 * 10.4 < found.r[-1] < 0.5 * 12.0
    for g in found.g.values():
        assert g[found.r > 2.0].mean() == pytest.approx(1.0, abs=0.02)


def test_pair_distribution_finds_a_distance_and_density_its_change() -> None:
    lattice = 3.02 * np.array(list(np.ndindex(4, 4, 4)), float)
    frames = (lattice[:, None] + water_positions(1)).reshape(1, -1, 3)
    frames = np.repeat(frames, 10, axis=0)
    scale = np.linspace(1.0, 1.05, 10)[:, None, None]
    found = liquid(boxed(frames, 12.08 * scale * np.eye(3)))
    assert found is not None and found.changes
    assert found.density[0] / found.density[-1] == pytest.approx(1.05**3, rel=1e-4)
    assert found.r[np.argmax(found.g["O-O"])] == pytest.approx(3.02, abs=0.03)
    inside = found.g["O-H"][found.r < 1.2]
    assert found.r[np.argmax(inside)] == pytest.approx(0.9572, abs=0.05)


def test_a_box_adds_density_and_pair_distribution_to_the_report() -> None:
    lattice = 3.5 * np.array(list(np.ndindex(2, 2, 2)), float)
    frames = np.repeat(
        (lattice[:, None] + water_positions(1)).reshape(1, -1, 3), 5, axis=0
    )
    free = analyze(recording(frames))
    assert free.liquid is None and "density_g_per_cm3" not in summary(free)
    box = dataclasses.replace(
        recording(frames), trajectory=boxed(frames, np.tile(7.0 * np.eye(3), (5, 1, 1)))
    )
    analysis = analyze(box)
    # Both hydrogens of a molecule are among the pairs, 1.51 A apart.
    assert analysis.liquid is not None
    inside = np.abs(analysis.liquid.r - 1.51) < 0.1
    assert analysis.liquid.g["H-H"][inside].max() > 1.0
    titles = {axis.get_title() for axis in draw(analysis).axes}
    assert "Pair distribution g(r)" in titles
    assert not any(title.startswith("Density") for title in titles)
    assert summary(analysis)["density_g_per_cm3"]["mean"] == pytest.approx(
        8 * 18.01528 / 0.602214 / 343.0, rel=1e-4
    )
    console = Console(file=io.StringIO())
    print_report(analysis, console)
    assert "0.698 (constant) g/cm³" in console.file.getvalue()

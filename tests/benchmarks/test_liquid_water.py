"""The arithmetic of the benchmark of liquid water."""

from __future__ import annotations

import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_se3.simulation import water_topology

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import liquid_water  # noqa: E402

BOX = 12.0  # A
SHARED = Path(__file__).parents[3] / "shared" / "data" / "liquid-water-pbe0ts"


def gas(n_frames: int, seed: int) -> mdtraj.Trajectory:
    """Return molecules whose atoms lie anywhere in a box."""
    rng = np.random.default_rng(seed)
    topology = mdtraj.Topology.from_openmm(water_topology(20))
    x = 0.1 * BOX * rng.random((n_frames, 60, 3))
    trajectory = mdtraj.Trajectory(x, topology)
    trajectory.unitcell_vectors = np.tile(0.1 * BOX * np.eye(3), (n_frames, 1, 1))
    return trajectory


def test_distribution_of_an_ideal_gas_is_one_within_its_error() -> None:
    blocks = np.repeat(np.arange(5), 40)
    first, second = (
        liquid_water.distribution(gas(200, seed), blocks, ("O", "H")) for seed in (1, 2)
    )
    outer = first.r > 2.0
    assert first.r[-1] == pytest.approx(0.5 * BOX - 0.5 * liquid_water.BIN)
    assert first.g[outer].mean() == pytest.approx(1.0, abs=0.01)
    deviation = (first.g[outer] - 1.0) / first.error[outer]
    assert 0.7 < np.sqrt(np.mean(deviation**2)) < 2.5
    distance, noise = liquid_water.difference(first, second)
    assert distance == pytest.approx(noise, rel=0.4)
    shifted = liquid_water.Distribution(second.r, second.g + 0.5, second.error)
    assert liquid_water.difference(first, shifted)[0] == pytest.approx(0.5, abs=0.05)


def test_error_counts_blocks_not_frames() -> None:
    trajectory = gas(4, 3)
    twins = mdtraj.join([trajectory] * 10)
    once = liquid_water.distribution(trajectory, np.arange(4), ("O", "O"))
    often = liquid_water.distribution(twins, np.tile(np.arange(4), 10), ("O", "O"))
    np.testing.assert_allclose(often.g, once.g, atol=1e-6)
    np.testing.assert_allclose(often.error, once.error, atol=1e-6)


def test_peak_lies_between_the_bins() -> None:
    r = np.arange(0.025, 6.0, 0.05)
    g = 3.0 * np.exp(-0.5 * ((r - 2.761) / 0.15) ** 2) + 5.0 * (r < 1.2)
    place, height = liquid_water.Distribution(r, g, 0.0 * r).peak()
    assert place == pytest.approx(2.761, abs=0.002)
    assert height == pytest.approx(3.0, rel=0.002)


def test_diffusion_of_a_random_walk() -> None:
    rng = np.random.default_rng(4)
    d, frame_ps = 2.5, 0.05  # 1e-5 cm^2/s, ps
    step = np.sqrt(2.0 * d / liquid_water.A2_PER_PS * frame_ps)
    walk = np.cumsum(step * rng.standard_normal((2000, 100, 3)), axis=0)
    found, error = liquid_water.diffusion(walk, frame_ps)
    assert found == pytest.approx(d, rel=0.08)
    assert 0.0 < error < 0.1 * d
    # The box may drift as a whole.
    drifting = walk + 0.1 * np.arange(2000)[:, None, None]
    assert liquid_water.diffusion(drifting, frame_ps)[0] == pytest.approx(found)
    assert np.isnan(liquid_water.diffusion(walk[:50], frame_ps)[0])


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data in {SHARED.parent}")
def test_frames_of_the_data_are_whole_molecules() -> None:
    trajectory, groups = liquid_water.read_frames(SHARED)
    assert (trajectory.n_frames, trajectory.n_residues) == (len(groups), 64)
    bonds = [(i, i + k) for i in range(0, 192, 3) for k in (1, 2)]
    lengths = 10.0 * mdtraj.compute_distances(trajectory, bonds, periodic=False)
    assert 0.7 < lengths.min() < lengths.max() < 1.5

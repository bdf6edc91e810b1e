"""Runs of a System whose physics is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from harmonic_runs import MASSES, run

from openmm_se3.analysis import read_folder
from openmm_se3.analysis.read import read_log
from openmm_se3.simulation import (
    RunOptions,
    degrees_of_freedom,
    energy_drift,
    run_dynamics,
)
from openmm_se3.simulation import folder as names


def test_energy_is_conserved_and_its_fluctuation_is_second_order(
    tmp_path: Path,
) -> None:
    spread = {}
    for dt in (0.5, 0.25):
        out = tmp_path / str(dt)
        # Without equilibration both start alike: from the minimum, with the same
        # velocities.
        run(out, steps=round(4000 / dt), dt_fs=dt, equilibration_ps=0.0)
        log = read_log(out / names.LOG)
        total, shadow = log["total_kj_per_mol"], log["shadow_kj_per_mol"][:-1]
        spread[dt] = total.std()
        drift = energy_drift(log["time_ps"][:-1], shadow)
        assert drift is not None
        slope, error = drift.per_kt(300.0, 6)
        assert abs(slope) < max(0.01, 3.0 * error)
        assert shadow.std() < 0.1 * total.std()
        # The control: with the kinetic energy half a step before, it swings.
        recording = read_folder(out)
        assert recording.velocities is not None
        frames = log["step"].astype(int) // recording.run["frame_interval"] - 1
        half = 0.5 * MASSES @ (recording.velocities[frames] ** 2).sum(axis=2).T
        wrong = log["potential_kj_per_mol"] + half * 1e4  # dalton A^2/fs^2 in kJ/mol
        assert wrong.std() > 5.0 * total.std()
    assert 3.0 < spread[0.5] / spread[0.25] < 5.0


def test_saved_velocities_are_half_a_step_before_the_frames(tmp_path: Path) -> None:
    run(tmp_path / "a", steps=100, frame_fs=0.5)
    recording = read_folder(tmp_path / "a")
    assert recording.velocities is not None
    assert recording.velocities.shape == (100, 3, 3)
    positions = 10.0 * recording.trajectory.xyz
    midway = (positions[1:] - positions[:-1]) / 0.5
    assert np.abs(midway - recording.velocities[1:]).max() < 1e-5
    # The control: they are not those at the full step.
    full = (positions[2:] - positions[:-2]) / 1.0
    assert np.abs(full - recording.velocities[1:-1]).max() > 1e-3


@pytest.mark.parametrize("interval", [1, 2, 4, 5])
def test_rows_of_the_log_have_a_shadow_energy_where_there_is_time_for_it(
    interval: int, tmp_path: Path
) -> None:
    """Four steps: closer rows are all written, without it."""
    spacing = 0.5 * interval
    record = run(tmp_path / "a", steps=20, frame_fs=spacing, log_fs=spacing)
    log = read_log(record.folder / names.LOG)
    assert log["step"].tolist() == list(range(interval, 21, interval))
    known = np.isfinite(log["shadow_kj_per_mol"])
    # The last row's following steps are not run.
    assert known.tolist() == [interval >= 4] * (len(known) - 1) + [False]
    assert np.isfinite(log["total_kj_per_mol"]).all()


def test_momentum_is_removed_and_angular_momentum_stays(tmp_path: Path) -> None:
    run(tmp_path / "a", n_molecules=2, steps=200)
    recording = read_folder(tmp_path / "a")
    assert recording.velocities is not None
    mass = np.array(recording.run["masses"])[:, None]
    velocity, position = recording.velocities[-1], 10.0 * recording.trajectory.xyz[-1]
    assert np.abs((mass * velocity).sum(axis=0)).max() < 1e-6
    angular = (mass * np.cross(position, velocity)).sum(axis=0)
    assert np.linalg.norm(angular) > 0.01


def test_temperature_of_nvt_is_the_one_asked_for(tmp_path: Path) -> None:
    record = run(tmp_path / "a", n_molecules=3, steps=30_000, ensemble="nvt")
    log = read_log(record.folder / names.LOG)
    temperature = log["temperature_k"]
    blocks = temperature[-1240:].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert abs(temperature.mean() - 300.0) < max(4.0 * error, 10.0)
    assert np.isnan(log["shadow_kj_per_mol"]).all()


def test_degrees_of_freedom() -> None:
    system, _ = harmonic_water(2)
    assert degrees_of_freedom(system, "nve") == 15
    assert degrees_of_freedom(system, "nvt") == 18
    system.addConstraint(0, 1, 0.1)
    assert degrees_of_freedom(system, "nve") == 14
    system.addForce(openmm.CMMotionRemover())
    assert degrees_of_freedom(system, "nvt") == 14
    with pytest.raises(ValueError, match="nothing to simulate"):
        degrees_of_freedom(openmm.System(), "nve")


def test_what_is_tied_to_its_place_conserves_no_momentum(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    system.setParticleMass(0, 0.0)
    assert degrees_of_freedom(system, "nve") == degrees_of_freedom(system, "nvt") == 15
    system.setVirtualSite(0, openmm.TwoParticleAverageSite(1, 2, 0.5, 0.5))
    assert degrees_of_freedom(system, "nve") == 12  # a site pushes what it stands for

    system, topology = harmonic_water(2)
    cage = openmm.CustomExternalForce("500*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    for name in ("x0", "y0", "z0"):
        cage.addPerParticleParameter(name)
    start = water_positions(2, 1) + 20.0  # A, far from the origin
    for index, place in enumerate(0.1 * start):
        cage.addParticle(index, place)
    around = openmm.CustomCVForce("cage")
    around.addCollectiveVariable("cage", cage)
    system.addForce(around)
    assert degrees_of_freedom(system, "nve") == 18
    options = RunOptions(
        seed=1,
        steps=100,
        platform="Reference",
        equilibration_ps=0.1,
        out=tmp_path / "a",
    )
    record = run_dynamics(system, topology, start, options)
    assert record.status == "completed"
    # A run in vacuum is put at the origin, but not out of its cage.
    x = 10.0 * read_folder(tmp_path / "a").trajectory.xyz
    assert np.abs(x - start).max() < 1.0


def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run(tmp_path / name, steps=40, seed=seed)
    a, b, c = (np.load(tmp_path / name / names.VELOCITIES) for name in "abc")
    assert (a == b).all()
    assert not (a == c).all()


def test_completed_run_says_so_and_its_last_state_can_be_loaded(tmp_path: Path) -> None:
    record = run(tmp_path / "a", steps=100)
    assert (record.status, record.steps, record.time_ps) == ("completed", 100, 0.05)
    facts = json.loads((tmp_path / "a" / names.RUN).read_text())
    assert facts["status"] == "completed"
    assert facts["degrees_of_freedom"] == 6
    state = openmm.XmlSerializer.deserialize(
        (tmp_path / "a" / names.FINAL_STATE).read_text()
    )
    assert state.getStepCount() == 100
    assert not (tmp_path / "a" / names.LOCK).exists()

"""Runs of a System whose physics is known, and what happens when they go wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from openmm import app, unit
from rich.console import Console

from openmm_se3.analysis import analyze_folder, read_folder, verdict
from openmm_se3.analysis.read import read_log
from openmm_se3.geometry import closest_contact, molecules_of
from openmm_se3.simulation import (
    FolderInUseError,
    GuardReporter,
    RunOptions,
    RunRecord,
    SimulationStopped,
    WaterRun,
    best_platform,
    degrees_of_freedom,
    energy_drift,
    minimum,
    run_dynamics,
    water_topology,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.drift import block_error
from openmm_se3.simulation.folder import RunFolder, was_cut_short
from openmm_se3.simulation.minimum import BadMinimumError
from openmm_se3.simulation.platforms import named_platform
from openmm_se3.simulation.progress import ProgressReporter

TESTS = Path(__file__).parent
HELPERS = TESTS.parent / "helpers"
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


class BreakingForce:
    """No force up to a step; then a number that is not finite, or a constant pull."""

    def __init__(self, step: int, force: float) -> None:
        self.step = step
        self.force = force

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        forces = np.zeros((len(state.getPositions()), 3))
        if state.getStepCount() >= self.step:
            forces[2, 0] = self.force
        return 0.0, forces


class BreakingInProduction(BreakingForce):
    """The same, from the moment when steps are counted from zero again."""

    before = 0

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        if state.getStepCount() < self.before:
            self.step = 0
        self.before = state.getStepCount()
        return super().__call__(state)


def run_breaking(out: Path, step: int, force: float, platform: str) -> RunRecord:
    system, topology = harmonic_water()
    system.addForce(openmm.PythonForce(BreakingForce(step, force)))
    options = RunOptions(
        seed=1,
        out=out,
        steps=2000,
        equilibration_ps=0.0,
        platform=platform,
        frame_fs=2.0,
    )
    return run_dynamics(system, topology, water_positions(1), options)


# Drift


def correlated_noise(rng: np.random.Generator, n: int, lag: float) -> np.ndarray:
    noise = np.empty(n)
    memory = np.exp(-1.0 / lag)
    noise[0] = rng.normal()
    for k, kick in enumerate(rng.normal(size=n - 1)):
        noise[k + 1] = memory * noise[k] + np.sqrt(1.0 - memory**2) * kick
    return noise


def test_drift_finds_a_known_slope_and_knows_its_error() -> None:
    rng = np.random.default_rng(1)
    times, slope = 0.01 * np.arange(2000), 0.01
    hits, slopes, ends = 0, [], []
    for _ in range(200):
        energy = -900.0 + slope * times + 0.1 * correlated_noise(rng, 2000, 30.0)
        drift = energy_drift(times, energy)
        assert drift is not None
        hits += abs(drift.slope - slope) < 2.0 * drift.error
        slopes.append(drift.slope)
        ends.append((energy[-1] - energy[0]) / (times[-1] - times[0]))
    assert hits / 200 > 0.88  # two standard errors hold 95 %
    assert abs(np.mean(slopes) - slope) < 4.0 * np.std(slopes) / np.sqrt(200)
    # The control: last minus first energy is right on average too, but far noisier.
    assert np.std(ends) > 2.0 * np.std(slopes)


def test_drift_of_an_exact_line_and_of_what_has_none() -> None:
    times = 0.01 * np.arange(1000)
    drift = energy_drift(times, 5.0 - 0.3 * times)
    assert drift is not None
    assert drift.slope == pytest.approx(-0.3, abs=1e-12)
    assert drift.intercept == pytest.approx(5.0, abs=1e-10)
    # The first samples are left out where blocks do not share them out evenly.
    uneven = energy_drift(times[:987], 5.0 - 0.3 * times[:987])
    assert uneven is not None
    assert uneven.intercept == pytest.approx(5.0, abs=1e-10)
    # 0.3 kJ/mol/ps are 300 kJ/mol/ns; kT is 2.494 kJ/mol at 300 K.
    assert drift.per_kt(300.0, 6)[0] == pytest.approx(-300.0 / 2.49434 / 6, rel=1e-5)
    assert energy_drift(times[:39], times[:39]) is None
    assert energy_drift(times, np.full(1000, np.nan)) is None
    with pytest.raises(ValueError, match="1000 times but 3 energies"):
        energy_drift(times, [1.0, 2.0, 3.0])


def test_errors_of_a_slope_and_of_a_mean_from_blocks() -> None:
    """Residuals that alternate are not correlated: least squares has their error."""
    means = np.resize([1.0, -1.0], 20) + 0.1 * np.arange(20)
    values = np.repeat(means, 3) + np.resize([0.2, 0.0, -0.2], 60)
    times = 0.5 * np.arange(60)
    drift = energy_drift(times, values)
    assert drift is not None
    (slope, _), covariance = np.polyfit(times[1::3], means, 1, cov=True)
    assert drift.slope == pytest.approx(slope, rel=1e-9)
    assert drift.error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-9)
    error = means.std(ddof=1) / np.sqrt(20)
    assert block_error(values) == pytest.approx(error, rel=1e-9)
    assert block_error(values[:39]) is None


# Physics of a run


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


# What goes wrong


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_guard_stops_at_a_nan_and_keeps_the_last_good_frame(
    tmp_path: Path, platform: str
) -> None:
    record = run_breaking(tmp_path / "a", 102, float("nan"), platform)
    assert record.status == "stopped"
    assert record.steps == 100
    assert record.time_ps == pytest.approx(0.05)
    assert "H2 of HOH 1 (atom 2, H)" in record.reason or platform == "CPU"
    recording = read_folder(record.folder)
    assert recording.trajectory.n_frames == 25
    assert np.isfinite(recording.trajectory.xyz).all()
    assert recording.velocities is not None
    assert np.isfinite(recording.velocities).all()
    last = mdtraj.load(str(record.folder / names.LAST_GOOD_FRAME))
    assert np.abs(last.xyz[0] - recording.trajectory.xyz[-1]).max() < 1e-4
    state = openmm.XmlSerializer.deserialize(
        (record.folder / names.LAST_GOOD_STATE).read_text()
    )
    assert state.getStepCount() == 100
    facts = json.loads((record.folder / names.RUN).read_text())
    assert facts["status"] == "stopped"
    assert facts["reason"] == record.reason


def test_a_stop_before_the_first_frame_counts_no_step_of_the_equilibration(
    tmp_path: Path,
) -> None:
    system, topology = harmonic_water()
    system.addForce(openmm.PythonForce(BreakingInProduction(10**9, float("nan"))))
    options = RunOptions(
        seed=1,
        out=tmp_path / "a",
        steps=400,
        equilibration_ps=0.2,
        frame_fs=2.0,
        platform="Reference",
    )
    record = run_dynamics(system, topology, water_positions(1), options)
    assert record.status == "stopped"
    assert (record.steps, record.time_ps) == (0, 0.0)
    assert (tmp_path / "a" / names.LAST_GOOD_FRAME).exists()
    assert analyze_folder(tmp_path / "a").stability.lasted_ps == 0.0


def test_guard_names_a_stretched_bond(tmp_path: Path) -> None:
    record = run_breaking(tmp_path / "a", 50, 3e5, "Reference")
    assert record.status == "stopped"
    bond = "the bond of O of HOH 1 (atom 0, O) and H2 of HOH 1 (atom 2, H)"
    assert bond in record.reason
    assert 48 <= record.steps < 100


def test_guard_stops_an_explosion_from_a_long_step(tmp_path: Path) -> None:
    record = run(tmp_path / "a", steps=2000, dt_fs=4.0, equilibration_ps=0.0)
    assert record.status == "stopped"
    assert record.steps < 50
    assert "time step too long" in record.reason
    assert np.isfinite(read_folder(record.folder).trajectory.xyz).all()


def guarded_state(
    positions: np.ndarray,
    guard: GuardReporter,
    velocities: np.ndarray | None = None,
    **forces: float,
) -> openmm.State:
    """Return what the guard is shown of two molecules, pulled by ``forces``.

    Positions are in A, velocities in nm/ps.
    """
    system, _ = harmonic_water(2)
    pull = openmm.CustomExternalForce("-pull*x + shift")
    pull.addGlobalParameter("pull", forces.get("pull", 0.0))
    pull.addGlobalParameter("shift", forces.get("shift", 0.0))
    pull.addParticle(4)
    system.addForce(pull)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform)
    context.setPositions(0.1 * positions)
    if velocities is not None:
        context.setVelocities(velocities)
    return context.getState(positions=True, velocities=True, forces=True, energy=True)


def make_guard(reference: np.ndarray, dt_fs: float = 0.5) -> GuardReporter:
    topology = water_topology(2)
    return GuardReporter(4, topology, np.tile(MASSES, 2), reference, 300.0, dt_fs)


def stopped_by(guard: GuardReporter, state: openmm.State, step: int) -> str:
    with pytest.raises(SimulationStopped) as caught:
        guard.report(SimpleNamespace(currentStep=step), state)  # type: ignore[arg-type]
    assert caught.value.step == step
    return caught.value.reason


def test_guard_names_two_atoms_too_near_each_other() -> None:
    start = water_positions(2, 1)
    guard = make_guard(start)
    guard.report(SimpleNamespace(currentStep=4), guarded_state(start, guard))  # type: ignore[arg-type]
    near = start.copy()
    near[3:] = 2.0 * start[1] - start[:3] + [0.0, 0.0, 0.2]  # H1 beside H1
    reason = stopped_by(guard, guarded_state(near, guard), 8)
    assert "H1 of HOH 1 (atom 1, H) and H1 of HOH 2 (atom 4, H) are 0.20 Å" in reason
    assert "below the limit of 0.74 Å" in reason
    assert "positions in other units than Å, or a missing box" in reason
    # Distances, forces and energy are looked at less often than the rest.
    guard.force_interval = 16
    guard.report(SimpleNamespace(currentStep=8), guarded_state(near, guard))  # type: ignore[arg-type]


def test_guard_names_the_atom_with_a_force_beyond_all_others() -> None:
    start = water_positions(2, 1)
    guard = make_guard(start)
    # 100 eV/A are 96485 kJ/mol/nm.
    guard.report(
        SimpleNamespace(currentStep=4),  # type: ignore[arg-type]
        guarded_state(start, guard, pull=0.9e5),
    )
    reason = stopped_by(guard, guarded_state(start, guard, pull=1.1e5), 4000)
    assert "the force on H1 of HOH 2 (atom 4, H) is 11" in reason
    assert "above the limit of 100 eV/Å" in reason
    assert "surroundings of H that the model was not trained on" in reason
    assert "minimum" not in reason  # not that late
    assert "time step" not in reason
    reason = stopped_by(guard, guarded_state(start, guard, pull=np.nan), 8)
    assert "the force on H1 of HOH 2 (atom 4, H) is nan" in reason
    long = make_guard(start, dt_fs=4.0)
    reason = stopped_by(long, guarded_state(start, long, pull=1.1e5), 4000)
    assert "a time step too long (4 fs" in reason


def test_guard_names_a_jump_of_the_energy() -> None:
    start = water_positions(2, 1)
    guard = make_guard(start)
    thermal = 2.4943  # kJ/mol, kT at 300 K
    limit = thermal * (18 + 10 * np.sqrt(18))
    assert guard.max_jump == pytest.approx(limit / 96.4853, rel=1e-4)
    for step, shift in ((4, 0.0), (8, 0.9 * limit), (12, 0.0)):
        guard.report(
            SimpleNamespace(currentStep=step),  # type: ignore[arg-type]
            guarded_state(start, guard, shift=shift),
        )
    reason = stopped_by(guard, guarded_state(start, guard, shift=-1.1 * limit), 16)
    assert "the total energy jumped by -1.72 eV, the limit is 1.56 eV" in reason
    assert "is on " in reason


def test_guard_lets_the_energy_drift() -> None:
    """A jump is from one check to the next, not from the first."""
    start = water_positions(2, 1)
    guard = make_guard(start)
    for check in range(4):
        guard.report(
            SimpleNamespace(currentStep=4 * (check + 1)),  # type: ignore[arg-type]
            guarded_state(start, guard, shift=check * 0.9 * 96.4853 * guard.max_jump),
        )


def test_guard_names_a_bond_that_is_too_short() -> None:
    start = water_positions(2, 1)
    reference = start.copy()
    reference[4] += 0.6 * (start[4] - start[3]) / np.linalg.norm(start[4] - start[3])
    guard = make_guard(reference)
    reason = stopped_by(guard, guarded_state(start, guard), 6)
    assert "the bond of O of HOH 2 (atom 3, O) and H1 of HOH 2 (atom 4, H)" in reason
    assert "-0.60 Å from its reference" in reason


def test_guard_measures_the_temperature_of_all_atoms() -> None:
    start = water_positions(2, 1)
    guard = make_guard(start)
    assert guard.max_temperature == 10_000.0
    masses = np.tile(MASSES, 2)[:, None]
    thermal = np.sqrt(0.00831446 / masses) * np.ones((6, 3))  # nm/ps, at 1 K
    just_below = guarded_state(start, guard, np.sqrt(9_900.0) * thermal)
    guard.report(SimpleNamespace(currentStep=4), just_below)  # type: ignore[arg-type]
    thermal[2] *= 1.01
    above = guarded_state(start, guard, np.sqrt(10_100.0) * thermal)
    reason = stopped_by(guard, above, 6)
    assert "above the limit of 10000 K" in reason
    assert "H2 of HOH 1 (atom 2, H) has most of the kinetic energy" in reason


def test_guard_names_an_atom_whose_velocity_is_no_number() -> None:
    start = water_positions(2, 1)
    guard = make_guard(start)
    velocities = np.zeros((6, 3))
    velocities[4, 1] = np.nan
    reason = stopped_by(guard, guarded_state(start, guard, velocities), 6)
    assert "the velocity of H1 of HOH 2 (atom 4, H) is not a finite number" in reason


def test_guard_takes_a_bond_across_the_box_for_what_it_is() -> None:
    topology = water_topology(1)
    topology.setUnitCellDimensions(openmm.Vec3(1, 1, 1) * unit.nanometer)
    start = water_positions(1)
    guard = GuardReporter(4, topology, MASSES, start, 300.0, 0.5)
    system, _ = harmonic_water(1)
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005))
    context.setPositions(0.1 * (start + [[0.0, 0, 0], [10, 0, 0], [0, 0, -20]]))
    state = context.getState(positions=True, velocities=True)
    assert guard.fault(state, with_forces=False) is None
    context.setPositions(0.1 * (start + [[0.0, 0, 0], [10.6, 0, 0], [0, 0, -20]]))
    state = context.getState(positions=True, velocities=True)
    found = guard.fault(state, with_forces=False)
    assert found is not None
    assert "the bond of O of HOH 1 (atom 0, O) and H1" in found[0]


def test_forces_are_asked_for_only_where_they_are_checked(tmp_path: Path) -> None:
    guard = make_guard(water_positions(2, 1))
    guard.force_interval = 12
    for step, expected in ((0, False), (4, False), (8, True), (9, True), (12, False)):
        report = guard.describeNextReport(SimpleNamespace(currentStep=step))  # type: ignore[arg-type]
        assert ("forces" in report["include"]) is expected, step


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "a"
    run(out, steps=40)
    (out / "notes.txt").write_text("mine")
    before = (out / names.TRAJECTORY).read_bytes()
    with pytest.raises(FolderInUseError, match="--overwrite"):
        run(out, steps=80)
    assert (out / names.TRAJECTORY).read_bytes() == before
    run(out, steps=80, overwrite=True)
    assert len(np.load(out / names.VELOCITIES)) == 20
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failing_start_keeps_the_old_results(tmp_path: Path) -> None:
    out = tmp_path / "a"
    run(out, steps=40)
    system, topology = harmonic_water()
    options = RunOptions(seed=1, out=out, overwrite=True, platform="Reference")
    with pytest.raises(ValueError, match="cannot be minimised"):
        run_dynamics(system, topology, np.zeros((3, 3)), options)
    assert len(np.load(out / names.VELOCITIES)) == 10


def test_a_start_that_the_minimiser_tears_apart_is_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    repulsion = openmm.CustomBondForce("-1e5*r")  # stronger than the bond
    repulsion.addBond(0, 1)
    system.addForce(repulsion)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(BadMinimumError, match="tore a molecule.* bond of O and H"):
        run_dynamics(system, topology, water_positions(1, 1), options)
    assert not (tmp_path / "a" / names.TRAJECTORY).exists()


def test_a_start_whose_molecules_fuse_is_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    attraction = openmm.CustomBondForce("1e6*(r-0.12)^2")  # kJ/mol, nm
    attraction.addBond(0, 3)
    system.addForce(attraction)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(BadMinimumError, match="are fused: .* below the limit"):
        run_dynamics(system, topology, water_positions(2, 1), options)


def test_a_crowded_start_is_named_where_the_minimisation_fails(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    repulsion = openmm.CustomBondForce("-1e5*r")
    repulsion.addBond(0, 1)
    system.addForce(repulsion)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    apart = water_positions(2, 1)
    with pytest.raises(BadMinimumError, match="training data") as far:
        run_dynamics(system, topology, apart, options)
    crowded = apart.copy()
    crowded[3:] += water_positions(1)[2] + [-0.5, 0.0, 1.2] - crowded[3]
    with pytest.raises(BadMinimumError, match=r"O of HOH 2.*A box of water") as near:
        run_dynamics(system, topology, crowded, options)
    assert "A box of water" not in str(far.value)
    assert "of HOH 1" in str(near.value)


def test_a_long_minimisation_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, topology = harmonic_water(2)
    options = RunOptions(
        seed=1, out=tmp_path / "a", platform="Reference", steps=10, equilibration_ps=0.0
    )
    shown = {}
    for seconds in (0.0, 1e6):
        monkeypatch.setattr(minimum, "SHOWN_SECONDS", seconds)
        console = Console(file=io.StringIO(), width=200)
        out = dataclasses.replace(options, out=tmp_path / str(seconds))
        run_dynamics(system, topology, water_positions(2, 1), out, console=console)
        shown[seconds] = console.file.getvalue()
    assert re.search(r"iteration \d+ of at most 2000, energy .* left", shown[0.0])
    assert "iteration" not in shown[1e6]


def test_contacts_between_molecules_and_inside_them() -> None:
    topology = water_topology(2)
    symbols = ["O", "H", "H"] * 2
    molecules = molecules_of(topology)
    assert molecules.tolist() == [molecules[0]] * 3 + [molecules[3]] * 3
    assert molecules[0] != molecules[3]
    water = water_positions(1)
    for distance, fused in ((1.5, True), (1.7, False)):
        # The hydrogens of both point away from each other.
        up = water - water[0]
        up = up if up[1:, 2].sum() > 0.0 else -up
        x = np.concatenate([-up, up + [0.0, 0.0, distance]])
        found = closest_contact(symbols, x, None, molecules=molecules)
        assert (found is not None) == fused
        assert closest_contact(symbols, x, None) is None
    # Atoms without bonds, and metals, may stand as near as they like.
    ions = app.Topology()
    residue = ions.addResidue("X", ions.addChain())
    atoms = [ions.addAtom(s, app.Element.getBySymbol(s), residue) for s in ("Zn", "N")]
    assert molecules_of(ions).tolist() == [-1, -1]
    ions.addBond(*atoms)
    assert molecules_of(ions)[0] == -1 != molecules_of(ions)[1]


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a"):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
            run(tmp_path / "a", steps=40)
    with RunFolder(tmp_path / "a"):
        pass


def test_a_killed_run_leaves_readable_files_and_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "a"
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(HELPERS)!r}]\n"
        "from pathlib import Path\n"
        "from test_simulation import run\n"
        f"run(Path({str(out)!r}), steps=10**7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    log, start = out / names.LOG, time.monotonic()
    while not (log.exists() and log.stat().st_size > 20_000):
        assert process.poll() is None
        assert time.monotonic() - start < 120.0
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recording = read_folder(out)
    assert recording.trajectory.n_frames > 1000
    assert recording.velocities is not None
    assert len(recording.velocities) == recording.trajectory.n_frames
    assert len(recording.log["step"]) > 200
    assert "killed" in recording.missing[0]
    run(out, steps=40, overwrite=True)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
        (OSError("disk full"), "failed", "OSError: disk full"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_an_interrupted_run_leaves_readable_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: str,
    reason: str,
) -> None:
    def interrupt(
        self: ProgressReporter, simulation: app.Simulation, state: openmm.State
    ) -> None:
        if simulation.currentStep > 500:
            raise error

    monkeypatch.setattr(ProgressReporter, "report", interrupt)
    with pytest.raises(type(error)):
        run(tmp_path / "a", steps=2000, equilibration_ps=0.0)
    recording = read_folder(tmp_path / "a")
    assert recording.run["status"] == status
    assert recording.run["reason"] == reason
    assert recording.run["steps"] == 504
    assert was_cut_short(tmp_path / "a") is (status == "interrupted")
    text = f"STABLE for 0.252 of 1 ps ({status})"
    assert text in verdict(analyze_folder(tmp_path / "a"))
    report = (tmp_path / "a" / names.REPORT).read_text()
    assert text in report
    assert f"| Ended early | {status}: {reason} |" in report
    assert recording.trajectory.n_frames == 126
    assert (tmp_path / "a" / names.LAST_GOOD_STATE).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_fs": -0.5}, "dt_fs is -0.5"),
        ({"dt_fs": float("nan")}, "dt_fs is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"ensemble": "npt"}, "ensemble is 'npt'"),
        ({"ensemble": "nph"}, "ensemble is 'nph'"),
        ({"thermostat": "none"}, "thermostat is 'none'"),
        ({"trajectory": "pdb"}, "trajectory is 'pdb'"),
        ({"pressure_bar": float("nan")}, "pressure_bar is nan"),
        ({"checkpoint_ps": 0.0}, "checkpoint_ps is 0.0"),
        ({"overwrite": True, "resume": True}, "exclude each other"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"equilibration_ps": -1.0}, "equilibration_ps is -1.0"),
        ({"seed": 0}, "seed is 0"),
        ({"molecules": 0}, "molecules is 0"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WaterRun(**options)  # type: ignore[arg-type]


def test_bad_starts_are_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(ValueError, match="must agree"):
        run_dynamics(system, topology, np.zeros((4, 3)), options)
    with pytest.raises(ValueError, match="atom 1 is not a finite number"):
        start = water_positions(1)
        start[1, 0] = np.nan
        run_dynamics(system, topology, start, options)
    assert not (tmp_path / "a").exists()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_nothing_is_left_of_a_run_interrupted_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("openmm_se3.simulation.run.minimised", interrupt)
    for name in ("mine", "new"):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / name, steps=40)
        assert not was_cut_short(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_without_production_was_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", steps=40)
    assert not was_cut_short(tmp_path / "whole")
    monkeypatch.setattr(ProgressReporter, "report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "equilibration", steps=40)
    assert read_folder(tmp_path / "equilibration").run["status"] == "interrupted"
    assert not was_cut_short(tmp_path / "equilibration")
    with pytest.raises(ValueError, match="no frames to judge.*before its production"):
        analyze_folder(tmp_path / "equilibration")


# Progress


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

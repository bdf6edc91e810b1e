"""The guard stops a run and names the cause."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from harmonic_runs import MASSES, run
from openmm import unit

from openmm_se3.analysis import analyze_folder, read_folder
from openmm_se3.simulation import (
    GuardReporter,
    RunOptions,
    RunRecord,
    SimulationStopped,
    run_dynamics,
    water_topology,
)
from openmm_se3.simulation import folder as names


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


def test_bonds_may_break_in_a_reaction() -> None:
    start = water_positions(2, 1)
    torn = start.copy()
    torn[1] += 1.2 * (start[1] - start[0])
    state = guarded_state(torn, make_guard(start))
    assert "bond" in stopped_by(make_guard(start), state, 3)
    reactive = GuardReporter(
        4, water_topology(2), np.tile(MASSES, 2), start, 300.0, 0.5, watch_bonds=False
    )
    reactive.report(SimpleNamespace(currentStep=3), state)  # type: ignore[arg-type]
    assert reactive.last_good is state


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

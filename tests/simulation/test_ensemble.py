"""Ensembles: temperature, volume, and what a System gets for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from openmm import unit

from openmm_se3.analysis import read_folder
from openmm_se3.analysis.read import read_log
from openmm_se3.simulation import (
    RunOptions,
    RunRecord,
    degrees_of_freedom,
    run_dynamics,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.ensemble import add_ensemble_forces, make_integrator
from openmm_se3.units import BOLTZMANN_J

EDGE = 8.0  # A
KT = BOLTZMANN_J * 300.0  # J


def gas(edge: float, n_molecules: int = 8) -> tuple[openmm.System, Any, np.ndarray]:
    """Return molecules in a box that do not see each other, and their positions."""
    system, topology = harmonic_water(n_molecules, edge)
    kinds = [type(force) for force in system.getForces()]
    system.removeForce(kinds.index(openmm.NonbondedForce))
    system.getForce(0).setUsesPeriodicBoundaryConditions(True)
    places = np.random.default_rng(0).uniform(0.0, edge, (n_molecules, 1, 3))
    return system, topology, (places + water_positions(1)).reshape(-1, 3)


def run(out: Path, system: openmm.System, *start: Any, **changes: Any) -> RunRecord:
    settings: dict[str, Any] = {
        "platform": "Reference",
        "equilibration_ps": 0.5,
        "frame_fs": 10.0,
        "seed": 1,
        **changes,
    }
    return run_dynamics(system, *start, RunOptions(out=out, **settings))


def test_volume_of_an_ideal_gas_of_molecules() -> None:
    # The density of volumes is V^N exp(-P V / kT): N + 1 times kT / P on average.
    options = RunOptions(ensemble="npt", pressure_bar=1000.0)
    expected = 9.0 * KT / (1000.0 * 1e5) * 1e27  # nm^3
    system, topology, start = gas((1000.0 * expected) ** (1.0 / 3.0))
    add_ensemble_forces(system, topology, options, 3)
    integrator = make_integrator(options, 3)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(0.1 * start)
    volumes = np.empty(1200)
    for index in range(len(volumes)):
        integrator.step(25)
        volumes[index] = context.getState().getPeriodicBoxVolume()._value
    blocks = volumes[200:].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert abs(blocks.mean() - expected) < 4.0 * error
    # The control: were the 24 atoms scaled one by one, it would be 25 kT / P.
    assert 4.0 * error < expected


def test_molecules_stay_whole_in_npt(tmp_path: Path) -> None:
    system, topology = harmonic_water(8, EDGE)
    grid = np.meshgrid(*[[0.0, EDGE / 2]] * 3)
    start = np.stack(grid, axis=-1).reshape(8, 1, 3) + water_positions(1)
    start = start.reshape(-1, 3)
    options = {"ensemble": "npt", "pressure_bar": 1000.0, "steps": 2000}
    record = run(tmp_path / "a", system, topology, start, **options)
    assert record.status == "completed"
    frames = mdtraj.load(
        str(tmp_path / "a" / names.TRAJECTORY), top=str(tmp_path / "a" / names.TOPOLOGY)
    )
    assert np.ptp(frames.unitcell_lengths) > 0.01  # the box did change
    oxygen = frames.xyz[:, ::3]
    for hydrogen in (1, 2):
        lengths = np.linalg.norm(frames.xyz[:, hydrogen::3] - oxygen, axis=-1)
        assert 0.08 < lengths.min()
        assert lengths.max() < 0.12
    # Some have left the box, so that wrapping atoms would have torn them apart.
    edge = frames.unitcell_lengths[:, None, :]
    assert ((oxygen < 0.0) | (oxygen > edge)).any()


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_temperature_of_the_thermostats(tmp_path: Path, thermostat: str) -> None:
    system, topology = harmonic_water(3)
    options = {"ensemble": "nvt", "thermostat": thermostat, "steps": 20_000}
    record = run(tmp_path / "a", system, topology, water_positions(3, 1), **options)
    temperature = read_log(record.folder / names.LOG)["temperature_k"]
    blocks = temperature[-1000:].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    # Three degrees of freedom too many or too few would be 33 K.
    assert abs(temperature.mean() - 300.0) < min(max(4.0 * error, 8.0), 30.0)
    if thermostat == "nose-hoover":
        recording = read_folder(record.folder)
        assert recording.velocities is not None
        mass = np.array(recording.run["masses"])[:, None]
        assert np.abs((mass * recording.velocities[-1]).sum(axis=0)).max() < 1e-6
        assert recording.run["degrees_of_freedom"] == 24


def test_saved_velocities_of_nose_hoover_are_half_a_step_before(
    tmp_path: Path,
) -> None:
    system, topology = harmonic_water(1)
    options = {"ensemble": "nvt", "thermostat": "nose-hoover", "steps": 100}
    run(tmp_path / "a", system, topology, water_positions(1), frame_fs=0.5, **options)
    recording = read_folder(tmp_path / "a")
    assert recording.velocities is not None
    positions = 10.0 * recording.trajectory.xyz
    midway = (positions[1:] - positions[:-1]) / 0.5
    full = (positions[2:] - positions[:-2]) / 1.0
    # The thermostat acts in the middle of the step, hence not to rounding.
    near = np.abs(midway - recording.velocities[1:]).max()
    assert near < 0.1 * np.abs(full - recording.velocities[1:-1]).max()


def test_a_system_gets_what_its_ensemble_needs() -> None:
    def kinds(**options: Any) -> list[str]:
        system, topology = harmonic_water(8, EDGE)
        before = system.getNumForces()
        add_ensemble_forces(system, topology, RunOptions(**options), 1)
        add_ensemble_forces(system, topology, RunOptions(**options), 1)
        return [type(force).__name__ for force in list(system.getForces())[before:]]

    barostat = ["MonteCarloBarostat", "HarmonicBondForce"]
    assert kinds(ensemble="nve", thermostat="nose-hoover") == []
    assert kinds(ensemble="nvt") == []
    assert kinds(ensemble="nvt", thermostat="nose-hoover") == ["CMMotionRemover"]
    assert kinds(ensemble="npt") == barostat
    both = kinds(ensemble="npt", thermostat="nose-hoover")
    assert both == [*barostat, "CMMotionRemover"]


def test_pressure_and_temperature_reach_openmm() -> None:
    options = RunOptions(
        ensemble="npt", pressure_bar=7.0, temperature=310.0, thermostat="nose-hoover"
    )
    system, topology = harmonic_water(8, EDGE)
    energy = openmm.Context(system, openmm.VerletIntegrator(0.001))
    energy.setPositions(0.1 * water_positions(8, 1))
    before = energy.getState(energy=True).getPotentialEnergy()
    add_ensemble_forces(system, topology, options, 5)
    (barostat,) = (
        f for f in system.getForces() if isinstance(f, openmm.MonteCarloBarostat)
    )
    assert barostat.getDefaultPressure() == 7.0 * unit.bar
    assert barostat.getDefaultTemperature() == 310.0 * unit.kelvin
    assert barostat.getRandomNumberSeed() == 5
    integrator = make_integrator(options, 5)
    assert integrator.getIntegrator(0).getTemperature() == 310.0 * unit.kelvin
    assert integrator.getIntegrator(1).getTemperature() == 310.0 * unit.kelvin
    assert degrees_of_freedom(system, "npt") == 69
    # The bonds that tell the molecules have no strength.
    context = openmm.Context(system, integrator)
    context.setPositions(0.1 * water_positions(8, 1))
    assert context.getState(energy=True).getPotentialEnergy() == before


def test_friction_and_steps_of_the_integrators() -> None:
    """The equilibration is damped strongly, the production is not."""
    # A part must not outlive the whole.
    langevin = make_integrator(RunOptions(ensemble="nvt", dt_fs=0.25), 5)
    both = [langevin.getIntegrator(i) for i in (0, 1)]
    assert [one.getFriction() * unit.picosecond for one in both] == [10.0, 1.0]
    assert [one.getStepSize() / unit.femtosecond for one in both] == [0.25, 0.25]
    assert [one.getRandomNumberSeed() for one in both] == [5, 5]
    nve = make_integrator(RunOptions(ensemble="nve"), 5)
    assert isinstance(nve.getIntegrator(1), openmm.VerletIntegrator)
    chain = make_integrator(RunOptions(ensemble="nvt", thermostat="nose-hoover"), 5)
    frequency = chain.getIntegrator(1).getCollisionFrequency()
    assert frequency * unit.picosecond == 25.0


def test_what_belongs_to_another_ensemble_is_refused() -> None:
    npt = RunOptions(ensemble="npt", pressure_bar=7.0, temperature=310.0)
    system, topology = harmonic_water(8, EDGE)
    add_ensemble_forces(system, topology, npt, 5)
    add_ensemble_forces(system, topology, npt, 6)
    seeds = [
        force.getRandomNumberSeed()
        for force in system.getForces()
        if isinstance(force, openmm.MonteCarloBarostat)
    ]
    assert seeds == [6]
    with pytest.raises(ValueError, match=r"7.*bar and 310.*K, the run asks for 1.*bar"):
        add_ensemble_forces(system, topology, RunOptions(ensemble="npt"), 5)
    for ensemble in ("nve", "nvt"):
        with pytest.raises(ValueError, match="has a MonteCarloBarostat, which would"):
            add_ensemble_forces(system, topology, RunOptions(ensemble=ensemble), 5)
    others = (
        openmm.MonteCarloAnisotropicBarostat(openmm.Vec3(1.0, 1.0, 1.0), 300.0),
        openmm.AndersenThermostat(300.0, 1.0),
    )
    for other in others:
        system, topology = harmonic_water(8, EDGE)
        system.addForce(other)
        with pytest.raises(ValueError, match=f"has a {type(other).__name__}"):
            add_ensemble_forces(system, topology, RunOptions(ensemble="npt"), 5)


def test_npt_without_a_box_is_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    with pytest.raises(ValueError, match="NPT needs a periodic box .*CRYST1"):
        run(tmp_path / "a", system, topology, water_positions(2), ensemble="npt")
    assert not (tmp_path / "a").exists()

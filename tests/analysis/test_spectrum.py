"""Vibrational spectra whose peaks are known."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import openmm
import pytest
from analytic_water import exact_wavenumbers, harmonic_water
from recordings import WATER

from openmm_se3.analysis import (
    analyze_folder,
    spectrum,
    verlet_corrected,
)
from openmm_se3.analysis.spectrum import (
    HIGHEST_VIBRATION,
    internal_velocities,
    nyquist,
)
from openmm_se3.simulation import (
    RunOptions,
    run_dynamics,
)

SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs


def test_shift_of_verlet_is_corrected() -> None:
    # The known case: 3927 cm^-1 shows at 3950, 3933 and 3928.
    for dt, seen in ((0.5, 3950.0), (0.25, 3933.0), (0.125, 3928.0)):
        assert verlet_corrected(np.array(seen), dt) == pytest.approx(3927.0, abs=1.0)


@pytest.mark.parametrize("dt", [0.5, 0.25])
def test_spectrum_of_a_verlet_oscillator(dt: float) -> None:
    true = 3927.0
    omega = 2.0 * np.pi * SPEED_OF_LIGHT * true
    every, n_frames = round(2.0 / dt), 10_000
    x, v, velocities = 0.0, 0.01, []
    for step in range(1, n_frames * every + 1):
        v -= omega**2 * x * dt
        x += v * dt
        if step % every == 0:
            velocities.append([[v, 0.0, 0.0]])
    found = spectrum(np.array(velocities), np.array([1.0]), 2.0, dt)
    assert found is not None
    assert found.peaks.tolist() == pytest.approx([true], abs=0.3)
    # The control: without the correction it is off by more than the resolution.
    uncorrected = found.as_simulated[np.argmax(found.intensity)]
    assert uncorrected - true > (20.0 if dt == 0.5 else 5.0)


def test_intensities_of_a_spectrum_are_kinetic_energies() -> None:
    """Of two atoms as fast as each other the heavier has the higher line."""
    time = 2.0 * np.arange(4000)
    wavenumbers, masses = (1000.0, 2500.0), np.array([1.0, 16.0])
    velocities = np.zeros((len(time), 2, 3))
    for atom, wavenumber in enumerate(wavenumbers):
        omega = 2.0 * np.pi * SPEED_OF_LIGHT * wavenumber
        velocities[:, atom, atom] = 0.01 * np.cos(omega * time)
    found = spectrum(velocities, masses, 2.0, 0.5)
    assert found is not None
    heights = [
        found.intensity[np.abs(found.as_simulated - wavenumber) < 5.0].max()
        for wavenumber in wavenumbers
    ]
    assert heights == pytest.approx([1.0 / 16.0, 1.0], rel=1e-2)
    # Half of the frames are lags: 4 ps.
    assert found.resolution == pytest.approx(1.0 / (SPEED_OF_LIGHT * 4000.0))
    above = found.wavenumber[found.intensity > 0.5]
    assert np.ptp(above) == pytest.approx(found.resolution, rel=0.2)


def turning_water(vibration: float) -> tuple[np.ndarray, np.ndarray, openmm.System]:
    """Return positions (A) and velocities (A/fs) of a molecule that turns fast."""
    system, _ = harmonic_water()
    integrator = openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    masses = np.array([system.getParticleMass(i)._value for i in range(3)])
    x = 0.1 * (WATER - masses @ WATER / masses.sum())
    rng = np.random.default_rng(4)
    # 2.5 rad/ps about the O-H2 axis is 13 cm^-1.
    v = np.cross([0.0, 1.0, 2.3], x) + vibration * rng.normal(size=(3, 3))
    v -= masses @ v / masses.sum()
    context.setPositions(x)
    context.setVelocities(v)
    positions, velocities = [], []
    for _ in range(10_000):
        integrator.step(4)
        state = context.getState(positions=True, velocities=True)
        v = state.getVelocities(asNumpy=True)._value
        # Half a step back, to the time of the velocities.
        positions.append(10.0 * (state.getPositions(asNumpy=True)._value - v * 2.5e-4))
        velocities.append(0.01 * v)
    return np.array(positions), np.array(velocities), system


def test_spectrum_of_a_turning_molecule_has_its_normal_modes() -> None:
    positions, velocities, system = turning_water(vibration=0.05)
    masses = np.array([system.getParticleMass(i)._value for i in range(3)])
    internal = internal_velocities(positions, velocities, masses, WATER)
    found = spectrum(internal, masses, 2.0, 0.5)
    assert found is not None
    exact = exact_wavenumbers(system, WATER)
    assert len(found.peaks) == 3
    assert np.abs(found.peaks - exact).max() < 2.0
    # The control: in the laboratory frame the rotation splits every line.
    laboratory = spectrum(velocities, masses, 2.0, 0.5)
    assert laboratory is not None
    near = np.abs(laboratory.wavenumber - exact[0]) < 5.0
    far = np.abs(np.abs(laboratory.wavenumber - exact[0]) - 13.0) < 5.0
    assert laboratory.intensity[far].max() > laboratory.intensity[near].max()


def test_internal_velocities_of_a_rigid_molecule_vanish() -> None:
    rng = np.random.default_rng(2)
    turning, drifting = rng.normal(size=(2, 3))
    positions = WATER[None] + 5.0
    velocities = np.cross(turning, WATER)[None] + drifting
    masses = np.array([16.0, 1.0, 1.0])
    internal = internal_velocities(positions, velocities, masses, WATER)
    assert np.abs(internal).max() < 1e-12
    # The control: a stretch stays, turned into the frame of the reference.
    velocities[0, 1] += WATER[1]
    assert np.abs(internal_velocities(positions, velocities, masses, WATER)).max() > 0.1


@pytest.mark.parametrize("interval", [3.98, 10.0, 50.0])
def test_frames_too_far_apart_give_no_spectrum(interval: float) -> None:
    time = interval * np.arange(2000)
    velocities = np.zeros((2000, 1, 3))
    velocities[:, 0, 0] = np.cos(2 * np.pi * SPEED_OF_LIGHT * 3742.0 * time)
    with pytest.raises(ValueError, match=f"{interval:g} fs"):
        spectrum(velocities, np.ones(1), interval, 0.5)


def test_frames_near_enough_show_the_fastest_vibration() -> None:
    time = 3.96 * np.arange(4000)
    velocities = np.zeros((4000, 1, 3))
    velocities[:, 0, 0] = np.cos(2 * np.pi * SPEED_OF_LIGHT * 4150.0 * time)
    found = spectrum(velocities, np.ones(1), 3.96, 0.001)
    assert found is not None
    assert found.peaks.tolist() == pytest.approx([4150.0], abs=3.0)


@pytest.mark.parametrize("verb", ["run", "water"])
def test_shell_and_python_have_the_same_defaults(verb: str) -> None:
    assert nyquist(RunOptions.frame_fs) > HIGHEST_VIBRATION
    module = importlib.import_module(f"openmm_se3.cli.{verb}")
    defaults = {
        p.name: p.default
        for p in module.command.params
        if not getattr(p, "is_flag", False) and not getattr(p, "hidden", False)
    }
    shared = [f for f in dataclasses.fields(RunOptions) if f.name in defaults]
    assert len(shared) > 6
    for field in shared:
        if field.name != "out" and field.default is not None:
            assert defaults[field.name] == field.default, field.name


def test_a_run_with_few_frames_names_the_option_for_a_spectrum(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=4000, frame_fs=10.0, equilibration_ps=0.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.spectrum is None and analysis.whole_spectrum is None
    (reason,) = [line for line in analysis.missing if "spectrum" in line]
    assert "--frame-interval 2.5" in reason and "frame_fs=2.5" in reason
    assert "1668 cm^-1" in reason


def test_too_few_frames_give_no_spectrum() -> None:
    assert spectrum(np.zeros((100, 3, 3)), np.ones(3), 2.0, 0.5) is None

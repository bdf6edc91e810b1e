"""Stoermer-Verlet against OpenMM's VerletIntegrator on an analytic water molecule."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from morse_water import ANGLE, ANGLE_STIFFNESS, DEPTH, LENGTH, STIFFNESS, water_force
from openmm import unit

from openmm_se3.units import (
    AVOGADRO,
    BOLTZMANN_EV,
    DALTON_KG,
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    EV_TO_KJ_PER_MOL,
)
from openmm_se3.verlet import (
    Trajectory,
    VelocityTime,
    central_velocities,
    kinetic_energy,
    reversed_start,
    run_verlet,
)

# OpenMM's dalton is exactly 1 g/mol, CODATA's is not: 1e-9 in mass is 1e-8 A in 1 ps.
DALTON = 1.0e-3 / (AVOGADRO * DALTON_KG)
MASSES = np.array([15.99943, 1.007947, 1.007947])  # g/mol
STEPS = 2000


def stretched_start(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (A) away from the minimum and velocities (A/fs) of 600 K."""
    positions = np.array([[0.0, 0.0, 0.0], [1.06, 0.0, 0.0], [-0.2, 0.93, 0.0]])
    rng = np.random.default_rng(seed)
    spread = np.sqrt(
        600.0 * BOLTZMANN_EV * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2 / MASSES
    )
    return positions, rng.normal(size=(3, 3)) * spread[:, None]


def openmm_positions(
    positions: np.ndarray, velocities: np.ndarray, dt: float, steps: int
) -> np.ndarray:
    """Return positions [steps + 1, 3, 3] (A) by OpenMM on the Reference platform."""
    system = openmm.System()
    for mass in MASSES:
        system.addParticle(mass)
    bond = openmm.CustomBondForce("depth*(1-exp(-stiffness*(r-length)))^2")
    bond.addGlobalParameter("depth", DEPTH * EV_TO_KJ_PER_MOL)
    bond.addGlobalParameter("stiffness", STIFFNESS * 10.0)
    bond.addGlobalParameter("length", LENGTH / 10.0)
    bond.addBond(0, 1)
    bond.addBond(0, 2)
    angle = openmm.HarmonicAngleForce()
    angle.addAngle(1, 0, 2, ANGLE, ANGLE_STIFFNESS * EV_TO_KJ_PER_MOL)
    system.addForce(bond)
    system.addForce(angle)
    platform = openmm.Platform.getPlatformByName("Reference")
    integrator = openmm.VerletIntegrator(dt * unit.femtosecond)
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions * unit.angstrom)
    context.setVelocities(velocities * unit.angstrom / unit.femtosecond)
    frames = [positions]
    for _ in range(steps):
        integrator.step(1)
        state = context.getState(getPositions=True)
        frames.append(
            state.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
        )
    return np.array(frames)


def run(
    dt: float, steps: int, velocities_at: VelocityTime, seed: int = 1
) -> Trajectory:
    """Return our own trajectory from the stretched start."""
    positions, velocities = stretched_start(seed)
    return run_verlet(
        water_force,
        MASSES * DALTON,
        positions,
        velocities,
        dt=dt,
        steps=steps,
        velocities_at=velocities_at,
    )


def test_analytic_force_is_the_gradient() -> None:
    positions, _ = stretched_start(1)
    _, forces = water_force(positions)
    for index in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[index] = 1e-5
        ahead, behind = (
            water_force(positions + step)[0],
            water_force(positions - step)[0],
        )
        assert forces[index] == pytest.approx((behind - ahead) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("seed", [1, 2])
def test_equals_openmm_over_2000_steps(seed: int) -> None:
    ours = run(0.5, STEPS, "half step before", seed).positions
    theirs = openmm_positions(*stretched_start(seed), 0.5, STEPS)
    assert np.ptp(ours[:, 1], axis=0).max() > 0.3  # it does move
    assert np.abs(ours - theirs).max() < 1e-9


def test_wrong_start_convention_is_seen() -> None:
    ours = run(0.5, STEPS, "same time").positions
    theirs = openmm_positions(*stretched_start(1), 0.5, STEPS)
    assert np.abs(ours - theirs).max() > 1e-3


def test_printed_equation_with_the_stray_half_is_seen() -> None:
    # (1.5) as printed is the same scheme with half the force.
    positions, velocities = stretched_start(1)

    def half_force(x: np.ndarray) -> tuple[float, np.ndarray]:
        energy, forces = water_force(x)
        return energy, 0.5 * forces

    wrong = run_verlet(
        half_force,
        MASSES,
        positions,
        velocities,
        dt=0.5,
        steps=100,
        velocities_at="half step before",
    )
    right = openmm_positions(positions, velocities, 0.5, 100)
    assert np.abs(wrong.positions - right).max() > 1e-2


def test_halving_the_step_quarters_the_energy_fluctuation() -> None:
    coarse = run(0.5, 1000, "same time").total_energy.std()
    fine = run(0.25, 2000, "same time").total_energy.std()
    assert 3.0 < coarse / fine < 5.0


def test_error_is_second_order() -> None:
    exact = run(0.5 / 32, 40 * 32, "same time")
    errors = [
        np.abs(
            run(0.5 / n, 40 * n, "same time").positions[-1] - exact.positions[-1]
        ).max()
        for n in (1, 2)
    ]
    assert 3.5 < errors[0] / errors[1] < 4.5
    # The kinetic energy by central difference is second order too.
    kinetic = [
        abs(
            run(0.5 / n, 40 * n, "same time").kinetic_energy[-1]
            - exact.kinetic_energy[-1]
        )
        for n in (1, 2)
    ]
    assert 3.0 < kinetic[0] / kinetic[1] < 5.0


def test_backwards_returns_to_the_start() -> None:
    forward = run(0.5, STEPS, "half step before")
    positions, velocities = reversed_start(forward)
    back = run_verlet(
        water_force,
        MASSES * DALTON,
        positions,
        velocities,
        dt=0.5,
        steps=STEPS,
        velocities_at="half step before",
    )
    assert np.abs(back.positions[::-1] - forward.positions).max() < 1e-9
    # With -v(-dt/2) instead of -v(+dt/2) it does not come back.
    wrong = run_verlet(
        water_force,
        MASSES * DALTON,
        positions,
        (forward.positions[-2] - positions) / 0.5,
        dt=0.5,
        steps=STEPS,
        velocities_at="half step before",
    )
    assert np.abs(wrong.positions[-1] - forward.positions[0]).max() > 1e-3


def test_momentum_is_kept_and_free_particles_move_straight() -> None:
    forward = run(0.5, 500, "same time")
    momenta = np.einsum("i,nix->nx", MASSES, forward.velocities)
    assert np.abs(momenta - momenta[0]).max() < 1e-10
    free = run_verlet(
        lambda x: (0.0, np.zeros_like(x)),
        np.ones(1),
        np.zeros((1, 3)),
        np.array([[0.1, 0.0, 0.0]]),
        dt=2.0,
        steps=5,
        velocities_at="same time",
    )
    np.testing.assert_allclose(free.positions[:, 0, 0], 0.2 * np.arange(6), atol=1e-14)
    np.testing.assert_allclose(free.velocities[:, 0, 0], 0.1, atol=1e-15)


def test_kinetic_energy_has_the_right_unit() -> None:
    # 1 dalton at 1 A/fs: 1.66053906892e-27 kg (1e5 m/s)^2 / 2 in eV.
    expected = 0.5 * 1.66053906892e-27 * 1e10 / 1.602176634e-19
    speed = central_velocities(np.array([[2.0, 0, 0]]), np.zeros((1, 3)), dt=1.0)
    assert kinetic_energy(speed, np.ones(1)) == pytest.approx(expected, rel=1e-12)


def test_zero_steps_keep_the_start() -> None:
    trajectory = run(0.5, 0, "half step before")
    assert trajectory.positions.shape == (1, 3, 3)
    np.testing.assert_array_equal(trajectory.positions[0], stretched_start(1)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masses": np.ones(2)}, "2 masses"),
        ({"masses": np.array([1.0, 0.0, 1.0])}, "masses must be positive"),
        ({"positions": np.full((3, 3), np.nan)}, "not finite"),
        ({"velocities": np.zeros((3, 2))}, "should both be"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"steps": -1}, "steps not negative"),
        ({"velocities_at": "now"}, "half step before"),
        ({"masses": np.ones((3, 1))}, "should be a list"),
        ({"masses": np.array([1.0, np.inf, 1.0])}, "masses must be positive"),
        ({"dt": np.inf}, "dt must be positive"),
    ],
)
def test_bad_starts_are_refused(change: dict[str, object], message: str) -> None:
    positions, velocities = stretched_start(1)
    start = {"masses": MASSES, "positions": positions, "velocities": velocities}
    options = {"dt": 0.5, "steps": 3, "velocities_at": "same time"}
    with pytest.raises(ValueError, match=message):
        run_verlet(water_force, **{**start, **options, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((3, 3)) * unit.nanometer}, "positions has units"),
        ({"velocities": np.zeros((3, 3)) * unit.nanometer / unit.picosecond}, "A/fs"),
        ({"masses": [1.0 * unit.dalton] * 3}, "masses has units"),
        ({"steps": 2.5}, "steps must be an integer"),
    ],
)
def test_values_with_units_are_refused(change: dict[str, object], message: str) -> None:
    """Without their units nm would be A, and nm/ps A/fs."""
    positions, velocities = stretched_start(1)
    start = {"masses": MASSES, "positions": positions, "velocities": velocities}
    options = {"dt": 0.5, "steps": 3, "velocities_at": "same time"}
    with pytest.raises(TypeError, match=message):
        run_verlet(water_force, **{**start, **options, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_forces_of_another_shape_are_not_stretched(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="returned forces"):
        run_verlet(
            lambda x: (0.0, np.zeros(shape)),
            MASSES,
            *stretched_start(1),
            dt=0.5,
            steps=2,
            velocities_at="same time",
        )


def test_a_function_that_changes_its_argument_changes_no_trajectory() -> None:
    def spoiling(x: np.ndarray) -> tuple[float, np.ndarray]:
        result = water_force(x)
        x[:] = 0.0
        return result

    options = {"dt": 0.5, "steps": 5, "velocities_at": "same time"}
    found, expected = (
        run_verlet(function, MASSES, *stretched_start(1), **options)  # type: ignore[arg-type]
        for function in (spoiling, water_force)
    )
    np.testing.assert_array_equal(found.positions, expected.positions)


def test_an_energy_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="step 0"):
        run_verlet(
            lambda x: (np.nan, np.zeros_like(x)),
            MASSES,
            *stretched_start(1),
            dt=0.5,
            steps=2,
            velocities_at="same time",
        )


def test_a_force_that_is_not_finite_stops_the_run() -> None:
    calls = iter(range(100))

    def failing(x: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.0, np.full_like(x, np.nan if next(calls) == 7 else 0.0)

    with pytest.raises(FloatingPointError, match="step 7"):
        run_verlet(
            failing,
            MASSES,
            *stretched_start(1),
            dt=0.5,
            steps=50,
            velocities_at="same time",
        )

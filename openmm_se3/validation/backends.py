"""The same energies and forces from every implementation, backend and platform."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import openmm

from openmm_se3.compiled.cache import CompileError
from openmm_se3.force import SE3Potential
from openmm_se3.force.backends import BACKENDS
from openmm_se3.implementation import IMPLEMENTATIONS, asked_implementation
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.signals import raise_again
from openmm_se3.simulation.platforms import platform_names
from openmm_se3.validation.check import Check
from openmm_se3.validation.contexts import as_function, make_context, make_system
from openmm_se3.validation.structures import Structure, evaluate

FORCE_LIMIT = {"double": 1e-10, "single": 5e-5}  # eV/A
CPU_PLATFORMS = ("Reference", "CPU")  # which every OpenMM has
# OpenMM's GPU platforms keep positions, or at least forces, in single precision.
GPU_FORCE_LIMIT = {"double": 1e-6, "single": 1e-3}
PRECISION_LIMIT = 1e-3  # eV/A, float32 against float64
# Two that round differently may be so many times as far apart as float32 is from
# float64 on the same frames.
ROUNDINGS = 3.0
CALLS = 20  # a scripted module changes during its first calls, so one is not enough
RATTLE = 0.05  # A


def rattled(structure: Structure, rng: np.random.Generator) -> list[Structure]:
    """Return ``CALLS`` structures near one."""
    shape = structure.positions.shape
    return [
        structure.moved(structure.positions + rng.normal(scale=RATTLE, size=shape))
        for _ in range(CALLS)
    ]


def largest_errors(
    found: list[tuple[float, np.ndarray]], expected: list[tuple[float, np.ndarray]]
) -> tuple[float, float]:
    """Return the largest differences of energies (eV) and of forces (eV/A)."""
    pairs = list(zip(found, expected, strict=True))
    # numpy's max passes NaN on, Python's does not.
    energy = np.max([abs(a - b) for (a, _), (b, _) in pairs])
    forces = np.max([np.abs(a - b).max() for (_, a), (_, b) in pairs])
    return float(energy), float(forces)


def backend_checks(
    model: str | Path,
    networks: dict[str, SE3Transformer],
    structures: list[Structure],
    rng: np.random.Generator,
) -> list[Check]:
    """Compare every way of running the model with the eager network.

    An implementation, a backend or a platform that this machine lacks is listed as not
    run, with the reason.

    Args:
        model: Name or path of the model.
        networks: The eager network by precision.
        structures: Structures of different sizes.
        rng: Moves the atoms from call to call.
    """
    checks = []
    frames = {s.name: rattled(s, rng) for s in structures}
    expected = {
        precision: {
            name: [evaluate(network, frame) for frame in moved]
            for name, moved in frames.items()
        }
        for precision, network in networks.items()
    }
    rounding = 0.0
    for name in frames:
        _, difference = largest_errors(
            expected["single"][name], expected["double"][name]
        )
        rounding = max(rounding, difference)
        checks.append(
            Check(
                "precision",
                f"single against double, {name}",
                difference,
                "eV/A",
                high=PRECISION_LIMIT,
                note="eager network",
            )
        )
    limits = {
        "double": FORCE_LIMIT["double"],
        "single": max(FORCE_LIMIT["single"], ROUNDINGS * rounding),
    }
    for precision in networks:
        limit = limits[precision]
        for implementation, name in itertools.product(_implementations(), BACKENDS):
            problem = BACKENDS[name].problem()
            if problem is None:
                try:
                    potential = SE3Potential(
                        model,
                        precision=precision,
                        backend=name,
                        implementation=implementation,
                    )
                    checks += _platform_checks(
                        potential, frames, expected[precision], limit
                    )
                except CompileError as error:
                    problem = str(error)
            if problem is not None:
                checks.append(
                    _not_run(f"{implementation}, {name}, {precision}", problem)
                )
        checks.append(_ase_check(model, precision, frames, expected[precision], limit))
    return checks


def _implementations() -> list[str]:
    """Return what computes networks, one where the environment variable says which."""
    chosen = asked_implementation()
    return [
        implementation
        for implementation in IMPLEMENTATIONS
        if implementation != "auto" and chosen in (implementation, "auto")
    ]


def _not_run(name: str, problem: str) -> Check:
    return Check("backends", name, None, "eV/A", note=problem)


def _platform_checks(
    potential: SE3Potential,
    frames: dict[str, list[Structure]],
    expected: dict[str, list[tuple[float, np.ndarray]]],
    limit: float,
) -> list[Check]:
    """Compare one implementation and backend in one precision on every platform."""
    precision = potential.precision
    systems = {key: make_system(potential, moved[0]) for key, moved in frames.items()}
    checks = []
    for platform in platform_names():
        name = ", ".join(
            (potential.implementation, potential.backend, platform, precision)
        )
        try:
            errors = [
                largest_errors(
                    _calls(systems[key], moved, platform, precision), expected[key]
                )
                for key, moved in frames.items()
            ]
        except openmm.OpenMMException as error:
            raise_again()
            reason = " ".join(str(error).split())
            # A GPU may be missing or busy; on a processor nothing excuses an error.
            measured = math.nan if platform in CPU_PLATFORMS else None
            checks.append(Check("backends", name, measured, "eV/A", note=reason))
            continue
        on_gpu = platform not in CPU_PLATFORMS
        most = GPU_FORCE_LIMIT[precision] if on_gpu else limit
        checks.append(_error_check(name, errors, most))
    return checks


def _calls(
    system: openmm.System, moved: list[Structure], platform: str, precision: str
) -> list[tuple[float, np.ndarray]]:
    integrator = openmm.VerletIntegrator(0.001)
    context = make_context(system, integrator, moved[0].positions, platform, precision)
    function = as_function(context)
    return [function(frame.positions) for frame in moved]


def _ase_check(
    model: str | Path,
    precision: str,
    frames: dict[str, list[Structure]],
    expected: dict[str, list[tuple[float, np.ndarray]]],
    limit: float,
) -> Check:
    name = f"ASE calculator, {precision}"
    try:
        from ase import Atoms
    except ImportError:
        return _not_run(
            name, 'ASE is not installed; fix: pip install "openmm-se3[ase]"'
        )
    calculator = SE3Potential(model, precision=precision).ase_calculator()
    errors = []
    for key, moved in frames.items():
        found = []
        for frame in moved:
            atoms = Atoms(frame.numbers, frame.positions, calculator=calculator)
            found.append((atoms.get_potential_energy(), atoms.get_forces()))
        errors.append(largest_errors(found, expected[key]))
    return _error_check(name, errors, limit)


def _error_check(name: str, errors: list[tuple[float, float]], limit: float) -> Check:
    energy_error, force_error = np.max(errors, axis=0)
    return Check(
        "backends",
        name,
        float(force_error),
        "eV/A",
        high=limit,
        note=f"against eager, {CALLS} calls a size; energy {energy_error:.1e} eV",
    )

"""Which OpenMM platform to run on."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import openmm
from openmm import unit

from openmm_se3.units import ANGSTROM_TO_NM, FS_TO_PS

MEASURED_ATOMS = 300  # up to here the faster of Reference and CPU is measured
WARM_UP_STEPS = 20  # TorchScript optimizes during its first calls
TIMED_STEPS = 20
REPEATS = 3
CPU_MARGIN = 0.9  # CPU must be this much faster, so that the choice is reproducible


def platform_names() -> list[str]:
    """Return the names of the platforms that OpenMM has here."""
    count = openmm.Platform.getNumPlatforms()
    return [openmm.Platform.getPlatform(i).getName() for i in range(count)]


def named_platform(name: str) -> openmm.Platform:
    """Return a platform by name, in any case.

    Raises:
        ValueError: OpenMM has no such platform here.
    """
    names = platform_names()
    for known in names:
        if known.lower() == name.lower():
            return openmm.Platform.getPlatformByName(known)
    fix = '; with an NVIDIA GPU: pip install ".[cuda12]"' if name == "CUDA" else ""
    raise ValueError(f"there is no platform {name!r} here; choose from {names}{fix}")


def platform_properties(name: str, precision: str) -> dict[str, str]:
    """Return the properties of a GPU platform for "single" or "double" forces.

    With single precision forces, positions and velocities are still summed in double
    ("mixed"), as the energy drifts otherwise.
    """
    if name in ("CUDA", "OpenCL", "HIP"):
        return {"Precision": "double" if precision == "double" else "mixed"}
    return {}


def best_platform(
    system: openmm.System, positions: np.ndarray, precision: str = "single"
) -> tuple[openmm.Platform, str]:
    """Return the best platform for a System, and why it was taken.

    CUDA if it is there and opens; other GPU platforms only run when asked for by name.
    Otherwise CPU for many atoms, and for few the faster of Reference and CPU in a short
    run.

    Args:
        system: System that will run.
        positions: Positions [n_atoms, 3], A, to measure with.
        precision: "single" or "double".
    """
    names = platform_names()
    if "CUDA" in names and _opens(system, "CUDA", precision):
        return openmm.Platform.getPlatformByName("CUDA"), "a GPU is present"
    if "CPU" not in names:
        return openmm.Platform.getPlatformByName("Reference"), "the only one present"
    if len(positions) > MEASURED_ATOMS:
        return openmm.Platform.getPlatformByName("CPU"), "no GPU, many atoms"
    speeds = _milliseconds_per_step(system, positions, ("Reference", "CPU"))
    faster = "CPU" if speeds["CPU"] < CPU_MARGIN * speeds["Reference"] else "Reference"
    measured = ", ".join(f"{name} {speeds[name]:.2f}" for name in speeds)
    reason = f"measured, ms a step: {measured}"
    return openmm.Platform.getPlatformByName(faster), reason


def _opens(system: openmm.System, name: str, precision: str) -> bool:
    # A platform can be installed on a machine without a device, or with a driver too
    # old; only making a Context tells.
    platform = openmm.Platform.getPlatformByName(name)
    properties = platform_properties(name, precision)
    try:
        openmm.Context(system, openmm.VerletIntegrator(0.0005), platform, properties)
    except openmm.OpenMMException:
        return False
    return True


def _milliseconds_per_step(
    system: openmm.System, positions: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    contexts = {}
    for name in names:
        # The step is tiny, so that a start that is not yet minimized stays where it is.
        integrator = openmm.VerletIntegrator(1e-3 * FS_TO_PS * unit.picosecond)
        platform = openmm.Platform.getPlatformByName(name)
        context = openmm.Context(system, integrator, platform)
        context.setPositions(positions * ANGSTROM_TO_NM)
        integrator.step(WARM_UP_STEPS)
        contexts[name] = context
    best = dict.fromkeys(names, np.inf)
    # In turns, so that a disturbance does not hit only one of them.
    for _ in range(REPEATS):
        for name, context in contexts.items():
            start = time.perf_counter()
            context.getIntegrator().step(TIMED_STEPS)
            elapsed = 1000.0 * (time.perf_counter() - start) / TIMED_STEPS
            best[name] = min(best[name], elapsed)
    return best

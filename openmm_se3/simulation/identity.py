"""What a run is of and where it runs: what must agree for it to be resumed."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.version import installed_version

# Forces of code, which has no reproducible bytes; the model's hash stands for it.
# Those of plugins, such as TorchForce, come out of a System as plain Force.
FORCES_OF_CODE = ("Force", "TorchForce", "PythonForce")
# Properties of a platform without which its binary checkpoints do not fit.
PROPERTIES = ("Threads", "DeviceName", "Precision")


def identity(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray,
    settings: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    """Return what a run is of, as plain values: two runs with the same are the same.

    Args:
        system: Particles and forces.
        topology: Atoms and bonds.
        positions: Start [n_atoms, 3], A.
        settings: Options that decide the trajectory.
        model: What identifies the model, its hash for one.
    """
    elements = Counter(
        atom.element.symbol if atom.element else "?" for atom in topology.atoms()
    )
    box = None
    if system.usesPeriodicBoundaryConditions():
        box = [
            [round(x, 6) for x in vector.value_in_unit(unit.angstrom)]
            for vector in system.getDefaultPeriodicBoxVectors()
        ]
    parts = [
        str([system.getParticleMass(i)._value for i in range(len(positions))]),
        str([(bond[0].index, bond[1].index) for bond in topology.bonds()]),
        str(
            [
                system.getConstraintParameters(i)
                for i in range(system.getNumConstraints())
            ]
        ),
        *(
            openmm.XmlSerializer.serialize(force)
            for force in system.getForces()
            if type(force).__name__ not in FORCES_OF_CODE
        ),
    ]
    return {
        "system": {
            "atoms": len(positions),
            "elements": " ".join(f"{s}{elements[s]}" for s in sorted(elements)),
            "box": box,
            "sha256": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            "start_sha256": hashlib.sha256(positions.tobytes()).hexdigest(),
        },
        "model": model,
        "settings": settings,
    }


def environment(context: openmm.Context, backend: str, engine: str) -> dict[str, str]:
    """Return where a run computes: elsewhere its binary checkpoints do not fit."""
    platform = context.getPlatform()
    return {
        "platform": platform.getName(),
        "openmm": openmm.Platform.getOpenMMVersion(),
        "torch": installed_version("torch") or "",
        "backend": backend,
        "engine": engine,
        **{
            name: platform.getPropertyValue(context, name)
            for name in platform.getPropertyNames()
            if name in PROPERTIES
        },
    }

"""Compiled networks and how far they are from the reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from openmm_se3.model_file import load_model
from openmm_se3.torchscript.build import (
    ForceSettings,
    build_module,
    eager_force,
)
from openmm_se3.torchscript.self_check import random_positions
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

PYTHONPATH = str(Path(__file__).parent)

TOLERANCE = {"single": 5e-5, "double": 1e-10}  # eV/A, eV an atom


def settings_of(
    n_atoms: int, precision: str, periodic: bool = False, **changes: Any
) -> ForceSettings:
    return dataclasses.replace(
        ForceSettings(
            model=load_model("water"),
            precision=precision,
            species=tuple(i % 2 for i in range(n_atoms)),
            atoms=tuple(range(n_atoms)),
            n_particles=n_atoms,
            periodic=periodic,
            offset=0.0,
            implementation="compiled",
        ),
        **changes,
    )


def differences(
    settings: ForceSettings, box: torch.Tensor | None, calls: int = 20
) -> float:
    """Return the largest difference to the network: eV an atom, or eV/A."""
    module = build_module(settings)
    expected = eager_force(settings.model.network(torch.float64), settings)
    positions = random_positions(settings.n_particles)
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for _ in range(calls):
        x = positions + 0.005 * torch.randn(
            positions.shape, generator=generator, dtype=torch.float64
        )
        energy, forces = module(x) if box is None else module(x, box)
        energy_expected, forces_expected = expected(x, box)
        n_atoms = len(settings.species)
        worst = max(
            worst,
            abs(float(energy - energy_expected)) / EV_TO_KJ_PER_MOL / n_atoms,
            float((forces - forces_expected).abs().max())
            / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
        )
    return worst

"""Potentials and boxes of water."""

from __future__ import annotations

from pathlib import Path

import pytest
from mixed_systems import FIELDS, liquid
from openmm import app
from water_potentials import potential_of

from openmm_se3 import SE3Potential


@pytest.fixture
def potential(random_model: Path) -> SE3Potential:
    return potential_of(random_model, "pythonforce", "single")


@pytest.fixture(scope="session")
def boxes() -> dict[str, app.Modeller]:
    return {water: liquid(water) for water in FIELDS}

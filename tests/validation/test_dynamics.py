"""Checks of dynamics pass what is right and see what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
from wrong_potentials import MOLECULE, AnalyticPotential, failed

from openmm_se3 import verlet as integrators
from openmm_se3.force import SE3Potential
from openmm_se3.shipped import shipped_models
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
from openmm_se3.validation.dynamics import drift_check, verlet_checks


def test_verlet_checks_on_an_analytic_force() -> None:
    found = verlet_checks(
        AnalyticPotential(),  # type: ignore[arg-type]
        MOLECULE,
        500,
        np.random.default_rng(0),
    )
    assert not failed(found)
    assert len(found) == 6
    assert found[0].measured == 500  # an almost harmonic molecule is not chaotic


@pytest.mark.parametrize("wrong", ["OpenMM", "NumPy"])
def test_a_wrong_integrator_is_seen(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two it is: no comparison is one with itself."""
    if wrong == "OpenMM":
        right = openmm.VerletIntegrator
        monkeypatch.setattr(
            openmm, "VerletIntegrator", lambda step: right((1.0 + 1e-5) * step)
        )
    else:
        step = integrators.verlet_step
        monkeypatch.setattr(
            integrators,
            "verlet_step",
            lambda x, before, a, dt: step(x, before + 1e-6 * (x - before), a, dt),
        )
    potential: Any = AnalyticPotential()
    found = verlet_checks(potential, MOLECULE, 100, np.random.default_rng(0))
    wrong_checks = [check.name for check in found if check.status == "fail"]
    assert "NumPy against OpenMM" in wrong_checks
    assert f"{wrong} returns to its start" in wrong_checks


def test_verlet_checks_on_the_shipped_model(model_folder: Path) -> None:
    model = "water" if "water" in shipped_models() else model_folder
    potential = SE3Potential(model, precision="double")
    found = verlet_checks(potential, MOLECULE, 600, np.random.default_rng(0))
    assert not failed(found)
    # Atoms in a random potential collide, which ends what can be compared early.
    assert found[0].measured == 600 or model != "water"


def test_drift_of_an_analytic_force_and_of_one_without_an_energy() -> None:
    good = drift_check(AnalyticPotential(), MOLECULE, "double", 2.0, seed=1)  # type: ignore[arg-type]
    assert good.status == "pass"
    assert good.measured is not None and good.measured < 1.0
    # A curl of 0.002 eV/A at 1 A: small beside the forces of bonds.
    curl = AnalyticPotential(0.02 * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM)
    bad = drift_check(curl, MOLECULE, "double", 2.0, seed=1)  # type: ignore[arg-type]
    assert bad.status == "fail"

"""Direct forces in OpenMM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from openmm import unit
from random_model import (
    SMALLEST,
    WATER,
    topology_of,
    write_random_weights,
)
from water_potentials import assert_same, context_of, run, symbols_of

from openmm_se3 import SE3Potential
from openmm_se3.force.backends import BACKENDS
from openmm_se3.neighbors import all_pairs
from openmm_se3.nn.force_field import ForceField


def test_direct_forces_reach_openmm(tmp_path: Path) -> None:
    model = write_random_weights(
        tmp_path / "direct", **{**SMALLEST, "lmax": 1}, force_mode="direct"
    )
    for backend in BACKENDS:
        with pytest.warns(UserWarning, match="energy is not conserved: .* 'direct'"):
            potential = SE3Potential(model, backend=backend, precision="double")
        expected = potential.energy_and_forces([8, 1, 1], WATER)
        for box in (None, 30.0 * np.eye(3)):
            system = potential.createSystem(topology_of(symbols_of(1), box))
            assert_same(run(context_of(system), WATER), expected, 1e-9)


def test_a_direct_head_estimates_the_error_of_conservative_forces(
    tmp_path: Path,
) -> None:
    changes = {**SMALLEST, "lmax": 1}
    plain = SE3Potential(
        write_random_weights(tmp_path / "plain", **changes), precision="double"
    )
    both = SE3Potential(
        write_random_weights(tmp_path / "both", **changes, force_mode="both"),
        precision="double",
    )
    # OpenMM gets the conservative forces.
    expected = plain.energy_and_forces([8, 1, 1], WATER)
    system = both.createSystem(topology_of(symbols_of(1)))
    assert_same(run(context_of(system), WATER), expected, 1e-9)

    network = both.model.network(torch.float64)
    _, forces, direct = ForceField(network).with_direct_forces(
        torch.tensor(WATER), torch.tensor([1, 0, 0]), all_pairs(3)
    )
    estimate = both.force_disagreement([8, 1, 1], WATER * unit.angstrom)
    np.testing.assert_allclose(estimate, (direct - forces).norm(dim=1), rtol=1e-12)
    assert estimate.shape == (3,) and estimate.min() > 1e-3
    with pytest.raises(ValueError, match="'plain' has conservative forces only"):
        plain.force_disagreement([8, 1, 1], WATER)
    with pytest.raises(ValueError, match="atom 2 is C"):
        both.force_disagreement([8, 1, 6], WATER)

"""The choice of a backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from random_model import (
    SMALLEST,
    topology_of,
)
from water_potentials import (
    assert_same,
    context_of,
    eager,
    positions_of,
    run,
    symbols_of,
)

from openmm_se3 import SE3Potential
from openmm_se3.force import plugin


@pytest.fixture
def without_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = "the plugin openmmtorch is not installed; fix: pip install it"
    monkeypatch.setattr(plugin, "torchforce_problem", lambda: cause)


def test_auto_takes_torchforce_where_it_works(random_model: Path) -> None:
    assert SE3Potential(random_model).backend == "torchforce"


def test_without_the_plugin_pythonforce_serves(
    without_plugin: None, smallest_model: Path
) -> None:
    with pytest.warns(UserWarning, match="not installed; fix: .*with pythonforce"):
        potential = SE3Potential(smallest_model, precision="double")
    assert potential.backend == "pythonforce"
    system = potential.createSystem(topology_of(symbols_of(2)))
    assert isinstance(system.getForce(0), openmm.PythonForce)
    expected = eager(symbols_of(2), positions_of(2), **SMALLEST)
    assert_same(run(context_of(system), positions_of(2)), expected, 1e-9)


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce"])
@pytest.mark.parametrize("implementation", ["torchscript", "compiled"])
def test_particles_that_are_added_later_feel_nothing(
    backend: str, implementation: str, smallest_model: Path
) -> None:
    potential = SE3Potential(
        smallest_model, backend=backend, implementation=implementation
    )
    topology, positions = topology_of(symbols_of(1)), positions_of(1)
    system = potential.createSystem(topology)
    energy, forces = run(context_of(system), positions)
    system.addParticle(1.0)
    more = np.concatenate([positions, [[30.0, 0.0, 0.0]]])
    same, longer = run(context_of(system), more)
    assert same == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(longer[:-1], forces, atol=1e-5)
    np.testing.assert_array_equal(longer[-1], 0.0)


def test_torchforce_asked_for_and_missing(
    without_plugin: None, random_model: Path
) -> None:
    with pytest.raises(plugin.PluginError, match="torchforce cannot be used.*fix:"):
        SE3Potential(random_model, backend="torchforce")


def test_no_backend_at_all(
    without_plugin: None, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "pythonforce_problem", lambda: "no PythonForce")
    with pytest.raises(
        plugin.PluginError, match="not installed.*; pythonforce.*: no Py"
    ):
        SE3Potential(random_model)

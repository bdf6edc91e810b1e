"""Modules can be imported by the names that they had before."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import random_network, water_cluster

from openmm_se3 import SE3Potential
from openmm_se3._moved import MOVED
from openmm_se3.implementation import OLD_VARIABLE, VARIABLE, asked_implementation
from openmm_se3.neighbors import all_pairs, neighbor_pairs, neighbour_pairs
from openmm_se3.nn.force_field import ForceField


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_warns_and_gives_the_new_module(old):
    # A package warns too, if its module is the first one asked for.
    for name in [name for name in MOVED if f"{old}.".startswith(f"{name}.")]:
        sys.modules.pop(f"openmm_se3.{name}", None)
    with pytest.warns(DeprecationWarning) as caught:
        module = importlib.import_module(f"openmm_se3.{old}")
    assert module is importlib.import_module(f"openmm_se3.{MOVED[old]}")
    assert any(f"openmm_se3.{MOVED[old]}" in str(one.message) for one in caught)


def test_new_names_do_not_warn():
    code = "import openmm_se3.data.frames, openmm_se3.nn.transformer"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_old_functions_of_the_network_give_the_same() -> None:
    network = random_network()
    species, positions = water_cluster(2)
    with pytest.warns(DeprecationWarning, match="neighbor_pairs"):
        edges = neighbour_pairs(positions, 4.0)
    for old, new in zip(edges, neighbor_pairs(positions, 4.0), strict=False):
        assert torch.equal(old, new)
    center, neighbor, _, _ = pairs = all_pairs(len(species))
    expected = ForceField(network)(positions, species, pairs)
    with pytest.warns(DeprecationWarning, match="ForceField"):
        found = network.energy_and_forces(
            positions, species, center, neighbor, dense=True
        )
    for old, new in zip(found, expected, strict=True):
        assert torch.equal(old, new)


def test_the_old_name_of_an_argument(smallest_model: Path) -> None:
    with (
        pytest.warns(DeprecationWarning, match="neighbors"),
        pytest.raises(ValueError, match="cudaGraphs=True"),
    ):
        SE3Potential(smallest_model, neighbours=8)  # type: ignore[call-arg]


def test_old_names_of_a_potential(smallest_model: Path) -> None:
    with pytest.warns(DeprecationWarning, match="implementation"):
        potential = SE3Potential(smallest_model, engine="torchscript")  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="implementation"):
        assert potential.engine == potential.implementation == "torchscript"
    positions = 3.0 * np.arange(6.0).reshape(2, 3)
    with pytest.warns(DeprecationWarning, match="estimate_memory"):
        assert potential.memory(positions)[0] == potential.estimate_memory(positions)[0]
    with (
        pytest.warns(DeprecationWarning, match="force_disagreement"),
        pytest.raises(ValueError, match="force_mode: both"),
    ):
        potential.force_error([8, 1], positions)


def test_the_old_name_of_the_environment_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(OLD_VARIABLE, "triton")
    with pytest.warns(FutureWarning, match=VARIABLE):
        assert asked_implementation() == "triton"
    assert asked_implementation("compiled") == "compiled"
    monkeypatch.setenv(VARIABLE, "torchscript")
    assert asked_implementation() == "torchscript"


@pytest.mark.parametrize("old", ["ModelRun", "WaterRun"])
@pytest.mark.parametrize("place", ["simulation", "simulation.{}"])
def test_old_names_of_options(old: str, place: str) -> None:
    module = importlib.import_module(
        f"openmm_se3.{place}".format(old.removesuffix("Run").lower())
    )
    with pytest.warns(DeprecationWarning, match=f"{old}Options"):
        kind = getattr(module, old)
    assert kind is getattr(module, f"{old}Options")
    with pytest.warns(DeprecationWarning, match="implementation"):
        options = kind(engine="triton")
    assert options == kind(implementation="triton")
    with pytest.warns(DeprecationWarning, match="implementation"):
        assert options.engine == "triton"

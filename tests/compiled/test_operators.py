"""Operators and Systems that hold the compiled network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from compiled_networks import PYTHONPATH, settings_of

from openmm_se3.compiled import library
from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.library import find_compiler
from openmm_se3.force import SE3Potential
from openmm_se3.model_file import load_model
from openmm_se3.torchscript.build import build_module, eager_force
from openmm_se3.torchscript.self_check import random_positions

pytestmark = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)


def test_weights_of_another_network_are_refused() -> None:
    network = load_model("water").network(torch.float64)
    namespace = library.load_library(network.config, "double")
    operator = getattr(torch.ops, namespace).energy_and_forces
    with pytest.raises(RuntimeError, match="not the network"):
        operator(
            random_positions(3),
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(3, dtype=torch.int64),
            torch.arange(3),
            pack.weights(pack.parts_of(network))[:-1],
            pack.RadialTables(network, 16)(network),
            pack.constants(network),
            *(10.0, 1.0, 0.0),
        )


def test_fewer_particles_than_atoms_are_refused() -> None:
    module = build_module(settings_of(3, "single"))
    with pytest.raises(RuntimeError, match="fewer particles than atoms"):
        module(random_positions(2))
    assert module(random_positions(3))[1].shape == (3, 3)


def test_what_the_operator_would_read_beyond_is_refused() -> None:
    module = build_module(settings_of(3, "single"))
    x = random_positions(3)
    with pytest.raises(RuntimeError, match=r"positions must be \[n_particles, 3\]"):
        module(x[:, :1])
    with pytest.raises(RuntimeError, match=r"the box must be \[3, 3\]"):
        module(x, torch.ones(1, 1))
    module.set_atoms(torch.tensor([0, 1, 7]), torch.arange(3), 0.0)
    with pytest.raises(RuntimeError, match="a species is none of the model's"):
        module(x)
    module.set_atoms(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, -1]), 0.0)
    with pytest.raises(RuntimeError, match="fewer particles than atoms"):
        module(x)
    nothing = torch.zeros(0, dtype=torch.int64)
    module.set_atoms(nothing, nothing, 0.0)
    with pytest.raises(RuntimeError, match="does not know its atoms: call set_atoms"):
        module(x)


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce"])
def test_in_openmm(backend: str, waters: tuple[Any, np.ndarray]) -> None:
    from openmm import unit

    topology, positions = waters
    results = []
    for implementation in ("compiled", "torchscript"):
        potential = SE3Potential(
            "water", precision="double", backend=backend, implementation=implementation
        )
        context = openmm.Context(
            potential.createSystem(topology),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
        context.setPositions(positions * unit.angstrom)
        state = context.getState(energy=True, forces=True)
        results.append(
            (state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value)
        )
    (energy, forces), (energy_expected, forces_expected) = results
    assert energy == pytest.approx(energy_expected, rel=1e-11)
    assert np.allclose(forces, forces_expected, rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match="implementation"):
        SE3Potential("water", implementation="fast")


def test_a_serialized_system_needs_the_library(
    tmp_path: Path, waters: tuple[Any, np.ndarray]
) -> None:

    topology, _ = waters
    potential = SE3Potential("water", backend="torchforce", implementation="compiled")
    file = tmp_path / "system.xml"
    file.write_text(openmm.XmlSerializer.serialize(potential.createSystem(topology)))
    script = (
        "import sys, torch, openmm, openmmtorch\n"
        "{load}"
        "text = open(sys.argv[1]).read()\n"
        "print(openmm.XmlSerializer.deserialize(text).getNumForces())\n"
    )
    load = "import openmm_se3\nopenmm_se3.register_plugins()\n"
    for added, works in (("", False), (load, True)):
        done = subprocess.run(
            [sys.executable, "-c", script.format(load=added), str(file)],
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == works, done.stderr
        assert works or "openmm_se3_" in done.stderr


def test_fewer_threads_than_asked_for_change_nothing() -> None:
    """OpenMP may grant fewer, and PyTorch does not know of its limit."""
    script = (
        "import torch\n"
        "from openmm_se3.torchscript.build import build_module\n"
        "from openmm_se3.torchscript.self_check import random_positions\n"
        "from compiled_networks import settings_of\n"
        "torch.set_num_threads(4)\n"
        "module = build_module(settings_of(150, 'double'))\n"
        "for _ in range(2):  # the second time in memory that was used before\n"
        "    energy, forces = module(random_positions(150))\n"
        "print(float(energy), float(forces.abs().sum()))\n"
    )
    network = load_model("water").network(torch.float64)
    whole = eager_force(network, settings_of(150, "double"))(random_positions(150))
    expected = [float(whole[0]), float(whole[1].abs().sum())]
    for limit in ("2", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "OMP_THREAD_LIMIT": limit,
                "OMP_WAIT_POLICY": "passive",  # they wait without using a core
                "PYTHONPATH": PYTHONPATH,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        found = [float(word) for word in done.stdout.split()]
        assert found == pytest.approx(expected, rel=1e-9)

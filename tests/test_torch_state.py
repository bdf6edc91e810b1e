"""What a program has told PyTorch before it calls us: modes, threads, forks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from evaluator import Evaluator, evaluate
from random_model import BOX, WATER, random_checkpoint, random_network, topology_of
from torch_modes import default_device

from openmm_se3 import SE3Potential
from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.library import find_compiler
from openmm_se3.export import export_model
from openmm_se3.model_file import load_model
from openmm_se3.torch_state import usual_torch

SYMBOLS = ["O", "H", "H"]
NEEDS_COMPILER = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler on this machine"
)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# "meta" stands for a GPU: what is made there by mistake has no numbers.
MODES: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "set_default_device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def systems(potential: SE3Potential) -> list[openmm.System]:
    """A recorded module, a scripted one in a box, and one with a parameter."""
    free, boxed = topology_of(SYMBOLS), topology_of(SYMBOLS, BOX)
    return [
        potential.createSystem(free),
        potential.createSystem(boxed),
        potential.createSystem(free, scale="lambda_ml"),
    ]


def numbers(model: Path) -> list[float]:
    """Everything that we compute of a molecule, in a few numbers."""
    potential = SE3Potential(model, precision="double")
    energy, forces = potential.energy_and_forces([8, 1, 1], WATER)
    found = [energy, *forces.flatten()]
    return found


@pytest.fixture(scope="module")
def usual(smallest_model: Path) -> tuple[list[float], list[float]]:
    """What is computed in no mode: numbers, and energies of Systems."""
    made = systems(SE3Potential(smallest_model, precision="double"))
    return numbers(smallest_model), [evaluate(system, WATER)[0] for system in made]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_around_our_calls(
    mode: str, usual: tuple[list[float], list[float]], smallest_model: Path
) -> None:
    expected, plain = usual
    with MODES[mode]():
        found = numbers(smallest_model)
        made = systems(SE3Potential(smallest_model, precision="double"))
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-12)
    energies = [evaluate(system, WATER)[0] for system in made]
    np.testing.assert_allclose(energies, plain, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_around_pythonforce(mode: str, smallest_model: Path) -> None:
    potential = SE3Potential(smallest_model, precision="double", backend="pythonforce")
    system = potential.createSystem(topology_of(SYMBOLS, BOX))
    expected = evaluate(system, WATER)[0]
    with MODES[mode]():
        assert evaluate(system, WATER)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mode", ["inference_mode", "set_default_device", "float16"])
def test_modes_of_torch_around_an_export(mode: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(layers=1, lmax=0, channels=2, heads=1)
    expected = export_model(checkpoint, tmp_path / "plain")
    with MODES[mode]():
        model = export_model(checkpoint, tmp_path / "model")
    for name, weights in expected.weights.items():
        assert torch.equal(model.weights[name], weights)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("kind", [1, 2])
def test_a_step_without_gradients_says_so(
    mode: str, kind: int, smallest_model: Path
) -> None:
    potential = SE3Potential(smallest_model, backend="torchforce")
    system = systems(potential)[kind]
    calculate = Evaluator(system)
    with MODES[mode](), pytest.raises(openmm.OpenMMException, match="no_grad"):
        calculate(WATER)
    calculate(WATER)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("kind", range(3))
def test_a_step_in_autocast_says_so(
    kind: int, precision: str, smallest_model: Path
) -> None:
    potential = SE3Potential(
        smallest_model,
        backend="torchforce",
        implementation="torchscript",
        precision=precision,
    )
    calculate = Evaluator(systems(potential)[kind])
    expected = calculate(WATER)
    with MODES["autocast"](), pytest.raises(openmm.OpenMMException, match="autocast"):
        calculate(WATER)
    energy, forces = calculate(WATER)
    assert energy == pytest.approx(expected[0], rel=1e-6)
    assert forces == pytest.approx(expected[1], rel=1e-5, abs=1e-3)


def test_constants_do_not_depend_on_the_default_precision() -> None:
    expected = dict(random_network().named_buffers())
    for dtype in (torch.float64, torch.float16):
        with default_dtype(dtype):
            found = dict(random_network().named_buffers())
        for name in expected.keys() - {"isolated"}:  # of the weights
            assert torch.equal(found[name], expected[name]), name


def test_torchscript_turned_off_is_named(smallest_model: Path) -> None:
    code = (
        "import sys\n"
        "from openmm_se3 import SE3Potential\n"
        "from openmm_se3.simulation import water_topology\n"
        "potential = SE3Potential(sys.argv[1])\n"
        "print(potential.energy_and_forces([8], [[0.0, 0.0, 0.0]])[0])\n"
        "potential.createSystem(water_topology(1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(smallest_model)],
        env={**os.environ, "PYTORCH_JIT": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0.0\n"
    assert "unset PYTORCH_JIT" in done.stderr.splitlines()[-1]


def test_the_state_outside_comes_back() -> None:
    with torch.inference_mode(), torch.device("meta"):
        with usual_torch():
            assert torch.zeros(1, requires_grad=True).device.type == "cpu"
        assert torch.is_inference_mode_enabled()
        assert torch.zeros(1).device.type == "meta"


# ------------------------------------------------------------------ threads, forks


def in_threads(make: Callable[[int], Any], n_tasks: int) -> list[Any]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(make, range(n_tasks)))


def test_systems_made_in_threads(smallest_model: Path) -> None:
    def energy(_: int) -> float:
        system = SE3Potential(smallest_model, precision="double").createSystem(
            topology_of(SYMBOLS)
        )
        return evaluate(system, WATER)[0]

    expected = energy(0)
    assert in_threads(energy, 8) == pytest.approx(8 * [expected], abs=1e-9)
    call = torch.nn.Module.__call__
    assert call.__module__.startswith("torch.nn")  # recording has put it back


@NEEDS_COMPILER
def test_compiled_systems_made_in_threads() -> None:
    """The tables of radial functions hold derivatives."""
    model = load_model("water")

    def tables(_: int) -> torch.Tensor:
        network = model.network(torch.float64)
        return pack.RadialTables(network, 64)(network)

    expected = tables(0)
    for found in in_threads(tables, 24):
        assert torch.equal(found, expected)

    def energy(_: int) -> float:
        potential = SE3Potential("water", implementation="compiled")
        return evaluate(potential.createSystem(topology_of(SYMBOLS)), WATER)[0]

    assert in_threads(energy, 8) == pytest.approx(8 * [energy(0)], abs=1e-3)


def test_a_forked_child_computes() -> None:
    code = """
import json, os, signal, torch
from openmm_se3 import threads
torch.set_num_threads(2)
x = torch.ones(1000, 1000)
sums = [float((x @ x).exp_().sum()) > 0.0]
read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends a child that waits for ever
    sums.append(float((x @ x).exp_().sum()) > 0.0)
    os.write(write, json.dumps([*sums, torch.get_num_threads()]).encode())
    os._exit(0)
os.close(write)
print(os.read(read, 1000).decode())
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == [True, True, 1], done.stderr

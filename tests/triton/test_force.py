"""The kernels in OpenMM, and in Triton's own interpreter and compiler."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
import triton_emulator
from evaluator import Evaluator
from random_model import (
    BOX,
    random_checkpoint,
    random_network,
    topology_of,
    water_cluster,
    write_random_weights,
)
from torch.utils._python_dispatch import TorchDispatchMode
from triton_networks import NARROW

from openmm_se3 import SE3Potential
from openmm_se3.committee import committee_of
from openmm_se3.compiled.library import CompileError
from openmm_se3.export import model_of_checkpoint
from openmm_se3.force import plugin
from openmm_se3.implementation import compile_implementation
from openmm_se3.model_file import contents, load_model
from openmm_se3.torchscript import build
from openmm_se3.torchscript import self_check as checks
from openmm_se3.triton import kernels


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model on a machine that seems to have a GPU."""
    monkeypatch.setattr(kernels, "problem", lambda: None)
    monkeypatch.setattr(kernels, "device_for", lambda positions: positions.device)
    monkeypatch.setattr(
        build, "require_equal", lambda *a: checks.require_equal(*a[:4], calls=1)
    )
    changes = {"layers": 2, "lmax": 1, "self_interaction": "linear"}
    return write_random_weights(tmp_path / "small", **changes)


@pytest.mark.parametrize("backend", ["torchforce", "pythonforce"])
@pytest.mark.parametrize("box", [None, BOX], ids=["free", "boxed"])
def test_openmm_calls_the_kernels(
    model: Path, backend: str, box: np.ndarray | None
) -> None:
    topology = topology_of(["O", "H", "H"], box)
    positions = water_cluster(1)[1].numpy()
    results = []
    for implementation in ("triton", "torchscript"):
        potential = SE3Potential(
            model, precision="double", implementation=implementation, backend=backend
        )
        assert potential.implementation == implementation
        system = potential.createSystem(topology)
        if implementation == "triton":  # a System that was written and read is the same
            system = openmm.XmlSerializer.clone(system)
        triton_emulator.Kernel.launched.clear()
        results.append(Evaluator(system, "Reference")(positions))
        assert bool(triton_emulator.Kernel.launched) == (implementation == "triton")
    (energy, forces), (expected, reference) = results
    assert energy == pytest.approx(expected, abs=1e-9 * 96.5 * 3)
    np.testing.assert_allclose(forces, reference, atol=1e-9 * 964.9)


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "boxed"])
def test_a_committee_finds_neighbors_once(
    model: Path, tmp_path: Path, box: np.ndarray | None
) -> None:
    shape = {"layers": 2, "lmax": 1, "self_interaction": "linear"}
    checkpoint = random_checkpoint(**shape)
    checkpoint["average"] = random_network(torch.float32, 1, **shape).state_dict()
    other = model_of_checkpoint(checkpoint, "other", "MIT")
    both = committee_of([load_model(model), other], "both")
    for name, content in contents(both).items():
        (model / name).write_bytes(content)
    positions = water_cluster(1)[1].numpy()
    results = []
    for implementation in ("triton", "torchscript"):
        potential = SE3Potential(
            model, precision="double", implementation=implementation
        )
        system = potential.createSystem(topology_of(["O", "H", "H"], box))
        triton_emulator.Kernel.launched.clear()
        results.append(Evaluator(system, "Reference")(positions))
        found = triton_emulator.Kernel.launched.count("find_neighbors")
        assert found == (implementation == "triton")
    (energy, forces), (expected, reference) = results
    assert energy == pytest.approx(expected, abs=1e-9 * 96.5 * 3)
    np.testing.assert_allclose(forces, reference, atol=1e-9 * 964.9)


def test_auto_takes_the_kernels_where_they_serve(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = load_model(model)
    assert compile_implementation("auto", found.config, "single") == "triton"
    monkeypatch.setattr(kernels, "problem", lambda: "the GPU is too old")
    assert compile_implementation("auto", found.config, "single") == "torchscript"
    with pytest.raises(CompileError, match="too old"):
        compile_implementation("triton", found.config, "single")


@pytest.mark.parametrize(
    ("capability", "hip", "serves"),
    [((7, 5), None, True), ((7, 0), None, False), ((9, 0), "6.4", False)],
)
def test_which_gpus_serve(
    capability: tuple[int, int],
    hip: str | None,
    serves: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kernels.problem() is not None  # no GPU here
    with pytest.raises(kernels.TritonError, match="NVIDIA"):
        kernels.device_for(torch.zeros(1))
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert (kernels.problem() is None) == serves


def test_kernels_that_fail_cost_only_speed(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail(*_: Any) -> None:
        raise RuntimeError("ptxas is missing")

    monkeypatch.setattr(build, "triton_force", fail)
    monkeypatch.setattr(build, "_failed", set())
    potential = SE3Potential(model)
    assert potential.implementation == "triton"
    potential.createSystem(topology_of(["O", "H", "H"]))
    assert potential.implementation == "torchscript"
    assert "ptxas is missing" in caplog.text and "TorchScript" in caplog.text
    with pytest.raises(RuntimeError, match="ptxas"):
        SE3Potential(model, implementation="triton").createSystem(topology_of(["O"]))


def test_too_little_room_is_said_where_somebody_looks(model: Path) -> None:
    topology = topology_of(["O", "H", "H"], 0.75 * NARROW)
    potential = SE3Potential(model, implementation="triton", backend="pythonforce")
    system = potential.createSystem(topology)
    with pytest.raises(openmm.OpenMMException, match="neighbors="):
        Evaluator(system)(water_cluster(1)[1].numpy())


def test_cuda_graphs_take_the_kernels(model: Path) -> None:
    potential = SE3Potential(
        model, implementation="triton", cudaGraphs=True, neighbors=80
    )
    force = potential.makeForce(topology_of(["O", "H", "H"] * 400))  # above 1,000 atoms
    assert potential.implementation == "triton"
    assert force.getProperties()["useCUDAGraphs"] == "true"


class FakeGraph:
    """A CUDA graph without CUDA: what was recorded is computed again in its place."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1
        for function, arguments, named, results in self.calls:
            for old, new in zip(results, function(*arguments, **named), strict=True):
                old.copy_(new)


class Recording(TorchDispatchMode):
    """Records the kernels' operator."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if "energy_and_forces" in str(function):
            self.graph.calls.append((function, args, kwargs or {}, result))
        return result


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "boxed"])
def test_a_python_force_replays_a_recorded_step(
    model: Path, monkeypatch: pytest.MonkeyPatch, box: np.ndarray | None
) -> None:
    graphs: list[FakeGraph] = []

    def new_graph() -> FakeGraph:
        graphs.append(FakeGraph())
        return graphs[-1]

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda own: contextlib.nullcontext(),
        "CUDAGraph": new_graph,
        "graph": Recording,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    options: dict[str, Any] = {"precision": "double", "backend": "pythonforce"}
    topology = topology_of(["O", "H", "H"], box)
    recorded, plain = (
        Evaluator(
            SE3Potential(
                model, implementation="triton", **options, **more
            ).createSystem(topology)
        )
        for more in ({"cudaGraphs": True, "neighbors": 80}, {})
    )
    positions = water_cluster(1)[1].numpy()
    for step in range(3):
        moved = positions + 0.05 * step * np.eye(3)
        energy, forces = recorded(moved)
        expected, reference = plain(moved)
        assert energy == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(forces, reference, atol=1e-7)
    (graph,) = graphs
    assert graph.replayed >= 3 and len(graph.calls) == 1
    moved[0, 0] = np.nan
    with pytest.raises(openmm.OpenMMException, match="no number|NaN"):
        recorded(moved)


def test_which_backend_serves_cuda_graphs(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(**options: Any) -> tuple[str, str]:
        potential = SE3Potential(model, cudaGraphs=True, **options)
        return potential.backend, potential.implementation

    assert chosen(implementation="triton") == ("torchforce", "triton")
    assert chosen(implementation="triton", backend="pythonforce") == (
        "pythonforce",
        "triton",
    )
    with pytest.raises(ValueError, match="needs Triton"):
        chosen(implementation="torchscript", backend="pythonforce")
    monkeypatch.setattr(plugin, "torchforce_problem", lambda: "another torch")
    assert chosen(implementation="triton") == ("pythonforce", "triton")


INTERPRETED = """
import sys
import torch
import triton.runtime.interpreter as interpreter

# Of numbers in arrays of one element, which NumPy 2.4 no longer takes for numbers.
patch = interpreter._patch_lang_tensor


def patched(tensor):
    patch(tensor)
    tensor.__index__ = lambda self: int(self.handle.data.item())


interpreter._patch_lang_tensor = patched
sys.path.insert(0, sys.argv[1])
from random_model import water_cluster
from triton_networks import difference, network_of

changes = {"lmax": 1, "layers": 2, "channels": 16, "key_channels": 4}
network = network_of(**changes)
species, positions = torch.tensor([1, 0]), water_cluster(1)[1][:2]
box = torch.eye(3).double() * 9.0
print(difference(network, species, positions, box, room=8))
"""


def test_equal_in_the_interpreter_of_triton() -> None:
    pytest.importorskip("triton")
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            INTERPRETED,
            str(Path(triton_emulator.__file__).parent),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) < 1e-9


COMPILED = """
import json
from openmm_se3.config import ModelConfig
from openmm_se3.triton.compilation import compile_kernels, launches, training_launches

shape = {"layers": 2, "lmax": 1, "channels": 16, "self_interaction": "linear"}
config = ModelConfig(("H", "O"), **shape)
found = launches(config, "single", 192, 80, True)
made = [kernel for target in (75, 90) for kernel in compile_kernels(found, target)]
# What training has beside these.
found = [
    launch
    for launch in training_launches(config, "single")
    if launch.name.startswith(("attend_back_to_table", "attend_back_to_neighbor 0"))
]
for target in (75, 80, 89, 90):
    made += compile_kernels(found, target)
print(json.dumps([(k.name, k.registers, k.spilled, k.shared) for k in made]))
"""


def compiled(code: str) -> Any:
    """Return what a process of its own prints, where kernels are compiled."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_kernels_compile_for_old_and_new_gpus_without_one() -> None:
    kernels = compiled(COMPILED)
    assert all(0 < registers <= 255 for _, registers, *_ in kernels)
    assert max(shared for *_, shared in kernels) <= 48 * 1024  # what every GPU has
    hot = {name: spill for name, _, spill, _ in kernels if name.startswith("attend")}
    assert len(hot) == 8 and not any(hot.values())


GATES = """
import json
from openmm_se3.config import ModelConfig
from openmm_se3.triton.compilation import compile_kernels, launches

config = ModelConfig(("H", "O"), layers=2, channels=32, self_interaction="linear")
found = launches(config, "single", 192, 80, True)
found = [launch for launch in found if launch.name.startswith("gate")]
print(json.dumps([(k.name, k.spilled) for k in compile_kernels(found, 90)]))
"""


def test_gates_fit_into_registers() -> None:
    """Of 32 channels and degrees 0 to 2, as shipped models have them."""
    spilled = dict(compiled(GATES))
    assert spilled["gate 0 -> 2"] == 0
    assert spilled["gate_back 0 -> 2"] <= 64  # bytes; 240 with all in registers

"""The GPU's kernels without a GPU: their source, run on NumPy, against the network."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
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
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from openmm_se3 import SE3Potential
from openmm_se3.committee import committee_of
from openmm_se3.compiled.library import CompileError
from openmm_se3.compiled.weights import RadialTables
from openmm_se3.export import model_of_checkpoint
from openmm_se3.force.memory import needed_memory
from openmm_se3.model_file import contents, load_model
from openmm_se3.neighbors import default_room, neighbour_pairs
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torchscript import build
from openmm_se3.torchscript import self_check as checks
from openmm_se3.torchscript.engine import compile_engine
from openmm_se3.triton import compilation, kernels
from openmm_se3.triton.force import TABLE_INTERVALS
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights, constants

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "speed"))
import roofline  # noqa: E402

TOLERANCE = {"single": 5e-5, "double": 1e-9}  # eV/A, and eV an atom
DTYPES = {"single": torch.float32, "double": torch.float64}
ORGANIC = ("H", "B", "C", "N", "O", "F", "P", "S", "Cl", "Br")
NARROW = np.array([[3.3, 0.0, 0.0], [1.0, 3.5, 0.0], [-1.2, 0.4, 3.1]])
CELLS = {
    "wide": np.diag([9.0, 8.5, 8.1]),
    "two cutoffs": BOX,
    "one cutoff": NARROW,
    "turned": BOX @ np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0],
}


@pytest.fixture(autouse=True, scope="module")
def emulator() -> Iterator[None]:
    """Let kernels run on NumPy in this module."""
    patch = pytest.MonkeyPatch()
    patch.setattr(kernels, "language", triton_emulator.language)
    kernels.forget()
    yield
    patch.undo()
    kernels.forget()


@functools.cache
def network_of(**changes: Any) -> SE3Transformer:
    return random_network(**{"self_interaction": "linear", **changes})


def evaluate(
    network: SE3Transformer,
    species: Tensor,
    positions: Tensor,
    box: Tensor | None = None,
    precision: str = "double",
    room: int = 64,
    atoms: Tensor | None = None,
    offset: float = 0.0,
) -> tuple[float, Tensor]:
    """Return energy, eV, and forces, eV/A, as the kernels give them."""
    dtype = DTYPES[precision]
    tables = RadialTables(network, TABLE_INTERVALS[precision])
    with torch.no_grad():
        energy, forces = Network(network.config).energy_and_forces(
            positions,
            box,
            species,
            torch.arange(len(species)) if atoms is None else atoms,
            torch.tensor([offset], dtype=torch.float64),
            Weights.of(network).flat().to(dtype),
            tables(network).to(dtype),
            constants(network),
            room,
            1.0,
            1.0,
        )
    return float(energy), forces


def difference(
    network: SE3Transformer,
    species: Tensor,
    positions: Tensor,
    box: Tensor | None = None,
    **options: Any,
) -> float:
    """Return the largest difference to the network: eV an atom, or eV/A."""
    edges = neighbour_pairs(positions, network.config.cutoff, box)
    expected = network.energy_and_forces(positions, species, *edges)
    energy, forces = evaluate(network, species, positions, box, **options)
    off = abs(energy - float(expected[0])) / len(species)
    return max(off, float((forces - expected[1]).abs().max()))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("n_atoms", [1, 2, 3, 5, 24, 25])
def test_equal_to_the_network_for_free_molecules(n_atoms: int, precision: str) -> None:
    network = network_of(elements=ORGANIC)
    positions = 1.7 * water_cluster(9)[1][:n_atoms]  # heavy atoms need more space
    species = torch.arange(n_atoms) * 7 % len(ORGANIC)
    off = difference(network, species, positions, precision=precision)
    assert off < TOLERANCE[precision]


@pytest.mark.parametrize("cell", CELLS)
def test_equal_in_boxes_of_any_shape(cell: str) -> None:
    species, positions = water_cluster(1 if cell == "one cutoff" else 2)
    box = torch.tensor(CELLS[cell])
    options: dict[str, Any] = {"room": 120}
    assert difference(network_of(), species, positions, box, **options) < 1e-9
    # Wherever the images are that OpenMM hands over.
    away = torch.randint(-3, 4, positions.shape, generator=torch.manual_seed(0))
    moved = positions + away.double() @ box
    assert difference(network_of(), species, moved, box, **options) < 1e-9
    options["precision"] = "single"
    assert difference(network_of(), species, moved, box, **options) < 5e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 6, "key_channels": 3, "heads": 3},
        {"channels": 8, "key_channels": 4, "heads": 1},
        {"lmax": 1, "jmax": 2, "mirror": False},
        {"lmax": 0},
        {"lmax": 3, "jmax": 3, "layers": 2},
        {"layers": 1, "wall": False},
        {"self_interaction": "attentive"},
        {"self_interaction": "attentive", "channels": 20, "self_interaction_width": 24},
    ],
    ids=str,
)
def test_equal_for_other_shapes(changes: dict[str, Any]) -> None:
    species, positions = water_cluster(1)
    assert difference(network_of(**changes), species, positions) < 1e-9


def test_atoms_without_neighbors_have_no_energy() -> None:
    species = torch.tensor([0, 1, 1])
    positions = torch.tensor([[0.0, 0.0, 0.0], [4.001, 0.0, 0.0], [0.0, 90.0, 0.0]])
    energy, forces = evaluate(network_of(), species, positions.double())
    assert energy == pytest.approx(0.0, abs=1e-12)
    assert not forces.any()
    # A control: a little nearer they have.
    positions[1, 0] = 3.0
    assert abs(evaluate(network_of(), species, positions.double())[0]) > 1e-6


def test_atoms_that_touch_meet_the_wall() -> None:
    species = torch.tensor([0, 1])
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.1, 0.0]]).double()
    assert difference(network_of(), species, positions) < 1e-7  # of 1e3 eV/A


def test_particles_that_are_no_atoms_feel_nothing() -> None:
    species, positions = water_cluster(1)
    atoms = torch.tensor([3, 1, 4])
    particles = torch.full((6, 3), 1.5, dtype=torch.float64)
    particles[atoms] = positions
    energy, forces = evaluate(network_of(), species, particles, atoms=atoms, offset=2.0)
    expected = evaluate(network_of(), species, positions)
    assert energy == pytest.approx(expected[0] + 2.0, rel=1e-12)
    torch.testing.assert_close(forces[atoms], expected[1])
    assert not forces[[0, 2, 5]].any()


def test_too_little_room_gives_no_number() -> None:
    species, positions = water_cluster(2)
    assert np.isfinite(evaluate(network_of(), species, positions, room=5)[0])
    energy, forces = evaluate(network_of(), species, positions, room=4)
    assert np.isnan(energy) and forces.isnan().any()


@pytest.mark.parametrize("length", [0.1, 0.0])
def test_a_collapsed_box_gives_no_number(length: float) -> None:
    box = length * torch.eye(3).double()
    species, positions = water_cluster(1)
    assert np.isnan(evaluate(network_of(), species, positions, box)[0])


def test_a_position_that_is_no_number_gives_no_number() -> None:
    species, positions = water_cluster(2)
    positions[4, 1] = torch.nan
    assert np.isnan(evaluate(network_of(), species, positions)[0])


# Of each fault: the function from which on the text is changed, what, and to what.
FAULTS = {
    "a coupling": ("value_message", "radial(table + 8, t)", "1.01 * radial(table, t)"),
    "the softmax": ("", "gains[h] - dots[h]", "gains[h]"),
    "the slope of the envelope": ("", "gain * exponent * du", "0.0 * du"),
    "a torque": ("", "tl.sum(wide_alpha * turn[1], axis=1)", "0.0"),
    "the torque at the neighbor": ("", "torque_in(g, x_key)", "torque_in(g, x_value)"),
    "the other edge": (
        "",
        "pull + planes + other, mask=both",
        "pull + other, mask=both",
    ),
    "the queries": ("", "back + atom * WIDTH + of_key", "back + of_key"),
    "the gate": ("", "gates[l] * (1.0 - gates[l])", "gates[l]"),
    "images": ("", "images_a * images_b * images_c", "images_a"),
    "the wall": ("", "screened * slope", "0.0 * slope"),
    "the products": ("", "change + 2.0 * sums[m]", "change + sums[m]"),
    "the mixing": ("", "change += tl.load(back", "change = tl.load(back"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, old, new = FAULTS[fault]
    original = kernels.Kernels.__init__
    planted = 0

    def with_fault(self: kernels.Kernels, text: str) -> None:
        nonlocal planted
        head, mark, rest = text.partition(f"def {function}")
        planted += old in rest
        original(self, head + mark + rest.replace(old, new))

    monkeypatch.setattr(kernels.Kernels, "__init__", with_fault)
    kernels.forget()
    try:
        species, positions = water_cluster(1)
        box = None
        if fault == "images":
            box = torch.tensor(NARROW)
        if fault == "the wall":
            positions[1] *= 0.5
        attentive = fault in ("the products", "the mixing")
        network = network_of(self_interaction="attentive" if attentive else "linear")
        off = difference(network, species, positions, box)
        assert planted and off > TOLERANCE["single"]
    finally:
        kernels.forget()


# ------------------------------------------------------- what a GPU would wait for

# Operations that start nothing on a device.
VIEWS = ("view", "slice", "narrow", "select", "split", "unbind", "unsqueeze")
VIEWS += ("transpose", "detach", "alias")
MEMORY = ("empty", "new_empty", "empty_like")


class Recorder(TorchDispatchMode):
    """Lists PyTorch's operations and refuses those that wait for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        waits = "_local_scalar_dense", "nonzero", "item", "masked_select", "_to_copy"
        assert name not in waits, f"{name} waits for the device"
        if not name.startswith(VIEWS + MEMORY):
            self.launched.append(name)
        return function(*args, **(kwargs or {}))


def launches(network: SE3Transformer, box: Tensor | None = None) -> int:
    """Return the launches of one step, none of which waits."""
    species, positions = water_cluster(2)
    flat = Weights.of(network).flat()
    tables = RadialTables(network, 64)(network).detach()
    own, atoms = constants(network), torch.arange(len(species))
    offset = torch.zeros(1, dtype=torch.float64)
    compute = Network(network.config)
    triton_emulator.Kernel.launched.clear()
    with Recorder() as recorder, torch.no_grad():
        compute.energy_and_forces(
            positions, box, species, atoms, offset, flat, tables, own, 8, 1.0, 1.0
        )
    return len(triton_emulator.Kernel.launched) + len(recorder.launched)


def test_few_launches_and_none_that_waits() -> None:
    three = launches(network_of())
    four = launches(network_of(layers=4))
    assert four - three <= 12
    assert three <= 3 * 12 + 5
    assert launches(network_of(self_interaction="attentive")) == three
    assert launches(network_of(), torch.tensor(BOX)) == three


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_launches_are_those_of_the_reckoning(kind: str) -> None:
    network = network_of(self_interaction=kind)
    assert roofline.launches_of(network.config) == launches(network)


class Memory(TorchDispatchMode):
    """Follows the memory of tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # tensors by their memory
        self.used = self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "_to_copy":  # weights and positions
            return result
        for made in result if isinstance(result, list | tuple) else [result]:
            if not isinstance(made, Tensor) or not made.is_meta:
                continue
            storage = made.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            given = any(
                isinstance(a, Tensor) and a.untyped_storage()._cdata == key
                for a in args
            )
            if given and key not in self.alive:
                continue  # a view of what was there before
            if key not in self.alive:
                self.alive[key] = 0
                self.used += size
                self.most = max(self.most, self.used)
            self.alive[key] += 1
            weakref.finalize(made, self.free, key, size)
        return result

    def free(self, key: int, size: int) -> None:
        self.alive[key] -= 1
        if not self.alive[key]:
            del self.alive[key]
            self.used -= size


@pytest.mark.parametrize("name", ["water", "liquid-water"])
def test_memory_grows_with_atoms_as_estimated(name: str) -> None:
    config = load_model(name).config
    n_atoms, room = 1000, default_room(config.cutoff)
    network = SE3Transformer(config).eval()
    n_edges = n_atoms * room / 1.5
    with Memory() as memory:
        compilation.step_without_numbers(config, "single", n_atoms, room, True)
    estimate = 1e9 * needed_memory(network, "triton", "single", n_atoms, int(n_edges))
    assert 0.8 * memory.most < estimate < 1.25 * memory.most
    work = roofline.work_of(config)
    reckoned = n_atoms * (work.atom_memory + roofline.list_bytes(config))
    assert 0.8 * memory.most < reckoned < 1.25 * memory.most
    # What grows with edges is their list and two numbers a head of one layer.
    assert memory.most / n_atoms < 40e3


def test_a_wait_would_show() -> None:
    with pytest.raises(AssertionError, match="waits"), Recorder():
        torch.ones(1).item()


# ------------------------------------------------------------------- called by OpenMM


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
    for engine in ("triton", "torchscript"):
        potential = SE3Potential(
            model, precision="double", engine=engine, backend=backend
        )
        assert potential.engine == engine
        system = potential.createSystem(topology)
        if engine == "triton":  # a System that was written and read is the same
            system = openmm.XmlSerializer.clone(system)
        triton_emulator.Kernel.launched.clear()
        results.append(Evaluator(system, "Reference")(positions))
        assert bool(triton_emulator.Kernel.launched) == (engine == "triton")
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
    for engine in ("triton", "torchscript"):
        potential = SE3Potential(model, precision="double", engine=engine)
        system = potential.createSystem(topology_of(["O", "H", "H"], box))
        triton_emulator.Kernel.launched.clear()
        results.append(Evaluator(system, "Reference")(positions))
        found = triton_emulator.Kernel.launched.count("find_neighbors")
        assert found == (engine == "triton")
    (energy, forces), (expected, reference) = results
    assert energy == pytest.approx(expected, abs=1e-9 * 96.5 * 3)
    np.testing.assert_allclose(forces, reference, atol=1e-9 * 964.9)


def test_auto_takes_the_kernels_where_they_serve(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMM_SE3_ENGINE", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = load_model(model)
    assert compile_engine("auto", found.config, "single") == "triton"
    monkeypatch.setattr(kernels, "problem", lambda: "the GPU is too old")
    assert compile_engine("auto", found.config, "single") == "torchscript"
    with pytest.raises(CompileError, match="too old"):
        compile_engine("triton", found.config, "single")


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
    monkeypatch.setenv("OPENMM_SE3_ENGINE", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fail(*_: Any) -> None:
        raise RuntimeError("ptxas is missing")

    monkeypatch.setattr(build, "triton_force", fail)
    potential = SE3Potential(model)
    potential.createSystem(topology_of(["O", "H", "H"]))
    assert "ptxas is missing" in caplog.text and "TorchScript" in caplog.text
    with pytest.raises(RuntimeError, match="ptxas"):
        SE3Potential(model, engine="triton").createSystem(topology_of(["O"]))


def test_too_little_room_is_said_where_somebody_looks(model: Path) -> None:
    topology = topology_of(["O", "H", "H"], 0.75 * NARROW)
    potential = SE3Potential(model, engine="triton", backend="pythonforce")
    system = potential.createSystem(topology)
    with pytest.raises(openmm.OpenMMException, match="neighbours="):
        Evaluator(system)(water_cluster(1)[1].numpy())


def test_cuda_graphs_take_the_kernels(model: Path) -> None:
    potential = SE3Potential(model, engine="triton", cudaGraphs=True, neighbours=80)
    force = potential.makeForce(topology_of(["O", "H", "H"] * 400))  # above 1,000 atoms
    assert potential.engine == "triton"
    assert force.getProperties()["useCUDAGraphs"] == "true"


# ------------------------------------------------------------- Triton's own rules

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
import test_triton

changes = {"lmax": 1, "layers": 2, "channels": 16, "key_channels": 4}
network = test_triton.network_of(**changes)
species, positions = torch.tensor([1, 0]), test_triton.water_cluster(1)[1][:2]
box = torch.eye(3).double() * 9.0
print(test_triton.difference(network, species, positions, box, room=8))
"""


def test_equal_in_the_interpreter_of_triton() -> None:
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED, str(Path(__file__).parent)],
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
from openmm_se3.triton.compilation import compile_kernels, launches

shape = {"layers": 2, "lmax": 1, "channels": 16, "self_interaction": "linear"}
found = launches(ModelConfig(("H", "O"), **shape), "single", 192, 80, True)
made = [kernel for target in (75, 90) for kernel in compile_kernels(found, target)]
print(json.dumps([(k.name, k.registers, k.spilled, k.shared) for k in made]))
"""


def test_kernels_compile_for_old_and_new_gpus_without_one() -> None:
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    kernels = json.loads(result.stdout.splitlines()[-1])
    assert all(0 < registers <= 255 for _, registers, *_ in kernels)
    assert max(shared for *_, shared in kernels) <= 48 * 1024  # what every GPU has
    hot = {name: spill for name, _, spill, _ in kernels if name.startswith("attend")}
    assert len(hot) == 5 and not any(hot.values())

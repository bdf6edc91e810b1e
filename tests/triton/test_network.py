"""Launches and memory of the kernels."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import triton_emulator
from random_model import (
    BOX,
    water_cluster,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_networks import network_of

from openmm_se3.compiled.weights import RadialTables
from openmm_se3.force.memory import needed_memory
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import default_room
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.triton import compilation
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights, constants

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "speed"))
import roofline  # noqa: E402

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

"""Compiles a network's kernels for any GPU, without one, and says what they take."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import subprocess
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from openmm_se3.compiled.training import TABLE_INTERVALS as TRAINING_INTERVALS
from openmm_se3.compiled.weights import RadialTables
from openmm_se3.config import ModelConfig
from openmm_se3.model_file import PRECISIONS
from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.triton import kernels
from openmm_se3.triton.force import TABLE_INTERVALS
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights, constants
from openmm_se3.triton.training import NeighborLists
from openmm_se3.triton.weight_gradient import TrainedNetwork
from openmm_se3.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

WARP = 32  # threads
OPTIONS = ("num_warps", "num_stages")  # of Triton, not of a kernel
# Registers and threads of a multiprocessor, by compute capability.
REGISTERS = 65536
THREADS = {75: 1024, 86: 1536, 89: 1536}  # elsewhere 2048
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch of a step.

    Attributes:
        kernel: What is launched.
        arguments: Arguments by name.
        options: Those of Triton.
    """

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        """Return the name of the kernel, and the degrees of its layer."""
        own = self.kernel.fn.__globals__
        name = str(self.kernel.__name__)
        if "K_MAX" not in own:
            return name
        return f"{name} {own['K_MAX'].value} -> {own['L_MAX'].value}"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiled kernel takes.

    Attributes:
        name: Name of the kernel.
        registers: Of a thread.
        spilled: Bytes of a thread that do not fit into registers.
        shared: Shared memory of a program, bytes.
        code: Machine code, bytes.
        occupancy: Share of a multiprocessor's threads that registers leave room for.
    """

    name: str
    registers: int
    spilled: int
    shared: int
    code: int
    occupancy: float


def launches(
    config: ModelConfig, precision: str, n_atoms: int, room: int, periodic: bool
) -> list[Launch]:
    """Return the launches of Triton's kernels in one step, without computing anything.

    Arguments are those of :func:`step_without_numbers`.
    """
    with _recorded() as found:
        step_without_numbers(config, precision, n_atoms, room, periodic)
    return found


def training_launches(config: ModelConfig, precision: str) -> list[Launch]:
    """Return the launches of one backward pass of training, without computing anything.

    Args:
        config: Shape of the network.
        precision: "single" or "double".
    """
    network = SE3Transformer(config).to(PRECISIONS[precision])
    pair = torch.tensor([[0, 1], [1, 0]])
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    lists = NeighborLists(Edges(*pair), positions)
    weights = Weights.of(network).flat()
    with _recorded() as found, torch.no_grad():
        TrainedNetwork(config).energy_gradient(
            lists.at(positions, weights.dtype),
            torch.zeros(2, dtype=torch.int64),
            torch.ones(2, dtype=torch.float64),
            weights,
            RadialTables(network, TRAINING_INTERVALS)(network),
        )
    return found


def step_without_numbers(
    config: ModelConfig, precision: str, n_atoms: int, room: int, periodic: bool
) -> None:
    """Go through a step on PyTorch's tensors without numbers; nothing is launched.

    Args:
        config: Shape of the network.
        precision: "single" or "double".
        n_atoms: Number of atoms.
        room: Neighbors that an atom has room for.
        periodic: There is a box.
    """
    network = SE3Transformer(config).eval()
    dtype = PRECISIONS[precision]
    tables = RadialTables(network, TABLE_INTERVALS[precision])(network)
    integers = torch.zeros(n_atoms, dtype=torch.int64)
    positions = torch.zeros(n_atoms, 3, dtype=dtype)
    box = torch.zeros(3, 3, dtype=dtype, device="meta")
    with torch.no_grad():
        Network(config).energy_and_forces(
            positions.to("meta"),
            box if periodic else None,
            integers.to("meta"),
            integers.to("meta"),
            torch.zeros(1, dtype=torch.float64, device="meta"),
            Weights.of(network).flat().to("meta", dtype),
            tables.to("meta", dtype),
            constants(network).to("meta"),
            room,
            NM_TO_ANGSTROM,
            EV_TO_KJ_PER_MOL,
        )


@contextlib.contextmanager
def _recorded() -> Iterator[list[Launch]]:
    """Let launches of kernels be listed and do nothing else."""
    import triton
    import triton.language as tl

    found: list[Launch] = []

    class Recorded(triton.JITFunction):
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(*arguments: Any, **named: Any) -> None:
                own = dict(zip(self.arg_names, arguments, strict=False))
                options = {key: named.pop(key) for key in OPTIONS if key in named}
                found.append(Launch(self, own | named, options))

            return launch

    def jit(function: Any = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(jit, **options)
        return Recorded(function, **options)

    triton_ = types.SimpleNamespace(jit=jit)

    before = kernels.language
    kernels.language = lambda: (triton_, tl)
    kernels.forget()
    try:
        yield found
    finally:
        kernels.language = before
        kernels.forget()


def compile_kernels(found: list[Launch], capability: int) -> list[Compiled]:
    """Compile what is launched for a compute capability, such as 90; each kernel once.

    Raises:
        Exception: Triton or its assembler cannot.
    """
    seen: set[str] = set()
    result = []
    for launch in found:
        source = _source(launch)
        if source.hash() not in seen:
            seen.add(source.hash())
            result.append(_compile(launch, source, capability))
    return result


def _source(launch: Launch) -> Any:
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            fixed[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    return ASTSource(launch.kernel, signature, fixed, aligned)


def _compile(launch: Launch, source: Any, capability: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, WARP),
        options=launch.options,
    )
    usage = _resource_usage(compiled.asm["cubin"])
    registers = usage["REG"]
    # Registers are given to a warp 256 at a time.
    of_warp = -(-registers * WARP // 256) * 256
    own = launch.options["num_warps"]
    warps = REGISTERS // of_warp // own * own
    return Compiled(
        launch.name,
        registers,
        usage["STACK"],
        compiled.metadata.shared,
        len(compiled.asm["cubin"]),
        min(1.0, warps * WARP / THREADS.get(capability, 2048)),
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", text)}


def main() -> None:
    """Print what the kernels take on some GPUs, as a Markdown table."""
    import argparse

    from openmm_se3.model_file import load_model

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", default="water")
    parser.add_argument("--precision", default="single")
    parser.add_argument("--capability", type=int, action="append")
    parser.add_argument("--pattern", default="")
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()
    config = load_model(options.model).config
    if options.training:
        found = training_launches(config, options.precision)
    else:
        found = launches(config, options.precision, 5184, 216, True)
    found = [launch for launch in found if re.search(options.pattern, launch.name)]
    for capability in options.capability or [75, 80, 89, 90]:
        for kernel in compile_kernels(found, capability):
            print(
                f"| sm_{capability} | {kernel.name} | {kernel.registers} | "
                f"{kernel.spilled} | {kernel.shared:,} | {kernel.code // 1024} | "
                f"{kernel.occupancy:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

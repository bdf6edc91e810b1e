"""What a step takes on a GPU at best, reckoned from the kernels' source.

    python benchmarks/speed/roofline.py --model water

Counts floating-point operations and bytes of an atom and of an edge, memory of an atom,
and from these the time of a step on some GPUs: how long arithmetic and memory need, and
how long launches and loops wait, apart from each other.  Nothing is measured here; what
the numbers rest on stands beside them.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable

import click
import torch

from openmm_se3.config import ModelConfig
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import DENSITY_OF_ROOM
from openmm_se3.triton.blocks import Blocks
from openmm_se3.triton.generate import kernel_shapes, layer_source, radial_functions

DENSITY = 0.1003  # atoms an A^3, of water
SIZES = (3, 24, 192, 648, 1536, 5184, 20_000, 50_000)
BOXES = 192  # atoms from which on they fill a box
SIZE = 4  # bytes of a number
# Of the instructions of attention's kernels 0.63 are floating-point, 0.57 of these do
# two operations (sm_90, counted in the machine code), and 0.6 is what such code reaches
# where instructions wait for each other: assumed.
EFFICIENCY = 0.63 * (1.0 + 0.57) / 2.0 * 0.6
LAUNCH = 2.0e-6  # s, a kernel of a CUDA graph that does nothing: assumed
# s, a turn of a loop over neighbors, whose loads wait for each other: assumed
TURN = 1.5e-6
# s, a matrix product of a block of atoms, one behind the other in the gate and in
# attentive self-interaction: assumed
PRODUCT = 0.4e-6
# What OpenMM and TorchForce take beside: synchronizations, copies.
BESIDE = 80e-6


@dataclasses.dataclass(frozen=True)
class GPU:
    """Peak rates, by the vendors' data sheets; those of the L2 cache by measurements.

    Attributes:
        flops: Operations a second in float32.
        memory: Bytes a second from memory.
        cache: Bytes a second from the L2 cache.
        cache_size: Of the L2 cache, bytes.
    """

    flops: float
    memory: float
    cache: float
    cache_size: float


GPUS = {
    "A10G": GPU(31e12, 0.60e12, 1.5e12, 6e6),
    "RTX 4090": GPU(83e12, 1.01e12, 4.0e12, 72e6),
    "H100": GPU(67e12, 3.35e12, 5.5e12, 50e6),
    "H200": GPU(67e12, 4.80e12, 5.5e12, 50e6),
}


@dataclasses.dataclass
class Work:
    """Operations and bytes of an atom and of a directed edge.

    Attributes:
        edge_flops: Of an edge.
        edge_gather: Features of the other atom that an edge reads, bytes.
        edge_table: Radial functions that an edge reads, bytes; they stay in caches.
        edge_stream: What an edge reads and writes of its own, bytes.
        atom_flops: Of an atom.
        atom_stream: What an atom reads and writes, bytes.
        atom_memory: What is kept of an atom until the step ends, bytes.
    """

    edge_flops: float = 0.0
    edge_gather: float = 0.0
    edge_table: float = 0.0
    edge_stream: float = 0.0
    atom_flops: float = 0.0
    atom_stream: float = 0.0
    atom_memory: float = 0.0


def operations(source: str) -> Callable[[str, int], float]:
    """Return a function that counts a function's operations.

    Of its name and a number of channels: an expression of harmonics alone is computed
    once an edge, others for each channel.  What both parts of an edge's pass compute is
    counted for each.
    """
    functions = {
        node.name: node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }

    def of_edge(node: ast.AST) -> bool:
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        return all(name.startswith(("Y", "u")) for name in names)

    def count(name: str, channels: int) -> float:
        total = 0.0
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.BinOp):
                total += 1 if of_edge(node) else channels
            elif isinstance(node, ast.AugAssign):
                total += channels
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                # Polynomials of degree 5, and their slopes.
                known = {"radial": 10, "radial_and_slope": 20}
                total += channels * known.get(node.func.id, 0)
        return total

    return count


def work_of(config: ModelConfig) -> Work:
    """Return what a step has to do, forces included."""
    channels, keys, heads = config.channels, config.key_channels, config.heads
    both, projected = keys + channels, 2 * keys + channels
    work = Work()
    shapes = kernel_shapes(config)
    used = 0.0
    for layer, (k_max, l_max) in enumerate(shapes):
        count = operations("import triton\n" + layer_source(config, layer))
        dim_in, dim_out = (k_max + 1) ** 2, (l_max + 1) ** 2
        dim_query = (min(k_max, l_max) + 1) ** 2
        table = 6 * radial_functions(config)[layer] * SIZE
        first = layer == 0
        # Attention: forward, and the backward pass at the center.
        for kind in ("message", "message_and_slope"):
            work.edge_flops += 2 * count("harmonics", 0)
            work.edge_flops += count(f"key_{kind}", keys)
            work.edge_flops += count(f"value_{kind}", channels)
            work.edge_flops += 2 * (dim_query * keys + dim_out * channels) + 30 * heads
            work.edge_gather += dim_in * both * SIZE
            work.edge_table += table
            work.edge_stream += (1 + 4) * SIZE
        work.edge_flops += count("torque_value", channels) + count("torque_key", keys)
        work.edge_flops += 2 * dim_query * keys
        work.edge_stream += 2 * 3 * SIZE  # forces, read and written
        if not first:  # and that at the neighbor
            work.edge_flops += 2 * count("harmonics", 0)
            work.edge_flops += count("key_message_back", keys)
            work.edge_flops += count("value_message_back", channels)
            work.edge_flops += count("torque_in", both) + 2 * dim_in * both
            work.edge_gather += (dim_out * channels + dim_query * keys) * SIZE
            work.edge_gather += 2 * heads * SIZE
            work.edge_table += table
            work.edge_stream += (2 + 4 + 2 * 3 + 2 * heads) * SIZE
        # Matrix products: projections twice forward and once backward, heads, gate.
        times = 2 if first else 3
        gates = ((l_max + 1) * channels) ** 2
        work.atom_flops += 2 * times * dim_in * channels * projected
        work.atom_flops += 2 * 2 * dim_out * channels**2 + 2 * 3 * gates
        work.atom_stream += times * dim_in * (channels + projected) * SIZE
        work.atom_stream += (2 * 2 + 2 + 3 + 1) * dim_out * channels * SIZE
        degrees = min(k_max, l_max) + 1
        if config.self_interaction == "linear":
            work.atom_flops += 2 * (1 if first else 2) * dim_query * channels**2
        else:
            mixing = degrees * channels**2 * (config.self_interaction_width + 4)
            work.atom_flops += 2 * mixing * (2 if first else 6)
            work.atom_memory += config.self_interaction_width * SIZE
        work.atom_stream += 3 * dim_query * channels * SIZE
        work.atom_memory += ((dim_in + 2 * dim_out) * channels + heads) * SIZE
        derivatives = (3 * dim_out + dim_in) * channels
        used = max(used, (2 * dim_in * projected + derivatives) * SIZE)
    work.atom_memory += used
    return work


def neighbors_of(n_atoms: int, cutoff: float) -> float:
    """Return the neighbors of an atom: all others up to 24 atoms, or as in water."""
    around = DENSITY * 4.0 / 3.0 * math.pi * cutoff**3
    return around if n_atoms >= BOXES else min(n_atoms - 1, around)


def list_bytes(config: ModelConfig) -> float:
    """Return the memory of an atom's list of neighbors, with what edges have."""
    room = math.ceil(DENSITY_OF_ROOM * 4.0 / 3.0 * math.pi * config.cutoff**3)
    return room * (5 * 4 + (4 + 3 + 2 * config.heads) * SIZE)


def launches_of(config: ModelConfig) -> int:
    """Return the launches of a step, as the tests count them."""
    return 12 * config.layers - 3 + 6


def products_of(config: ModelConfig) -> int:
    """Return the matrix products that follow each other in kernels of single atoms."""
    blocks = Blocks.of(config)
    count = 0
    for layer, (k_max, l_max) in enumerate(kernel_shapes(config)):
        count += 3 * (l_max + 1) ** 2  # of the gate
        if config.self_interaction == "attentive":
            together = blocks.of_self_interaction(config, torch.float32)["TOGETHER"]
            turns = (min(k_max, l_max) + 1) * math.ceil(config.channels / together)
            count += turns * (2 if layer == 0 else 5)
    return count


def times_of(
    config: ModelConfig, work: Work, gpu: GPU, n_atoms: int
) -> tuple[float, float]:
    """Return how long a step computes and moves numbers, and how long it waits, s."""
    neighbors = neighbors_of(n_atoms, config.cutoff)
    n_edges = n_atoms * neighbors
    pairs = n_atoms**2 * 40  # operations of the search
    flops = n_edges * work.edge_flops + n_atoms * work.atom_flops + pairs
    arithmetic = flops / (gpu.flops * EFFICIENCY)
    widest = max((k + 1) ** 2 for k, _ in kernel_shapes(config))
    features = n_atoms * widest * (2 * config.key_channels + config.channels) * SIZE
    gather = n_edges * work.edge_gather
    stream = n_edges * work.edge_stream + n_atoms * work.atom_stream
    from_cache = gather if features < gpu.cache_size else 0.7 * gather
    from_memory = stream + gather - from_cache
    # Sorted by distance, four edges read one interval of a table.
    cached = from_cache + n_edges * work.edge_table / 4.0
    moving = max(from_memory / gpu.memory, cached / gpu.cache)
    passes = 3 * config.layers - 1
    turns = passes * math.ceil(neighbors / Blocks.of(config).edges)
    waiting = launches_of(config) * LAUNCH + turns * TURN
    waiting += products_of(config) * PRODUCT
    return max(arithmetic, moving), waiting


@click.command()
@click.option("--model", default="water", show_default=True)
def main(model: str) -> None:
    """Print what a step of MODEL takes at best."""
    config = load_model(model).config
    work = work_of(config)
    neighbors = neighbors_of(SIZES[-1], config.cutoff)
    click.echo(
        f"{model}: {config.layers} layers, {config.channels} channels, lmax "
        f"{config.lmax}, {config.cutoff:g} A, {config.self_interaction}"
    )
    click.echo(
        f"edge: {work.edge_flops / 1e3:.1f} kFLOP, "
        f"{work.edge_gather / 1e3:.1f} kB gathered, "
        f"{work.edge_table / 1e3:.1f} kB of tables, "
        f"{work.edge_stream / 1e3:.2f} kB of its own"
    )
    click.echo(
        f"atom: {work.atom_flops / 1e6:.2f} MFLOP, "
        f"{work.atom_stream / 1e3:.1f} kB moved, "
        f"{work.atom_memory / 1e3:.1f} kB kept; list of neighbors "
        f"{list_bytes(config) / 1e3:.1f} kB"
    )
    click.echo(f"{neighbors:.0f} neighbors in water; {launches_of(config)} launches")
    click.echo("| atoms | memory, MB | " + " | ".join(GPUS) + " |")
    click.echo("|---:|---:|" + "---:|" * len(GPUS))
    for n_atoms in SIZES:
        memory = n_atoms * (work.atom_memory + list_bytes(config)) / 1e6
        cells = []
        for gpu in GPUS.values():
            busy, waiting = (1e3 * t for t in times_of(config, work, gpu, n_atoms))
            total = max(busy, waiting) + 1e3 * BESIDE
            cells.append(f"{total:.2f} ({busy:.2f}, {waiting:.2f})")
        click.echo(f"| {n_atoms:,} | {memory:,.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

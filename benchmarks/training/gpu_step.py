"""A training step by the Triton kernels on an NVIDIA GPU: right, and how fast?

    python benchmarks/training/gpu_step.py

Needs torch with Triton and a GPU, and neither OpenMM nor DGL.  Gradients of a loss of
energies and forces are compared with PyTorch's in both precisions, then both are timed
on batches of water clusters, with the memory that they take.

``--dry-run`` computes with PyTorch on the processor only, to try the script itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
import torch
from torch import Tensor

from openmm_se3.compiled.force_gradient import Batches
from openmm_se3.model_file import PRECISIONS, load_model
from openmm_se3.neighbors import Edges, in_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.triton.training import TritonBatches

SPACING = 2.9  # A, between molecules
WATER = [[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]]
LIMITS = {"single": 1e-2, "double": 1e-4}  # of a gradient, as a share of its size
WARM_UP = 3  # steps


def batch_of(
    network: SE3Transformer, n_clusters: int, molecules: int, device: str
) -> dict[str, Any]:
    """Return a batch of distorted water clusters, as training has it."""
    generator = torch.Generator().manual_seed(0)
    side = 1
    while side**3 < molecules:
        side += 1
    corners = torch.cartesian_prod(*[torch.arange(float(side))] * 3)[:molecules]
    cluster = SPACING * corners[:, None] + torch.tensor(WATER)
    x = cluster.flatten(0, 1).double().repeat(n_clusters, 1)
    x += 0.05 * torch.randn(x.shape, generator=generator).double()
    molecule = torch.arange(n_clusters).repeat_interleave(3 * molecules)
    near = torch.cdist(x, x) < network.config.cutoff
    near &= (molecule[:, None] == molecule) & ~torch.eye(len(x), dtype=torch.bool)
    center, neighbor = near.nonzero(as_tuple=True)
    shifts = torch.zeros(len(center), 3, dtype=torch.float64)
    edges = in_pairs(Edges(center, neighbor, shifts))
    elements = network.config.elements
    kinds = torch.tensor([elements.index(symbol) for symbol in "OHH"])
    on_device = [None if part is None else part.to(device) for part in edges[:3]]
    return {
        "positions": x.to(device),
        "species": kinds.repeat(len(x) // 3).to(device),
        "edges": Edges(*on_device, edges.layout),
        "molecule": molecule.to(device),
        "n_molecules": n_clusters,
    }


def gradient(
    network: SE3Transformer, batches: Batches | None, batch: dict[str, Any]
) -> Tensor:
    """Return the derivatives of a loss by all weights, one behind the other."""
    network.zero_grad()
    if batches is None:
        energies, forces = ForceField(network)(**batch, create_graph=True)
    else:
        energies, forces = batches.energy_and_forces(network, **batch)
    loss = energies.double().square().mean() + forces.double().square().mean()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.cat([each.double().flatten() for each in gradients])


def seconds_of(
    network: SE3Transformer, batches: Batches | None, batch: dict[str, Any], steps: int
) -> tuple[float, float]:
    """Return seconds a gradient, and the memory that it takes, GB; 0 without a GPU."""
    cuda = batch["positions"].is_cuda
    for _ in range(WARM_UP):
        gradient(network, batches, batch)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(steps):
        gradient(network, batches, batch)
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps
    return seconds, torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0


def measure(
    model: str, clusters: int, molecules: int, steps: int, device: str
) -> Iterator[dict[str, Any]]:
    """Yield a row for each precision and way to differentiate, compared and timed.

    Args:
        model: Name or path of a model.
        clusters: Of a batch.
        molecules: Of a cluster.
        steps: Timed.
        device: "cuda", or "cpu" for PyTorch alone.
    """
    for precision in ("double", "single"):
        network = load_model(model).network(PRECISIONS[precision])
        network = network.requires_grad_(True).train().to(device)
        batch = batch_of(network, clusters, molecules, device)
        ways: dict[str, Batches | None] = {"PyTorch": None}
        if device == "cuda":
            made = load_model(model).network(PRECISIONS[precision]).train()
            ways["Triton"] = TritonBatches(made)
        expected = gradient(network, None, batch)
        for name, batches in ways.items():
            found = gradient(network, batches, batch)
            off = float((found - expected).norm() / expected.norm())
            took, memory = seconds_of(network, batches, batch, steps)
            yield {
                "precision": precision,
                "way": name,
                "atoms": len(batch["species"]),
                "edges": len(batch["edges"].center),
                "seconds": took,
                "clusters_per_second": clusters / took,
                "gigabytes": memory,
                "gradient_error": off,
                "wrong": not off < LIMITS[precision],
            }


def line_of(row: dict[str, Any]) -> str:
    """Return a row in words."""
    return (
        f"{row['precision']} {row['way']}: {row['atoms']} atoms, {row['edges']} edges, "
        f"{1e3 * row['seconds']:.2f} ms a gradient, "
        f"{row['clusters_per_second']:,.0f} clusters/s, {row['gigabytes']:.2f} GB, "
        f"off by {row['gradient_error']:.1e}"
    )


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--clusters", default=32, show_default=True, help="A batch.")
@click.option("--molecules", default=6, show_default=True, help="Of a cluster.")
@click.option("--steps", default=20, show_default=True, help="Timed.")
@click.option("--dry-run", is_flag=True, help="PyTorch on the processor only.")
def main(model: str, clusters: int, molecules: int, steps: int, dry_run: bool) -> None:
    """Compare and time gradients of a loss of energies and forces."""
    torch.backends.cuda.matmul.allow_tf32 = False
    failed = False
    for row in measure(model, clusters, molecules, steps, "cpu" if dry_run else "cuda"):
        click.echo(line_of(row))
        failed |= row["wrong"]
    if failed:
        raise click.ClickException("a gradient is wrong")


if __name__ == "__main__":
    main()

"""Error of the gradient that training uses, by implementation, on the water data.

Prints the relative error of the loss's gradient by all weights, in float32, against
PyTorch in float64: for batches of models/water/data and the weights of models/water.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from openmm_se3.compiled.training import CompiledBatches
from openmm_se3.model_file import load_model
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import GraphTensors, Interval, loader, take_apart
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.config_file import read_config
from openmm_se3.training.loss import label_counts, loss_terms
from openmm_se3.training.prepare import read_data
from openmm_se3.training.start import make_module

CONFIG = Path(__file__).parents[2] / "models" / "water" / "train.yaml"


def gradient(
    network: SE3Transformer,
    compiled: CompiledBatches | None,
    config: TrainingConfig,
    tensors: GraphTensors,
    labels: dict[str, Tensor],
) -> Tensor:
    """Return the derivatives of a batch's loss by all weights, float64."""
    if compiled is None:
        energies, forces = ForceField(network)(**vars(tensors), create_graph=True)
    else:
        energies, forces = compiled.energy_and_forces(network, **vars(tensors))
    expected = labels["energy"], labels["forces"]
    network.zero_grad()
    loss_terms(
        energies,
        forces.double(),
        *expected,
        labels["weight"],
        tensors.molecule,
        config,
        label_counts(*expected, tensors.molecule),
        None,
    ).total.backward()
    parts = [
        p.grad.double().flatten() for p in network.parameters() if p.grad is not None
    ]
    return torch.cat(parts)


@click.command()
@click.option("--batches", type=click.IntRange(1), default=5, show_default=True)
def main(batches: int) -> None:
    """Print the error of the training gradient in float32, PyTorch and compiled."""
    config = read_config(CONFIG)
    training = dataclasses.replace(config.training, implementation="pytorch")
    config = dataclasses.replace(config, training=training)
    module = make_module(config, read_data(config.data, Console(quiet=True)))
    double = load_model("water").network(torch.float64).train().requires_grad_(True)
    single = copy.deepcopy(double).float()
    compiled = CompiledBatches(single)
    table = Table("batch", "atoms", "PyTorch float32", "compiled float32")
    taken = loader(
        module.train_graphs, Interval(module.order, lambda: 0, batches, batches)
    )
    for number, batch in enumerate(itertools.islice(taken, batches)):
        tensors, labels = take_apart(batch)
        exact = gradient(double, None, training, tensors, labels)
        errors = [
            float(
                (
                    gradient(single, implementation, training, tensors, labels) - exact
                ).norm()
            )
            / float(exact.norm())
            for implementation in (None, compiled)
        ]
        atoms = str(len(tensors.species))
        table.add_row(str(number), atoms, *(f"{error:.1e}" for error in errors))
    Console().print(table)


if __name__ == "__main__":
    main()

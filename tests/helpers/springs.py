"""Frames of springs, and short trainings on them."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.config import ModelConfig
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.training.batches import (
    FrameGraphs,
)
from openmm_se3.training.checkpoint import LAST, load_checkpoint
from openmm_se3.training.config import (
    RunConfig,
    TrainingConfig,
)
from openmm_se3.training.metrics import (
    error_table,
    frame_groups,
    predict,
)

# What training tests let pass.
WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning_fabric.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]
SELF_ENERGIES = {1: -13.0, 8: -2000.0}

TINY = ModelConfig(
    elements=("H", "O"),
    cutoff=4.0,
    layers=2,
    channels=8,
    key_channels=4,
    heads=2,
    lmax=1,
    radial_functions=4,
    radial_width=8,
    self_interaction="attentive",
    self_interaction_width=8,
)

SHORT = TrainingConfig(
    steps=24,
    validate_every=8,
    batch_size=5,
    learning_rate=5e-3,
    product_lr_scale=1.0,  # so few steps have to get somewhere
    warmup_steps=4,
    ema_decay=0.9,
    energy_cap=0.5,
    precision="float64",
    device="cpu",
    threads=1,
)


def spring(x: torch.Tensor, i: int, j: int, length: float) -> torch.Tensor:
    return 10.0 * ((x[i] - x[j]).norm() - length) ** 2


def analytic_frame(
    n_molecules: int, rng: np.random.Generator, split: str, index: int
) -> Frame:
    """Water of springs, 1 eV below its atoms, with a Morse well between oxygens."""
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    x = np.concatenate([molecule + [0.0, 0.0, 2.9 * m] for m in range(n_molecules)])
    x = torch.tensor(x + rng.normal(scale=0.05, size=x.shape), requires_grad=True)
    energy = torch.tensor(-1.0 * n_molecules, dtype=torch.float64)
    for o in range(0, len(x), 3):
        energy = energy + spring(x, o, o + 1, 0.96) + spring(x, o, o + 2, 0.96)
        energy = energy + spring(x, o + 1, o + 2, 1.52)
        for other in range(0, o, 3):
            decay = torch.exp(-((x[o] - x[other]).norm() - 2.9))
            energy = energy + 0.2 * (decay * decay - 2.0 * decay)
    energy.backward()
    return Frame(
        numbers=np.array([8, 1, 1] * n_molecules),
        positions=x.detach().numpy(),
        energy=energy.item() + n_molecules * (-2000.0 - 2 * 13.0),
        forces=-x.grad.numpy(),
        trajectory=f"t{index}",
        kind="md",
        split=split,
        temperature=300.0,
    )


def analytic_frames() -> list[Frame]:
    rng = np.random.default_rng(1)
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    return [
        analytic_frame(n, rng, split, index)
        for n in (1, 2)
        for index, split in enumerate(splits)
    ]


def make_graphs(frames: list[Frame]) -> FrameGraphs:
    weights = np.ones(len(frames))
    return FrameGraphs(
        Frames.of(frames), TINY.elements, TINY.cutoff, SELF_ENERGIES, weights
    )


def evaluate(network, graphs) -> dict[str, dict[str, float]]:
    predictions = predict(network, graphs)
    return error_table(graphs, predictions, frame_groups(graphs.frames))


def write_springs(path, frames) -> None:
    level = LevelOfTheory(method="springs")
    write_hdf5(path, Dataset(Frames.of(frames), level, SELF_ENERGIES))


def changed(config: RunConfig, **settings) -> RunConfig:
    training = dataclasses.replace(config.training, **settings)
    return dataclasses.replace(config, training=training)


def assert_same_run(first, second) -> None:
    a, b = load_checkpoint(first / LAST), load_checkpoint(second / LAST)
    assert a["step"] == b["step"]
    for key in ("network", "average"):
        for name, value in a[key].items():
            torch.testing.assert_close(b[key][name], value, rtol=1e-12, atol=1e-14)
    assert len(a["history"]) == len(b["history"])
    for row, other in zip(a["history"], b["history"], strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"seconds"}:
            assert other[key] == pytest.approx(row[key], rel=1e-9), key

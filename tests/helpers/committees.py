"""Small committees of random weights, and one that was trained on single waters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_model import (
    SMALLEST,
    random_checkpoint,
    random_network,
)

from openmm_se3 import load_model
from openmm_se3.export import model_of_checkpoint
from openmm_se3.model_file import OF_COMMITTEES, ModelFile, contents, describe

MEMBERS = 3
# The first digits of rounding in each precision, eV and eV/A.
TOLERANCE = {"single": 2e-5, "double": 1e-9}
MONOMERS = Path(__file__).parents[1] / "data/monomers"  # trained on single waters only
WATER_LABELS = Path(__file__).parents[2] / "models/water/data/water1.h5"
# A hydrogen peroxide molecule: of the same elements, and no water, A.
PEROXIDE = np.array(
    [[0.0, 0.7, 0.0], [0.0, -0.7, 0.0], [0.84, 0.88, 0.42], [-0.84, -0.88, 0.42]]
)


def member(seed: int, **changes: Any) -> ModelFile:
    """Return a model with random weights of a seed."""
    checkpoint = random_checkpoint(**{**SMALLEST, **changes})
    shape = {k: v for k, v in changes.items() if k in checkpoint["model"]}
    network = random_network(torch.float32, seed, **{**SMALLEST, **shape})
    checkpoint["average"] = network.state_dict()
    return model_of_checkpoint(checkpoint, f"member{seed}", "MIT")


def write_weights(model: ModelFile, folder: Path) -> Path:
    """Write what SE3Potential reads of a model."""
    folder.mkdir()
    for name, content in contents(model).items():
        (folder / name).write_bytes(content)
    return folder


def waters_apart() -> list[ModelFile]:
    """Return the shipped model, whose shape is compiled, and one that differs."""
    model = load_model("water")
    generator = torch.Generator().manual_seed(0)
    moved = {
        key: value * (1.0 + 0.02 * torch.randn(value.shape, generator=generator))
        for key, value in model.weights.items()
    }
    kept = {k: v for k, v in model.metadata.items() if k not in OF_COMMITTEES}
    reference = model.metadata["reference"]
    structure = reference["symbols"], np.array(reference["positions"])
    return [model, describe(model.config, moved, structure, **kept)]


def shifted(model: ModelFile, **changes: Any) -> ModelFile:
    """Return a model with another description."""
    return ModelFile(model.config, {**model.metadata, **changes}, model.weights)

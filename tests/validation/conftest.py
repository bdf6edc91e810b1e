"""Networks with random weights, to be checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_model import write_random_weights

from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation.structures import in_both_precisions


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with random weights."""
    return write_random_weights(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def networks(model_folder: Path) -> dict[str, SE3Transformer]:
    return in_both_precisions(load_model(model_folder))

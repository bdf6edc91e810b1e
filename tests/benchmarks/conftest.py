"""The folders of benchmarks as places of modules, and a model for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from random_model import write_random_weights

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FOLDERS = BENCHMARKS, BENCHMARKS / "accuracy", BENCHMARKS / "training"
sys.path[:0] = map(str, FOLDERS)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with random weights."""
    return write_random_weights(tmp_path_factory.mktemp("models") / "random")

"""Models and frames for commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import water_dataset
from random_model import write_random_weights

from openmm_se3.data.frames import Frame


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Labels of water monomers and dimers."""
    return list(water_dataset().frames)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small model with random weights."""
    folder = tmp_path_factory.mktemp("models") / "random"
    return write_random_weights(folder, layers=2, lmax=1)

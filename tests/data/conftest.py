"""Frames of water."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import WATER_DATA, water_dataset

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame
from openmm_se3.data.load import read_datasets


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return water_dataset()


@pytest.fixture(scope="session")
def frames(dataset: Dataset) -> list[Frame]:
    return list(dataset.frames)


@pytest.fixture(scope="session")
def unlike_frames() -> list[Frame]:
    """Labels of water that do not resemble each other: every fortieth."""
    read = read_datasets([str(path) for path in WATER_DATA]).frames
    return [f for f in read[::40] if np.abs(f.forces).max() < 8.0]

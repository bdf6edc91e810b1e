"""Models and frames for commands."""

from __future__ import annotations

import pytest
from data_files import water_dataset

from openmm_se3.data.frames import Frame


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Labels of water monomers and dimers."""
    return list(water_dataset().frames)

from __future__ import annotations

from pathlib import Path

import pytest
from random_model import write_random_model


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a network with random weights as export writes it; not to be changed.

    Comparing the script with the network takes seconds, and SE3Potential reads none.
    """
    return write_random_model(tmp_path_factory.mktemp("models") / "random")

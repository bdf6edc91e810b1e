"""The kernels' source runs on NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import triton_emulator

from openmm_se3.triton import kernels


@pytest.fixture(autouse=True, scope="module")
def emulator() -> Iterator[None]:
    """Let kernels run on NumPy in this module."""
    patch = pytest.MonkeyPatch()
    patch.setattr(kernels, "language", triton_emulator.language)
    kernels.forget()
    yield
    patch.undo()
    kernels.forget()

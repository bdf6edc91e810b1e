"""Nearest images in periodic boxes."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_se3.geometry import minimum_image

SLANTED = np.array([[9.0, 0.0, 0.0], [3.5, 8.0, 0.0], [-4.0, 3.0, 7.0]])


@pytest.mark.parametrize("box", [np.diag([9.0, 8.0, 7.0]), SLANTED], ids=str)
def test_bonds_across_the_box_become_short(box: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    bonds = rng.normal(size=(4, 50, 3))
    bonds *= rng.uniform(0.1, 1.6, size=(4, 50, 1)) / np.linalg.norm(
        bonds, axis=-1, keepdims=True
    )
    images = rng.integers(-3, 4, size=(4, 50, 3)) @ box
    np.testing.assert_allclose(minimum_image(bonds + images, box), bonds, atol=1e-12)
    assert minimum_image(bonds, None) is bonds

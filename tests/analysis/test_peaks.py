"""Peaks of a spectrum."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_se3.analysis.spectrum import find_peaks


@pytest.mark.parametrize("top", [1001.3, 1500.0, 2998.9])
def test_the_top_of_a_peak_lies_between_points(top: float) -> None:
    wavenumber = 4.0 * np.arange(1500)
    intensity = (1.0 - ((wavenumber - top) / 50.0) ** 2).clip(min=0.0)
    assert find_peaks(wavenumber, intensity).tolist() == pytest.approx([top])

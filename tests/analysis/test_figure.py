"""What the figures show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import recording, still

from openmm_se3.analysis import (
    analyze,
    read_folder,
    verdict,
)
from openmm_se3.analysis.figure import draw


def test_the_drift_of_the_title_is_what_is_drawn(finished: Path) -> None:
    analysis = analyze(read_folder(finished))
    assert analysis.energies is not None and analysis.energies.shadow_drift is not None
    figure = draw(analysis)
    assert figure.get_suptitle() == verdict(analysis)
    axes = {axis.get_title(): axis for axis in figure.axes}
    (drift,) = (axis for title, axis in axes.items() if title.startswith("Drift"))
    lines = {str(line.get_label()): line for line in drift.lines}
    time, fit = lines["fit to shadow"].get_data()
    slope = (fit[-1] - fit[0]) / (time[-1] - time[0])
    assert slope == pytest.approx(analysis.energies.shadow_drift.slope)
    for name in ("total", "shadow"):
        assert np.nanmean(lines[name].get_ydata()) == pytest.approx(0.0, abs=1e-9)
    timed = [axis for axis in figure.axes if axis.get_xlabel() == "time (ps)"]
    assert len(timed) == 4
    assert all(axis.get_xlim()[0] == 0.0 for axis in timed)


@pytest.mark.parametrize(("n_frames", "molecules"), [(100, 1), (1000, 1), (100, 2)])
def test_bond_lengths_are_lines_or_their_span(n_frames: int, molecules: int) -> None:
    centers = [(0.0, 0.0, 8.0 * molecule) for molecule in range(molecules)]
    frames = still(n_frames, *centers)
    frames[:, 1] *= 1.0 + 0.02 * np.sin(np.arange(n_frames))[:, None] ** 2
    frames[n_frames // 2, 1] *= 1.1  # a single frame must not be skipped
    reference = still(1, *centers)[0]
    (axis, *_) = draw(analyze(recording(frames, reference))).axes
    longest = 0.9572 * 1.1
    if n_frames == 100 and molecules == 1:
        assert len(axis.lines) == 2
        assert axis.get_legend() is None
        assert max(line.get_ydata().max() for line in axis.lines) > longest
    else:
        (span,) = axis.collections
        assert span.get_paths()[0].vertices[:, 1].max() > longest
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        assert labels == ["shortest to longest", "mean"]

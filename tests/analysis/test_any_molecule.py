"""Analyses of molecules other than water, and of trajectories without bonds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recordings import ETHANOL, ETHANOL_BONDS, ethanol, turned

from openmm_se3.analysis import (
    analyze,
    judge,
    summary,
    write_results,
)
from openmm_se3.analysis.figure import draw
from openmm_se3.simulation import folder as names


def test_a_report_of_any_molecule(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = np.stack([turned(angle) for angle in np.linspace(0.0, 240.0, 50)])
    analysis = analyze(ethanol(frames + rng.normal(scale=0.01, size=frames.shape)))
    assert analysis.stability.stable
    assert analysis.formulas == {"C2H6O": 1}
    assert not [line for line in analysis.missing if "geometry" in line]
    found = summary(analysis)
    assert found["molecules"] == 1
    assert found["lengths_angstrom"]["C-C"]["mean"] == pytest.approx(1.51, abs=0.01)
    assert found["angles_degrees"]["C-C-O"]["mean"] == pytest.approx(108.0, abs=2.0)
    shares = found["torsions"]["C-C-O-H"]
    assert sum(shares.values()) == pytest.approx(1.0) and shares["trans"] > 0.1
    write_results(analysis, tmp_path)
    report = (tmp_path / names.REPORT).read_text()
    for word in ("C-C length", "C-C-O angle", "C-C-O-H torsion", "gauche"):
        assert word in report
    titles = {axis.get_title() for axis in draw(analysis).axes}
    assert len([title for title in titles if "distribution" in title]) == 3


def test_an_alcohol_that_loses_its_hydrogen_is_unstable() -> None:
    direction = (ETHANOL[8] - ETHANOL[2]) / np.linalg.norm(ETHANOL[8] - ETHANOL[2])
    pair = np.concatenate([ETHANOL, ETHANOL + 20.0])
    frames = np.repeat(pair[None], 20, axis=0)
    # 1.30 A long, which is no broken bond; the oxygen of the other one is 1.10 A away.
    frames[12:, 8] = ETHANOL[2] + 1.30 * direction
    frames[15:, 9:] += frames[15, 8] + 1.10 * direction - frames[15, 11]
    judged = judge(ethanol(frames, pair))
    assert not judged.stable and judged.frames == 15
    assert "EOH1-H8" in judged.reason and "EOH2-O2" in judged.reason
    assert "from its own oxygen" in judged.reason


@pytest.mark.parametrize(("bond", "factor"), [(0, 1.8), (1, 0.5), (2, 1.4), (7, 0.8)])
def test_an_unrelaxed_reference_of_any_molecule_is_refused(
    bond: int, factor: float
) -> None:
    i, j = ETHANOL_BONDS[bond]
    reference = ETHANOL.copy()
    reference[j] = ETHANOL[i] + factor * (ETHANOL[j] - ETHANOL[i])
    with pytest.raises(ValueError, match=f"atoms {i} and {j}"):
        judge(ethanol(ETHANOL[None], reference))
    assert judge(ethanol(ETHANOL[None])).stable

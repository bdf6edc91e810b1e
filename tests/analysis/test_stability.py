"""Stable and unstable trajectories."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import WATER, recording, shifted, still

from openmm_se3.analysis import (
    judge,
)


def test_a_good_trajectory_is_stable() -> None:
    frames = still(50, (0, 0, 0), (3, 0, 0))
    frames += np.random.default_rng(1).normal(scale=0.02, size=frames.shape)
    judged = judge(recording(frames, shifted((0, 0, 0), (3, 0, 0))))
    assert judged.stable
    assert judged.lasted_ps == pytest.approx(0.1)
    assert 0.02 < judged.worst < 0.2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_stretched_or_crushed_bond_is_unstable(sign: float) -> None:
    frames = still(50, (0, 0, 0))
    bond = frames[30, 2] - frames[30, 0]
    frames[29, 2] += sign * 0.49 * bond / 0.9572
    frames[30:, 2] += sign * 0.51 * bond / 0.9572
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 30
    assert judged.lasted_ps == pytest.approx(0.060)
    assert f"{sign * 0.51:+.2f} Å" in judged.reason
    assert judged.worst == pytest.approx(0.49, abs=1e-4)


def test_a_number_that_is_not_finite_is_unstable() -> None:
    frames = still(50, (0, 0, 0))
    frames[7, 1, 2] = np.nan
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 7
    assert "HOH1-H1" in judged.reason
    assert "not a finite number" in judged.reason


def test_a_molecule_that_loses_an_atom_to_another_is_unstable() -> None:
    # The bond is only 0.3 A longer, which the criterion for bonds would let pass.
    frames = still(20, (0, 0, 0), (5, 0, 0))
    bond = WATER[1] / np.linalg.norm(WATER[1])
    frames[12:, 1] = frames[12:, 0] + 1.26 * bond
    frames[12:, 3:] += frames[12, 0] + 2.45 * bond - frames[12, 3]
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 12
    assert "HOH1 lost an atom: HOH1-H1 is 1.19 Å from HOH2-O" in judged.reason
    # The control: the same hydrogen bond, drawn out less, is fine.
    frames[12:, 1] = frames[12:, 0] + 1.2 * bond
    assert judge(recording(frames)).stable


def test_an_unrelaxed_reference_is_refused() -> None:
    frames = still(3, (0, 0, 0))
    with pytest.raises(ValueError, match="must be a relaxed structure"):
        judge(recording(frames, 10.0 * WATER))

"""Files as others publish them."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import ROOT

from openmm_se3.data.checks.units import (
    unit_checks,
)
from openmm_se3.data.load import (
    Source,
    read_source,
    read_sources,
)

SHARED = ROOT.parent / "shared/data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data on this machine")
def test_real_data_of_others() -> None:
    folder = SHARED / "liquid-water-pbe0ts"
    water = read_source(Source(str(folder), groups=str(folder / "groups.npy")))
    assert len(water.frames) == 281 and water.frames.n_atoms[0] == 192
    assert water.frames[0].box[0, 0] == pytest.approx(12.4447, abs=1e-3)
    assert len({f.trajectory for f in water.frames}) == 20
    dipeptides = read_sources(
        [
            Source(str(SHARED / "spice-dipeptides/train.xyz")),
            Source(str(SHARED / "spice-dipeptides/val.xyz"), split="validation"),
        ]
    )
    counts = np.bincount(dipeptides.frames.column("split"))
    assert counts.tolist() == [495, 55]
    for data in (water, dipeptides):
        found = unit_checks(data.frames)
        assert all(f.passed for f in found)
        assert found[0].value is not None and found[1].value is not None

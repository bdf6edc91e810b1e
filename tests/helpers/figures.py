"""Training runs without their figures and pages."""

from __future__ import annotations

import pytest


def leave_out_figures(patch: pytest.MonkeyPatch) -> None:
    """Let training in this process write none, which takes longer than short runs.

    tests/training/test_page.py and test_run.py look at them.
    """
    for name in ("plot_history", "plot_parity", "write_page"):
        patch.setattr(f"openmm_se3.training.run.{name}", lambda *given: None)

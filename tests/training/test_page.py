"""The report page of a training run."""

from __future__ import annotations

import html
import json
from pathlib import Path

from pages import needs_browser, opened, read_page, shown_label
from springs import WARNINGS

from openmm_se3.training.checkpoint import BEST, load_checkpoint

pytestmark = WARNINGS


def test_page_shows_the_errors_that_were_measured(finished: Path) -> None:
    text = html.unescape(read_page(finished / "report.html"))
    errors = json.loads((finished / "errors.json").read_text())
    best = load_checkpoint(finished / BEST)
    told = errors["test"]["all"]
    assert f"force MAE {told['force_mae']:.3g}" in text
    assert f"best validation after {best['step']:,} of 24 steps" in text
    for by_group in (errors["train"], errors["validation"], errors["test"]):
        for name, row in by_group.items():
            assert name in text and f"{row['force_mae']:.4f}" in text
    assert text.count("<figure") == 2
    for number in ("springs.h5", "H -13.0000", f"torch {best['versions']['torch']}"):
        assert number in text
    assert f"openmm-se3 train {finished.name}/config.yaml" in text


@needs_browser
def test_worst_frame_comes_first(finished: Path, tmp_path: Path) -> None:
    errors = json.loads((finished / "errors.json").read_text())
    label = shown_label(opened(finished / "report.html", tmp_path))
    assert label == f"1: {errors['test']['all']['force_mae_worst']:.2f}"

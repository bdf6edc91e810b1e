"""docs/network.md: its snippets run, and what they print and plot is what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs/network.md"


def run_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the page's snippets in a folder and return what they have defined."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile("\n".join(snippets), PAGE.name, "exec"), names)
    return names


@pytest.fixture
def float64_restored() -> Iterator[None]:
    before = torch.get_default_dtype()
    matplotlib.use("Agg")
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64_restored")
def test_the_page_runs_and_states_what_it_prints(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = run_page(tmp_path, monkeypatch)
    assert names["errors"][torch.float64] < 1e-12
    assert names["errors"][torch.float32] < 1e-6
    # What is printed differs by machine in its last digits: compare the words.
    printed = re.sub(r"[\d.]+(e[+-]\d+)?", "#", capsys.readouterr().out)
    for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.S):
        stated = [re.sub(r"[\d.]+(e[+-]\d+)?", "#", s) for s in block.splitlines()]
        for line in stated:
            assert line in printed
    energy_and_force, (smooth, sharp) = (
        names["energy_and_force"],
        names["networks"].values(),
    )
    near, beyond = names["cutoff"] - 1e-6, names["cutoff"] + 1e-6
    assert max(map(abs, energy_and_force(smooth, near))) < 1e-10
    assert abs(energy_and_force(sharp, near)[0]) > 1e-3
    assert max(map(abs, energy_and_force(sharp, beyond))) < 1e-15  # rounding
    image = matplotlib.image.imread(tmp_path / "smoothness.png")
    committed = matplotlib.image.imread(PAGE.parent / "images/smoothness.png")
    assert image.shape == committed.shape

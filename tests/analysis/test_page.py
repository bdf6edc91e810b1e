"""Report pages of runs and of analyses."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pages import needs_browser, opened, read_page, shown_label

from openmm_se3.analysis import analyze_folder, read_folder, verdict, write_run_page
from openmm_se3.analysis.figure import choose_panels
from openmm_se3.analysis.page import write_page
from openmm_se3.report.page import MOST_ATOMS, MOST_FRAMES, MOST_POSITIONS, viewer
from openmm_se3.simulation import folder as names


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a run, without results of other tests."""
    folder = tmp_path_factory.mktemp("pages") / "dimer"
    shutil.copytree(finished, folder)
    (folder / names.PAGE).unlink(missing_ok=True)
    return folder


def test_page_shows_what_was_measured(run: Path, tmp_path: Path) -> None:
    analysis = analyze_folder(run)
    text = html.unescape(read_page(run / names.PAGE))
    assert verdict(analysis) in text
    found = json.loads((run / names.SUMMARY).read_text())
    drift = found["drift_kt_per_ns_per_dof"]
    for number in (
        f"{found['oh_length_angstrom']['mean']:.4f}",
        f"{found['hoh_angle_degrees']['mean']:.2f}",
        f"{found['temperature_k']:.1f}",
        f"{drift['slope']:+.5f} ± {drift['error']:.5f}",
        f"openmm {found['run']['versions']['openmm']}",
        "Seed: 1.",
        "openmm-se3 analyze dimer",
    ):
        assert number in text, number
    assert text.count("<figure") == len(choose_panels(analysis)) > 4
    # What cannot be given is said.
    assert all(sentence in text for sentence in analysis.missing)


def test_page_of_a_bad_run_is_red(run: Path, tmp_path: Path) -> None:
    """The banner has the color of the verdict."""
    from dataclasses import replace

    analysis = analyze_folder(run)
    assert 'banner good"' in read_page(run / names.PAGE)
    fallen = replace(analysis.stability, stable=False, reason="a bond broke")
    write_page(replace(analysis, stability=fallen), tmp_path / "bad.html")
    text = read_page(tmp_path / "bad.html")
    assert 'banner bad"' in text and "a bond broke" in text


def test_page_of_a_run_shows_how_it_ended(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    shutil.copytree(run, folder)
    facts = json.loads((folder / names.RUN).read_text())
    asked = facts["options"]["steps"] * facts["options"]["dt_fs"] / 1000.0
    facts |= {"command": "openmm-se3 run a.pdb", "reason": "bond <O-H> is long"}
    text = {}
    for status, kind in (("completed", "good"), ("stopped", "bad")):
        facts["status"] = status
        (folder / names.RUN).write_text(json.dumps(facts))
        page = read_page(write_run_page(folder))
        assert f'banner {kind}"' in page
        text[status] = html.unescape(page)
    assert f"COMPLETED: {facts['time_ps']:g} ps" in text["completed"]
    assert f"STOPPED: {facts['time_ps']:g} of {asked:g} ps" in text["stopped"]
    assert "bond <O-H> is long" in text["stopped"]
    assert "openmm-se3 run a.pdb" in text["stopped"]
    log = read_folder(folder).log
    assert f"Temperature {log['temperature_k'].mean():.0f} K" in text["stopped"]


def test_frames_above_the_threshold_are_told(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "uncertain"
    shutil.copytree(run, folder)
    facts = json.loads((folder / names.RUN).read_text())
    facts["members"] = 4
    facts["uncertainty"] = {"threshold": 0.5, "evaluated": 40, "above_threshold": 3}
    (folder / names.RUN).write_text(json.dumps(facts))
    rows = (folder / names.LOG).read_text().splitlines()
    rows[0] += ",force_uncertainty_ev_per_angstrom"
    rows[1:] = [f"{row},{0.1 * (i % 7)}" for i, row in enumerate(rows[1:])]
    (folder / names.LOG).write_text("\n".join(rows) + "\n")
    text = read_page(write_run_page(folder))
    assert 'banner warn"' in text
    assert "3 of 40 frames" in text and "at most 0.6" in text
    analysis = analyze_folder(folder)
    text = read_page(folder / names.PAGE)
    assert text.count("<figure") == len(choose_panels(analysis))
    assert "threshold of the model" in text


@needs_browser
def test_trajectory_plays(run: Path, tmp_path: Path) -> None:
    analyze_folder(run)
    still = opened(run / names.PAGE, tmp_path)
    times = read_folder(run).times
    assert times is not None
    assert shown_label(still) == f"{times[0]:.2f} ps"
    playing = opened(run / names.PAGE, tmp_path, play=True)
    assert float(shown_label(playing).split()[0]) > times[0]
    (frames,) = re.findall(r'data-frames="(\d+)"', still)
    assert 100 < int(frames) <= MOST_FRAMES < len(times)


def test_long_trajectories_are_thinned_out() -> None:
    bonds = np.zeros((0, 2), dtype=int)
    for n_frames, n_atoms in ((5000, 3), (50, 3000)):
        frames = np.zeros((n_frames, n_atoms, 3))
        labels = [str(number) for number in range(n_frames)]
        movie = viewer(["O"] * n_atoms, bonds, frames, labels, align=False)
        data = json.loads(re.findall(r"json\">(.*)</script>", movie)[0])
        shown = len(data["frames"])
        assert 0 < shown <= MOST_FRAMES and shown * n_atoms <= MOST_POSITIONS
        every = int(data["labels"][1])
        assert data["labels"] == labels[::every]
    many = MOST_ATOMS + 1
    movie = viewer(["O"] * many, bonds, np.zeros((1, many, 3)), ["0"])
    assert "<canvas" not in movie and f"{many:,}" in movie
    # Frames of a simulation that exploded cannot be shown.
    frames = np.stack([np.ones((2, 3)), np.full((2, 3), np.nan)])
    movie = viewer(["O", "H"], bonds, frames, ["good", "bad"])
    assert "good" in movie and "bad" not in movie

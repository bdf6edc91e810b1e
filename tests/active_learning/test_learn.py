"""Campaigns of active learning, with tiny networks and GFN2-xTB as the reference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from small_campaigns import NETWORK, StoppedError, after, kill_when, one_process, stop

from openmm_se3.active_learning import learn
from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.fresh_frames import Fresh
from openmm_se3.active_learning.settings import Settings
from openmm_se3.cli import main
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.model_file import load_model
from openmm_se3.training.checkpoint import BEST, load_checkpoint

pytest.importorskip("rdkit")
pytest.importorskip("tblite")
pytest.importorskip("dgl")

# One round to learn from and one to judge, of 24 labels each, and a sharper test.
OPTIONS: dict[str, Any] = {
    "reference": "gfn2",
    "labels": 64,
    "round_labels": 24,
    # Enough to hold a molecule together on every processor.
    "steps": 480,
    "explore_steps": 100,
    "members": 2,
    # So high that walkers of networks that have hardly learned go on.
    "target": 30.0,
    "seed": 7,
    "network": NETWORK,
}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a campaign of methanol that ended."""
    folder = tmp_path_factory.mktemp("campaigns") / "methanol"
    with one_process():
        learn("CO", folder, console=QUIET, command="openmm-se3 learn CO", **OPTIONS)
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    """Return what a campaign computed, without times."""
    left_out = ("time", "seconds", "label_seconds")
    return [
        {key: value for key, value in event.items() if key not in left_out}
        for event in Campaign(folder).events
    ]


def test_campaign_spends_its_labels_and_leaves_a_model(campaign: Path) -> None:
    journal = Campaign(campaign)
    frames = {
        path.stem: len(read_hdf5(path).frames)
        for path in (campaign / "data").glob("*.h5")
        if not path.stem.startswith("checks")
    }
    assert sum(frames.values()) == journal.labels_spent() <= OPTIONS["labels"]
    assert frames.keys() == {"round-00", "fresh-00", "round-01", "fresh-01"}
    assert (frames["round-00"], frames["round-01"]) == (24, 12)
    # What is left at the end makes the last test sharper.
    assert frames["fresh-01"] > frames["fresh-00"] == 12
    verdict, test = journal.find("verdict"), journal.find("tested", round=1)
    assert verdict is not None and test is not None
    assert test["trained_on"] == 48
    below = [row["force_mae"] < 30.0 for row in test["errors"]]
    assert verdict["trusted"] == [] or below[0]
    assert verdict["ending"] in ("labels", "converged")
    model = load_model(campaign / "model")
    assert set(model.config.elements) == {"H", "C", "O"}
    assert model.metadata["level_of_theory"] == {"name": "GFN2-xTB"}


def test_fresh_frames_were_never_trained_on(campaign: Path) -> None:
    fresh = {
        f.positions.tobytes() for f in read_hdf5(campaign / "data/fresh-01.h5").frames
    }
    assert len(fresh) > 8
    for member in range(OPTIONS["members"]):
        labels = read_hdf5(campaign / f"runs/round-01/member-{member}/labels.h5")
        assert len(labels.frames) == 48
        assert not fresh & {frame.positions.tobytes() for frame in labels.frames}


def test_no_structure_is_labeled_twice(campaign: Path) -> None:
    seen = [
        frame.positions.round(6).tobytes()
        for path in (campaign / "data").glob("*.h5")
        if not path.stem.startswith("checks")
        for frame in read_hdf5(path).frames
    ]
    assert len(set(seen)) == len(seen) > 50


def test_members_hold_different_frames_back(campaign: Path) -> None:
    held = []
    for member in range(OPTIONS["members"]):
        frames = read_hdf5(campaign / f"runs/round-01/member-{member}/labels.h5").frames
        held.append({f.trajectory for f in frames if f.split == "validation"})
    assert held[0] and held[1] and held[0] != held[1]


def test_tested_errors_are_those_of_the_model(campaign: Path) -> None:
    """The journal's error equals that of the members, computed by other code."""
    from openmm_se3.config import ModelConfig, from_dict
    from openmm_se3.elements import symbols_of
    from openmm_se3.nn.transformer import SE3Transformer
    from openmm_se3.single_point import evaluate
    from openmm_se3.units import EV_TO_KCAL_PER_MOL

    frames = read_hdf5(campaign / "data/fresh-01.h5").frames
    networks = []
    for member in range(OPTIONS["members"]):
        content = load_checkpoint(campaign / f"runs/round-01/member-{member}" / BEST)
        network = SE3Transformer(from_dict(ModelConfig, content["model"], "model"))
        network.float().load_state_dict(content["average"])
        networks.append(network.eval())
    errors: dict[float, list[float]] = {}
    for frame in frames:
        symbols = symbols_of(frame.numbers)
        forces = [evaluate(n, symbols, frame.positions)[1] for n in networks]
        difference = np.abs(np.mean(forces, axis=0) - frame.forces).mean()
        errors.setdefault(frame.temperature, []).append(EV_TO_KCAL_PER_MOL * difference)
    test = Campaign(campaign).find("tested", round=1)
    assert test is not None
    for row in test["errors"]:
        expected = np.mean(errors[row["temperature"]])
        assert row["force_mae"] == pytest.approx(expected, rel=1e-3)
        assert row["force_mae_low"] <= row["force_mae"] <= row["force_mae_high"]


def test_report_tells_what_the_files_say(campaign: Path) -> None:
    text = (campaign / "report.html").read_text(encoding="utf-8")
    journal = Campaign(campaign)
    verdict, test = journal.find("verdict"), journal.find("tested", round=1)
    assert verdict is not None and test is not None
    assert verdict["headline"] in text
    for row in test["errors"]:
        assert f"{row['force_mae']:.3f}" in text
    fresh = Fresh.load(campaign / "runs/round-01/fresh.npz")
    assert f"{fresh.by_frame().max():.2f}" in text
    assert f"{journal.labels_spent()} of {OPTIONS['labels']}" in text
    assert "openmm-se3 learn CO" in text
    # Nothing is fetched, by whatever opens the page.
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", text)
    assert "default-src 'none'" in text


def test_resuming_a_finished_campaign_repeats_nothing(campaign: Path) -> None:
    before = events(campaign)
    verdict = learn(out=campaign, resume=True, console=QUIET)
    assert events(campaign) == before
    assert verdict.to_dict()["headline"] == before[-1]["headline"]


def test_killed_campaign_ends_the_same(campaign: Path, tmp_path: Path) -> None:
    """Kill it while it trains, stop it later: data and weights are the same."""
    folder = tmp_path / "killed"
    first = folder / "runs/round-00/member-0/last.pt"
    kill_when(first.exists, folder, "CO", {**OPTIONS, "checks": False})
    with one_process():
        with after("explored", 0, stop), pytest.raises(StoppedError):
            learn(out=folder, resume=True, console=QUIET)
        # A line that a kill cut short.
        with open(folder / "journal.jsonl", "ab") as file:
            file.write(b'{"event": "test')
        learn(out=folder, resume=True, console=QUIET)
    for name in ("round-00", "fresh-00", "round-01", "fresh-01"):
        pairs = zip(
            read_hdf5(campaign / f"data/{name}.h5").frames,
            read_hdf5(folder / f"data/{name}.h5").frames,
            strict=True,
        )
        for ours, other in pairs:
            assert np.array_equal(ours.positions, other.positions), name
            assert ours.energy == other.energy
    for member in range(OPTIONS["members"]):
        path = Path(f"runs/round-01/member-{member}") / BEST
        weights = [load_checkpoint(f / path)["average"] for f in (campaign, folder)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    found = [Campaign(f).find("tested", round=1) for f in (campaign, folder)]
    assert found[0] is not None and found[1] is not None
    assert found[0]["errors"] == found[1]["errors"]


def test_too_few_minutes_are_said_and_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    options = {**OPTIONS, "minutes": 0.01, "steps": None, "round_labels": None}
    with pytest.raises(ValueError) as caught:
        learn("CO", folder, console=QUIET, **options)
    needed = re.search(r"takes about (\d+)", str(caught.value))
    assert needed is not None and int(needed.group(1)) >= 1
    # The labels are there for a campaign that goes on with more.
    assert Campaign(folder).labels_spent() == 20


@pytest.mark.parametrize(
    ("molecule", "options", "named"),
    [
        ("CCX", {}, "CCX"),
        ("CC(", {}, "CC("),
        ("missing.sdf", {}, "missing.sdf"),
        ("[CH3]", {}, "radical"),
        ("[Rn]", {}, "Rn"),
        ("[Pt+2]", {"reference": "aimnet2"}, "Pt"),
        ("O", {"reference": None, "level": "wb97y/6-31g*"}, "wb97y"),
        ("O", {"reference": None, "level": "wb97x/6-31gg"}, "6-31gg"),
        ("O", {"reference": None, "level": "wb97x"}, "METHOD/BASIS"),
        ("O", {"reference": "mopac"}, "mopac"),
        ("O", {"labels": 0}, "labels"),
        ("O", {"minutes": 0.0}, "minutes"),
        ("O", {"members": 1}, "members"),
        ("O", {"start": "gfn2"}, "gfn2"),
        ("O", {"start": "no-such-model"}, "no-such-model"),
        ("O", {"keep": 1.0}, "keep"),
        ("O", {"choice": "best"}, "best"),
        ("O", {"level": "pbe/def2-svp"}, "pbe/def2-svp"),
        ("O", {"temprature": 300.0}, "temprature"),
    ],
)
def test_impossible_wish_is_refused_at_once(
    molecule: str, options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        learn(molecule, folder, console=QUIET, **{"reference": "gfn2", **options})
    assert named in str(caught.value)
    assert not folder.exists()


def test_odd_number_of_electrons_is_named(tmp_path: Path) -> None:
    path = tmp_path / "methyl.xyz"
    lines = ["4", "", "C 0 0 0", "H 1.08 0 0", "H -0.54 0.94 0", "H -0.54 -0.94 0"]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError) as caught:
        learn(path, tmp_path / "campaign", console=QUIET, reference="gfn2")
    assert "9 electrons" in str(caught.value)


def test_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(OSError) as caught:
        learn("O", tmp_path / "campaign", console=QUIET, reference="gfn2")
    assert "1 MB" in str(caught.value)


def test_settings_of_a_campaign_stay(campaign: Path) -> None:
    with pytest.raises(ValueError) as caught:
        learn(out=campaign, resume=True, console=QUIET, temperature=400.0)
    assert "temperature" in str(caught.value)
    with pytest.raises(FileExistsError):
        learn("CO", campaign, console=QUIET, **OPTIONS)
    kept = Settings.read(campaign / "campaign.json")
    assert (kept.temperature, kept.start) == (300.0, "scratch")


def test_too_many_failures_stop_the_campaign(campaign: Path, tmp_path: Path) -> None:
    import shutil

    from openmm_se3.active_learning.reference import Reference, TooManyFailuresError

    path = tmp_path / "fresh-00.h5"
    shutil.copy(campaign / "data/fresh-00.h5", path)  # twelve frames
    reference = Reference(Settings.read(campaign / "campaign.json"))
    structures = [None] * 17  # of which twelve have labels
    failed = path.with_name(path.name + ".failed.json")
    failed.write_text(json.dumps([[i, "SCF not converged"] for i in range(5)]))
    assert len(reference.label(structures, path)[0].frames) == 12  # type: ignore[arg-type]
    failed.write_text(json.dumps([[i, "SCF not converged"] for i in range(6)]))
    with pytest.raises(TooManyFailuresError) as caught:
        reference.label(structures, path)  # type: ignore[arg-type]
    assert "6 of 17" in str(caught.value)


def test_command_needs_one_folder() -> None:
    result = CliRunner().invoke(main, ["learn", "CO"])
    assert result.exit_code == 2
    assert "--out" in result.output

"""A campaign of the proton transfer in malonaldehyde, labeled by GFN2-xTB."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from small_campaigns import NETWORK, StoppedError, after, one_process, stop

from openmm_se3.active_learning import learn
from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.interpolation import interpolated
from openmm_se3.active_learning.reaction.free_energy import State
from openmm_se3.active_learning.reaction.path import minimum_energy_path
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.training.checkpoint import BEST, load_checkpoint
from openmm_se3.units import EV_TO_KCAL_PER_MOL

pytest.importorskip("rdkit")
tblite = pytest.importorskip("tblite.ase")
pytest.importorskip("dgl")

SYMBOLS = "O O C C C H H H H".split()
# The minimum of GFN2-xTB with the proton H9 at O2; its mirror image is the other one.
MINIMUM = np.array(
    [
        [-1.26569620, 1.17351507, 0.47517226],
        [1.32669644, 0.99918414, 0.54802386],
        [-1.25937648, 0.06376950, -0.04475566],
        [-0.07056860, -0.68761590, -0.32908426],
        [1.14405828, -0.17132327, -0.01304066],
        [-2.21069317, -0.41877603, -0.32243433],
        [-0.15415412, -1.65520625, -0.79023159],
        [2.06487498, -0.71091187, -0.21073863],
        [0.42485887, 1.40736463, 0.68708902],
    ]
)
MIRROR = [1, 0, 4, 3, 2, 7, 6, 5, 8]
# Of GFN2-xTB's own band with nine images between the minima, kcal/mol.
BARRIER = 3.76
OPTIONS: dict[str, Any] = {
    "reference": "gfn2",
    "labels": 46,
    "round_labels": 10,
    "steps": 500,
    "explore_steps": 40,
    "members": 2,
    "checks": False,
    "target": 30.0,
    "seed": 5,
    "bias": ["difference:O1-H9,O2-H9"],
    "metadynamics": {"steps": 800},
    "network": NETWORK,
}
QUIET = Console(quiet=True)
NUMBERS = np.array([8, 8, 6, 6, 6, 1, 1, 1, 1])


def write_minima(path: Path) -> Path:
    """Write both minima."""
    lines = []
    for x in (MINIMUM, MINIMUM[MIRROR]):
        lines += ["9", ""]
        lines += [
            f"{s} {a:.8f} {b:.8f} {c:.8f}"
            for s, (a, b, c) in zip(SYMBOLS, x, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a campaign that ended.

    Beside it, in ``killed``, is what a kill at the end of its first exploration leaves.
    """
    folder = tmp_path_factory.mktemp("campaigns")
    minima = write_minima(folder / "minima.xyz")
    whole, killed = folder / "whole", folder / "killed"
    with one_process(), after("explored", 0, lambda: _copy(whole, killed)):
        learn(minima, whole, console=QUIET, **OPTIONS)
    return whole


def _copy(folder: Path, copy: Path) -> None:
    shutil.copytree(folder, copy)


def test_campaign_of_a_reaction_ends_with_its_checks(campaign: Path) -> None:
    journal = Campaign(campaign)
    assert journal.labels_spent() == 46
    test = journal.find("tested", round=0)
    assert test is not None
    assert [row.get("biased", False) for row in test["errors"]] == [False, False, True]
    fresh = read_hdf5(campaign / "data/fresh-00.h5").frames
    assert [frame.kind for frame in fresh].count("metadynamics") == 1
    found = json.loads((campaign / "runs/round-01/reaction.json").read_text())
    verdict = journal.find("verdict")
    assert verdict is not None
    # What is wrong with the reaction is in the verdict, and in the report.
    report = (campaign / "report.html").read_text(encoding="utf-8")
    assert "The reaction" in report and "difference:O1-H9,O2-H9" in report
    for problem in found["problems"]:
        assert problem in verdict["problems"] and problem in report
    # The energies of the images are those of the file of labels, by then read again.
    images = read_hdf5(campaign / "data/path-01.h5").frames
    assert len(images) == len(found["path"]["model"])
    energies = np.array([frame.energy for frame in images])
    assert found["path"]["reference"] == pytest.approx(
        EV_TO_KCAL_PER_MOL * (energies - energies[0]), abs=1e-3
    )
    # So few labels give no barrier to be trusted.
    assert found["problems"] or "path" not in found
    assert not verdict["trusted"] or "path" not in found


def test_the_path_of_a_round_is_learned_in_the_next(campaign: Path) -> None:
    """Every image that the reference could label, and none of the last round."""
    labeled = Campaign(campaign).find("labeled", file="path-00.h5")
    assert labeled is not None and labeled["tried"] == 11
    images = read_hdf5(campaign / "data/path-00.h5").frames
    assert len(images) == labeled["frames"] > 5
    learned = read_hdf5(campaign / "runs/round-01/member-0/labels.h5").frames
    assert [f.kind for f in learned].count("path") == len(images)
    assert len(learned) == 10 + 4 + 6 + len(images)
    known = {frame.positions.tobytes() for frame in learned}
    assert {frame.positions.tobytes() for frame in images} <= known


def test_killed_campaign_of_a_reaction_ends_the_same(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from its first round, stops halfway in the free energy and ends."""
    folder = tmp_path / "killed"
    shutil.copytree(campaign.with_name("killed"), folder)
    save = State.save

    def save_and_stop(state: State, path: Path) -> None:
        save(state, path)
        stop()

    with one_process():
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(State, "save", save_and_stop)
            learn(out=folder, resume=True, console=QUIET)
        assert (folder / "runs/round-01/metadynamics-0.npz").exists()
        assert Campaign(folder).find("reaction") is None
        learn(out=folder, resume=True, console=QUIET)
    for name in ("round-00", "path-00", "fresh-01"):
        pairs = zip(
            read_hdf5(campaign / f"data/{name}.h5").frames,
            read_hdf5(folder / f"data/{name}.h5").frames,
            strict=True,
        )
        for ours, other in pairs:
            assert np.array_equal(ours.positions, other.positions), name
            assert ours.energy == other.energy
    path = Path("runs/round-01/member-1") / BEST
    weights = [load_checkpoint(f / path)["average"] for f in (campaign, folder)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    name = "runs/round-01/reaction.json"
    assert (campaign / name).read_text() == (folder / name).read_text()


def test_band_has_the_barrier_of_the_reference() -> None:
    """A band of three images and one of nine have the same climbing image."""
    from ase import Atoms

    atoms = Atoms(NUMBERS, calculator=tblite.TBLite(method="GFN2-xTB", verbosity=0))

    def evaluate(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energies, forces = [], []
        for image in images:
            atoms.positions = image
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        return np.array(energies), np.array(forces)

    ends = MINIMUM, MINIMUM[MIRROR]
    band = minimum_energy_path(evaluate, NUMBERS, *ends, between=3)
    energies = EV_TO_KCAL_PER_MOL * (band.energies - band.energies[0])
    assert band.converged and band.top == 2
    assert energies[2] == pytest.approx(BARRIER, abs=0.05)
    # Without the band's forces the barrier is not that.
    middle = interpolated(NUMBERS, *ends, 3)[2]
    straight = evaluate(middle[None])[0][0]
    height = EV_TO_KCAL_PER_MOL * (straight - band.energies[0])
    assert abs(height - BARRIER) > 0.3

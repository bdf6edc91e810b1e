"""Parts of active learning: dynamics, deviation, choice, vibrations, errors, page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from spring_committee import NUMBERS, SPRING, WATER, Springs, water

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.candidates import chosen_structures, uncertain_shares
from openmm_se3.active_learning.choose import diverse_frames, random_frames
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.fresh_frames import (
    Fresh,
    calibration,
    errors_by_temperature,
)
from openmm_se3.active_learning.minima import dihedral_angle, displaced, frequencies
from openmm_se3.active_learning.pretraining import choose_start, first_self_energies
from openmm_se3.active_learning.settings import CHOICES, Settings
from openmm_se3.active_learning.verdict import judge
from openmm_se3.active_learning.walkers import Explored, Walker, conserve, explore
from openmm_se3.config import ModelConfig, to_dict
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.report.page import Page, superposed, table, viewer
from openmm_se3.shipped import shipped_models
from openmm_se3.single_point import evaluate
from openmm_se3.training.checkpoint import BEST, save_checkpoint
from openmm_se3.units import BOLTZMANN_EV, EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2


def committee() -> Committee:
    """Return two networks with random weights."""
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = ModelConfig(("H", "O"), layers=1, channels=4, key_channels=4, lmax=1)
        networks.append(SE3Transformer(config).float().eval())
    return Committee(networks, {1: -13.0, 8: -2000.0})


def test_committee_of_many_molecules_equals_its_members_one_by_one() -> None:
    rng = np.random.default_rng(1)
    structures = [
        (np.array([8, 1, 1]), WATER + 0.05 * rng.normal(size=(3, 3))),
        (np.array([8, 1]), np.array([[0.0, 0, 0], [0.97, 0, 0]])),
        (np.array([8, 1, 1]), WATER + 0.05 * rng.normal(size=(3, 3))),
    ]
    pair = committee()
    atoms = Atoms([numbers for numbers, _ in structures])
    predicted = pair.predict(atoms, np.concatenate([x for _, x in structures]))
    torch.manual_seed(2)
    config = ModelConfig(("H", "O"), layers=1, channels=4, key_channels=4, lmax=1)
    second = SE3Transformer(config).float().eval()
    for index, (numbers, positions) in enumerate(structures):
        symbols = ["O" if z == 8 else "H" for z in numbers]
        energy, forces = evaluate(second, symbols, positions)
        mine = atoms.molecule == index
        assert predicted.energies[1, index] == pytest.approx(energy, abs=1e-5)
        assert np.allclose(predicted.forces[1, mine], forces, atol=1e-5)
    isolated = pair.isolated_energies(atoms)
    assert np.allclose(isolated, [-2026.0, -2013.0, -2026.0])


def test_deviation_is_the_spread_of_the_force_on_the_worst_atom() -> None:
    atoms = Atoms([NUMBERS, NUMBERS])
    predicted = Springs(pull=0.3).predict(atoms, np.concatenate([WATER, WATER]))
    assert np.allclose(predicted.atom_deviations, [0.0, 0.0, 0.3] * 2)
    assert np.allclose(predicted.deviations(atoms), [0.3, 0.3])


def test_energy_is_conserved_without_a_thermostat() -> None:
    rng = np.random.default_rng(3)
    walkers = [Walker(0, 300.0, WATER)] * 2
    times, energies = conserve(Springs(), [water()], walkers, 2000, rng)  # type: ignore[arg-type]
    assert times[-1] == 1000.0
    assert np.ptp(energies, axis=0).max() < 0.02 * energies.mean()


def test_walkers_have_their_temperature() -> None:
    """Harmonic bonds hold kT/2 each, after the rest has been shared out."""
    rng = np.random.default_rng(4)
    heats = [300.0] * 40 + [600.0] * 40
    walkers = [Walker(0, heat, WATER) for heat in heats]
    found = explore(Springs(), [water()], walkers, 800, np.inf, rng)  # type: ignore[arg-type]
    assert len(found.positions) == 80 * 40
    late = found.step > 400
    energy = (
        Springs()
        .predict(
            Atoms([NUMBERS] * len(found.positions)), np.concatenate(found.positions)
        )
        .energies[0]
    )
    for heat in (300.0, 600.0):
        mean = energy[late & (found.temperature == heat)].mean()
        assert mean == pytest.approx(1.5 * BOLTZMANN_EV * heat, rel=0.08)


def test_walkers_stop_where_the_members_deviate() -> None:
    walkers = [Walker(0, 300.0, WATER)] * 3
    for pull, stops in ((0.05, ["", "", ""]), (0.2, ["deviation"] * 3)):
        rng = np.random.default_rng(5)
        found = explore(Springs(pull), [water()], walkers, 40, 0.1, rng)  # type: ignore[arg-type]
        assert found.stops == stops
        # The frame that stopped a walker is the one to learn from.
        assert found.deviation.max() == pytest.approx(pull)
        assert len(found.positions) == (6 if pull < 0.1 else 3)


def test_broken_bond_stops_a_walker() -> None:
    far = WATER.copy()
    far[2] *= 2.0
    found = explore(
        Springs(),  # type: ignore[arg-type]
        [water(bonds=np.array([[0, 1], [0, 2], [1, 2]]))],
        [Walker(0, 10.0, WATER)],
        40,
        1.0,
        np.random.default_rng(6),
    )
    assert found.stops == ["broken"]  # two hydrogens of water are no bond
    assert water().intact(np.stack([WATER, far])).tolist() == [True, False]
    assert not water().intact(np.full((1, 3, 3), np.nan))[0]


def test_explored_frames_survive_their_file(tmp_path: Path) -> None:
    walkers = [Walker(0, 300.0, WATER), Walker(0, 600.0, WATER)]
    rng = np.random.default_rng(7)
    found = explore(Springs(0.2), [water()], walkers, 40, 0.3, rng)  # type: ignore[arg-type]
    found.save(tmp_path / "explored.npz")
    again = Explored.load(tmp_path / "explored.npz")
    assert again.stops == found.stops and again.steps == 40
    assert np.array_equal(again.positions[3], found.positions[3])
    assert np.array_equal(again.walker_temperatures, [300.0, 600.0])


def test_frames_that_a_stopped_walker_missed_count_as_uncertain() -> None:
    walkers = [Walker(0, 300.0, WATER)] * 2 + [Walker(0, 600.0, WATER)] * 2
    rng = np.random.default_rng(8)
    found = explore(Springs(0.1), [water()], walkers, 100, 1.0, rng)  # type: ignore[arg-type]
    calm, _ = uncertain_shares(found, 1.0, 0.15)
    assert calm["above"] == 0.0
    calm, hot = uncertain_shares(found, 2.0, 0.15)
    assert calm["above"] == hot["above"] == 1.0
    stopped = explore(Springs(0.1), [water()], walkers, 100, 0.05, rng)  # type: ignore[arg-type]
    calm, _ = uncertain_shares(stopped, 1.0, 0.5)
    # Two of ten frames were seen, and none of them is above the threshold.
    assert calm["above"] == pytest.approx(0.8)
    assert calm["stopped"] == 2


def test_choice_takes_uncertain_frames_that_differ() -> None:
    rng = np.random.default_rng(9)
    near = [WATER + 1e-4 * rng.normal(size=(3, 3)) for _ in range(5)]
    far = WATER * 1.2
    calm = WATER * 0.9
    frames = [*near, far, calm]
    deviation = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.01])
    picked = diverse_frames(frames, deviation, [], 2)
    assert 5 in picked and len(picked) == 2
    assert 6 not in picked
    # What has a label is not taken again.
    assert 5 not in diverse_frames(frames, deviation, [far], 1)
    assert len(diverse_frames([WATER] * 4, np.ones(4), [], 3)) == 1


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_by_deviation_or_at_random(choice: str, tmp_path: Path) -> None:
    frames = [WATER * (1.0 + 1e-3 * i) for i in range(60)]
    taken = []
    for uncertain in (range(20), range(40, 60)):
        deviation = np.zeros(60)
        deviation[list(uncertain)] = 1.0
        explored = Explored(
            walker=np.zeros(60, dtype=int),
            system=np.zeros(60, dtype=int),
            temperature=np.full(60, 300.0),
            step=np.arange(60),
            deviation=deviation,
            positions=frames,
            stops=[""],
            walker_temperatures=np.array([300.0]),
            steps=60,
            walker_biased=np.zeros(1, dtype=bool),
        )
        settings = Settings("O", round_labels=12, choice=choice)
        found = chosen_structures(
            Campaign(tmp_path), settings, [water()], 0, explored, []
        )
        assert len(found) == settings.per_round - settings.fresh
        taken.append({structure.positions.tobytes() for structure in found})
        certain = [f.tobytes() for f, d in zip(frames, deviation, strict=True) if not d]
        assert (choice == "random") == bool(taken[-1] & set(certain))
        # Nothing is labeled twice, even where hardly anything else is left.
        left = frames[uncertain[0]]
        known = [Frame(NUMBERS, f, 0.0, None) for f in frames if f is not left]
        found = chosen_structures(
            Campaign(tmp_path), settings, [water()], 0, explored, known
        )
        assert [f.positions.tobytes() for f in found] == [left.tobytes()]
    assert (choice == "random") == (taken[0] == taken[1])


def test_random_frames_are_different_and_possible() -> None:
    weights = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    rng = np.random.default_rng(10)
    assert random_frames(weights, 5, rng).tolist() == [1, 2, 4]
    assert random_frames(np.zeros(3), 2, rng).tolist() == []


def test_frequencies_of_a_diatomic_are_those_of_its_spring() -> None:
    numbers = np.array([8, 1])
    positions = np.array([[0.0, 0.0, 0.0], [0.97, 0.0, 0.0]])
    forces = []
    for x in displaced(positions):
        vector = x[1] - x[0]
        distance = np.linalg.norm(vector)
        pull = SPRING * (distance - 0.97) / distance * vector
        forces.append([pull, -pull])
    found = frequencies(np.array(forces), positions, numbers)
    reduced = 15.999 * 1.008 / (15.999 + 1.008)
    angular = np.sqrt(SPRING / reduced * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2)
    assert found == pytest.approx([angular / (2 * np.pi * 2.99792458e-5)], rel=1e-3)


def test_dihedral_angle_is_that_of_rdkit() -> None:
    from rdkit import Chem
    from rdkit.Chem import rdMolTransforms

    from openmm_se3.data.labeling.conformers import set_positions

    peroxide = Chem.AddHs(Chem.MolFromSmiles("OO"))
    rng = np.random.default_rng(12)
    for _ in range(5):
        positions = rng.normal(size=(4, 3))
        set_positions(peroxide, positions)
        known = rdMolTransforms.GetDihedralDeg(peroxide.GetConformer(), 2, 0, 1, 3)
        found = dihedral_angle(torch.tensor(positions), (2, 0, 1, 3))
        assert np.degrees(found.item()) == pytest.approx(known, abs=1e-6)


def fresh(error: float, deviation: float, frames: int = 6) -> Fresh:
    """Return frames of two temperatures with errors of one size."""
    rng = np.random.default_rng(11)
    n = 3 * frames
    signs = rng.choice([-1.0, 1.0], size=(n, 3))
    heats = np.repeat([300.0, 600.0], frames // 2)
    scale = np.repeat(heats / 300.0, 3)[:, None]
    forces = rng.normal(size=(n, 3))
    return Fresh(
        numbers=np.tile(NUMBERS, frames),
        frame=np.repeat(np.arange(frames), 3),
        positions=np.tile(WATER, (frames, 1)),
        temperature=heats,
        biased=np.zeros(frames, dtype=bool),
        energy=np.zeros(frames),
        predicted_energy=np.zeros(frames) + 5.0,
        forces=forces,
        predicted_forces=forces + error * scale * signs,
        deviation=np.full(n, deviation),
    )


def test_errors_are_those_of_each_temperature() -> None:
    heats = (300.0, 600.0, 900.0)
    cold, hot, empty = errors_by_temperature(fresh(0.2, 0.1), heats, seed=0)
    assert (cold["temperature"], hot["temperature"]) == (300.0, 600.0)
    assert cold["force_mae"] == pytest.approx(0.2) and cold["frames"] == 3
    assert hot["force_mae"] == pytest.approx(0.4)
    assert cold["energy_mae_centered"] == 0.0  # a constant is no error
    # Where every walker broke at once there is no error, and none that would pass.
    assert empty["frames"] == 0
    assert not empty["force_mae"] <= 1e9


def test_calibration_turns_deviations_into_errors() -> None:
    test = fresh(0.2, 0.1)
    squares = np.square(test.errors).sum(axis=1).mean()
    assert calibration([test]) == pytest.approx(np.sqrt(squares) / 0.1)
    assert calibration([fresh(0.01, 10.0)]) == 1.0  # it is never trusted more


@pytest.mark.parametrize(
    ("cold", "hot", "problems", "trusted"),
    [
        (0.3, 0.7, [], [300.0, 600.0]),
        (0.3, 0.9, [], [300.0]),
        (0.5, 0.7, [], []),
        (float("nan"), 0.7, [], []),
        (0.3, 0.7, ["the energy drifts"], []),
    ],
)
def test_verdict_follows_the_limits(
    cold: float, hot: float, problems: list[str], trusted: list[float]
) -> None:
    calm = {"above": 0.0, "broken": 0, "walkers": 6}
    test = {
        "errors": [
            {"temperature": 300.0, "force_mae": cold, "frames": 6},
            {"temperature": 600.0, "force_mae": hot, "frames": 6},
        ],
        "shares": [calm, calm],
    }
    verdict = judge(Settings("CO"), test, {"problems": problems}, "converged")
    assert verdict.trusted == trusted
    assert verdict.headline.startswith("TRUSTED" if trusted else "NOT TRUSTED")
    # JSON knows no keys that are numbers.
    assert json.loads(json.dumps(verdict.to_dict()))["trusted"] == trusted
    test["errors"][0]["frames"] = 5  # too few to say
    few = judge(Settings("CO"), test, {"problems": problems}, "converged")
    assert 300.0 not in few.trusted and "5 fresh frames" in str(few.reasons)


@pytest.mark.skipif(find_spec("Auto3D") is None, reason="needs AIMNet2")
def test_start_is_the_best_that_knows_the_elements(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sodium = water(name="[Na]", numbers=np.array([11, 1, 1]))
    fast = "organic" if "organic" in shipped_models() else "aimnet2"
    assert choose_start(Settings("O"), [water()]) == fast
    assert choose_start(Settings("O"), [water(), sodium]) == "scratch"
    assert choose_start(Settings("O", reference="gfn2"), [water()]) == "scratch"
    assert choose_start(Settings("O", start="gfn2"), [water()]) == "gfn2"
    # A folder is found again from where a campaign is resumed.
    monkeypatch.chdir(smallest_model.parent)
    named = Settings("O", start=smallest_model.name)
    assert choose_start(named, [water()]) == str(smallest_model)


@pytest.mark.parametrize("members", [1, 2])
def test_first_energies_need_no_constant(members: int, tmp_path: Path) -> None:
    """Of a campaign that starts from a model, and of one with pretrained members."""
    campaign = Campaign(tmp_path / "campaign")
    pretrained = committee()
    own = {"H": -13.0, "O": -2000.0}
    for member in range(members):
        torch.manual_seed(member + 1)
        config = ModelConfig(("H", "O"), layers=1, channels=4, key_channels=4, lmax=1)
        content = {
            "model": to_dict(config),
            "average": SE3Transformer(config).state_dict(),
            "self_energies": own,
        }
        folder = campaign.member_folder(-1, member)
        folder.mkdir(parents=True)
        save_checkpoint(folder / BEST, content)
    start = "gfn2" if members == 2 else str(campaign.member_folder(-1, 0) / BEST)
    rng = np.random.default_rng(13)
    frames = []
    for numbers in ([8, 1, 1], [8, 1], [1, 1]):
        x = WATER[: len(numbers)] + 0.05 * rng.normal(size=(len(numbers), 3))
        energies = pretrained.predict(Atoms([np.array(numbers)]), x).energies
        shift = sum({1: -10.0, 8: -1900.0}[z] for z in numbers)
        energy = float(energies[:members].mean()) + shift
        frames.append(Frame(np.array(numbers), x, energy, None))
    settings = Settings("O", start=start, members=2)
    found = first_self_energies(campaign, settings, Frames.of(frames))
    assert found == pytest.approx({1: -10.0, 8: -1900.0}, abs=1e-4)


def test_page_escapes_what_it_is_given() -> None:
    page = Page("<b>", "a & b")
    page.banner("</h2><script>", ["<i>"], "bad")
    page.section("<s>", table(["<th>", ""], [["</table>", "1"]]))
    text = page.html()
    for raw in ("<b>", "</h2><script>", "<i>", "<s>"):
        assert raw not in text
    assert text.count("</table>") == 1
    movie = viewer(["C<"], np.zeros((0, 2)), np.zeros((1, 1, 3)), ["</script>"])
    assert movie.count("</script>") == 1


def test_frames_are_turned_onto_the_first() -> None:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    frames = superposed(np.stack([WATER, WATER @ turn.T + 4.0]))
    assert np.allclose(frames[0], frames[1], atol=1e-6)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_page_plays_in_a_browser(tmp_path: Path) -> None:
    """The viewer's script runs, draws, and shows the label of the first frame."""
    page = Page("Water")
    movie = viewer(
        ["O", "H", "H"],
        np.array([[0, 1], [0, 2]]),
        np.stack([WATER, 1.1 * WATER]),
        ["first frame", "second"],
    )
    page.section("The molecule", movie)
    page.write(tmp_path / "page.html")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=500",
        "--dump-dom",
        (tmp_path / "page.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (label,) = re.findall(r"<output>(.*?)</output>", done.stdout)
    assert label == "first frame"
    assert 'data-frames="2"' in done.stdout

"""Reactions: metadynamics, paths and free energies of a transfer that is known."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proton_transfer import NUMBERS, ProtonTransfer, minimum, transfer

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.candidates import fresh_structures, uncertain_shares
from openmm_se3.active_learning.interpolation import aligned, interpolated
from openmm_se3.active_learning.minima import relaxed
from openmm_se3.active_learning.reaction import free_energy
from openmm_se3.active_learning.reaction.compare import Comparison
from openmm_se3.active_learning.reaction.metadynamics import explore_biased
from openmm_se3.active_learning.reaction.page import reaction_parts
from openmm_se3.active_learning.reaction.path import (
    minimum_energy_path,
)
from openmm_se3.active_learning.reaction.path_check import PathCheck
from openmm_se3.active_learning.reaction.ranges import Biased, Metadynamics, biased
from openmm_se3.active_learning.reaction.variables import read_variables, values
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.walkers import Explored, Walker, explore
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.units import EV_TO_KCAL_PER_MOL

TEXT = "difference:O1-H3,O2-H3"
OPTIONS = Metadynamics()


def ranges() -> list[Biased]:
    """Return the difference of the two distances and its range."""
    return biased(read_variables([TEXT], transfer()), transfer(), OPTIONS)


def difference(positions: Any) -> np.ndarray:
    """Return the variable of frames."""
    variables = read_variables([TEXT], transfer())
    return values(variables, np.stack(list(positions)))[:, 0]


def metadynamics(pull: float = 0.0, stop_above: float = np.inf) -> Explored:
    """Return frames of short metadynamics over a barrier of 6 kcal/mol."""
    return explore_biased(
        ProtonTransfer(6.0, pull),  # type: ignore[arg-type]
        transfer(),
        ranges(),
        OPTIONS,
        300.0,
        1200,
        stop_above,
        np.random.default_rng(1),
    )


HYDROGEN_CYANIDE = ((7, 6, 1), [[0, 0, 1.16], [0, 0, 0], [0, 0, -1.07]])
HYDROGEN_ISOCYANIDE = [[0, 0, 1.17], [0, 0, 0], [0, 0, 2.17]]
METHYL = [[1.03, 0, -0.36], [-0.515, 0.892, -0.36], [-0.515, -0.892, -0.36]]
METHYL_CYANIDE = (
    (6, 6, 7, 1, 1, 1),
    [[0, 0, 0], [0, 0, 1.46], [0, 0, 2.62], *METHYL],
)
METHYL_ISOCYANIDE = [[0, 0, 0], [0, 0, 2.58], [0, 0, 1.42], *METHYL]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (HYDROGEN_CYANIDE, HYDROGEN_ISOCYANIDE),
        (METHYL_CYANIDE, METHYL_ISOCYANIDE),
    ],
)
@pytest.mark.filterwarnings("error")
def test_atoms_pass_beside_each_other_on_a_line(
    first: tuple[tuple[int, ...], list[list[float]]], last: list[list[float]]
) -> None:
    """On the straight way one atom goes through another, or is thrown out."""
    numbers, start = np.array(first[0]), np.array(first[1])
    images = interpolated(numbers, start, np.array(last), 9)
    assert np.isfinite(images).all()
    i, j = np.triu_indices(len(numbers), 1)
    lengths = np.linalg.norm(images[:, i] - images[:, j], axis=2)
    longer = np.maximum(lengths[0], lengths[-1])
    assert (lengths < 1.2 * longer).all()
    assert lengths.min() > 0.9
    assert np.array_equal(images, interpolated(numbers, start, np.array(last), 9))


def test_interpolation_keeps_bonds_and_turns_the_last_structure() -> None:
    turn = np.array([[0.0, -1.0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    last = minimum(1.0) @ turn.T + 3.0
    images = interpolated(NUMBERS, minimum(-1.0), last, 5)
    assert np.allclose(images[0], minimum(-1.0))
    assert np.allclose(aligned(images[-1], minimum(1.0)), minimum(1.0), atol=1e-6)
    assert np.all(np.diff(difference(images)) > 0.0)
    shortest = min(np.linalg.norm(x[2] - x[0]) for x in images)
    assert shortest > 1.0


def test_band_finds_the_barrier_of_the_potential() -> None:
    potential = ProtonTransfer(3.0)
    images = interpolated(NUMBERS, minimum(-1.0), minimum(1.0), 5)
    guess = [potential.energy_and_forces(x)[0] for x in images]
    # The path bends, so that a straight one is too high.
    assert max(guess) * EV_TO_KCAL_PER_MOL > 5.0
    start = minimum(-1.0) + 0.02 * np.random.default_rng(2).normal(size=(3, 3))
    first, _ = relaxed(potential, transfer(), start)  # type: ignore[arg-type]
    assert difference([first])[0] == pytest.approx(-0.5, abs=0.01)

    def evaluate(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = [potential.energy_and_forces(image) for image in images]
        return np.array([e for e, _ in both]), np.array([f for _, f in both])

    band = minimum_energy_path(evaluate, NUMBERS, first, minimum(1.0), 5)
    energies = EV_TO_KCAL_PER_MOL * (band.energies - band.energies[0])
    assert band.converged and band.top == 3
    assert energies[band.top] == pytest.approx(3.0, abs=0.02)
    assert difference([band.positions[3]])[0] == pytest.approx(0.0, abs=0.02)
    assert np.all(np.diff(band.lengths) > 0.0)


def test_metadynamics_crosses_what_dynamics_does_not() -> None:
    system, steps = transfer(), 1200
    walkers = [Walker(0, 300.0, x) for x in system.minima * 2]
    rng = np.random.default_rng(1)
    potential: Any = ProtonTransfer(6.0)
    free = explore(potential, [system], walkers, steps, np.inf, rng)
    pushed = metadynamics()
    crossings = []
    for found in (free, pushed):
        assert found.stops == [""] * 4
        count = 0
        for walker in range(4):
            side = difference(
                x
                for x, w in zip(found.positions, found.walker, strict=True)
                if w == walker
            )
            count += int((np.abs(np.diff(np.sign(side))) > 0).sum())
        crossings.append(count)
    assert crossings[0] == 0 < crossings[1]
    assert not free.biased.any() and pushed.biased.all()
    # The walls hold.
    assert np.abs(difference(pushed.positions)).max() < ranges()[0].high + 0.3


def test_walkers_of_metadynamics_are_the_same_again_and_stop() -> None:
    first, again = metadynamics(), metadynamics()
    assert np.array_equal(np.stack(first.positions), np.stack(again.positions))
    stopped = metadynamics(pull=0.3, stop_above=0.2)
    assert stopped.stops == ["deviation"] * 4
    # The frame that stopped a walker is kept.
    assert len(stopped.positions) == 4
    assert stopped.deviation == pytest.approx(np.full(4, 0.3))
    calm = metadynamics(pull=0.1, stop_above=0.2)
    assert calm.stops == [""] * 4


@functools.cache
def explored() -> Explored:
    """Return dynamics at 300 and 600 K and metadynamics."""
    system = transfer()
    walkers = [Walker(0, t, x) for t in (300.0, 450.0, 600.0) for x in system.minima]
    rng = np.random.default_rng(3)
    potential: Any = ProtonTransfer(2.0)
    free = explore(potential, [system], walkers, 1200, np.inf, rng)
    return free.joined(metadynamics())


def test_fresh_frames_come_from_metadynamics_too(tmp_path: Path) -> None:
    found = explored()
    found.save(tmp_path / "explored.npz")
    again = Explored.load(tmp_path / "explored.npz")
    assert np.array_equal(again.biased, found.biased)
    settings = Settings("a.xyz", bias=(TEXT,), labels=60, round_labels=30)
    drawn = fresh_structures(settings, [transfer()], 0, found, 12)
    kinds = [(s.kind, s.temperature) for s in drawn]
    assert kinds.count(("metadynamics", 300.0)) == 6
    assert kinds.count(("md", 300.0)) == 6 == kinds.count(("md", 600.0))
    rows = uncertain_shares(found, 1.0, 0.1)
    assert [row.get("biased", False) for row in rows] == [False, False, True]
    assert [row["walkers"] for row in rows] == [2, 2, 4]


def free_energies(
    barrier: float, folder: Path, steps: int, progress: Any = lambda done, total: None
) -> list[free_energy.State]:
    """Return the two runs of a barrier (kcal/mol)."""
    potential: Any = ProtonTransfer(barrier)
    return [
        free_energy.run_metadynamics(
            potential,
            transfer(),
            ranges(),
            OPTIONS,
            300.0,
            steps,
            1.0,
            folder / f"{barrier}-{run}.npz",
            run,
            4,
            progress,
        )
        for run in range(free_energy.RUNS)
    ]


def test_free_energy_has_the_barrier_of_the_potential(tmp_path: Path) -> None:
    """What is not along the variable changes little, so that F is the double well."""
    found = []
    for barrier in (1.5, 4.0):
        runs = free_energies(barrier, tmp_path, 20000)
        assert [run.stop for run in runs] == ["", ""]
        curves = [free_energy.curve(r.free_energy, ranges()[0], 300.0) for r in runs]
        mean = np.mean([energy for _, energy in curves], axis=0)
        found.append(free_energy.barrier(curves[0][0], mean, -0.5, 0.5))
        assert found[-1] == pytest.approx((barrier, barrier), abs=0.8)
    assert found[1][0] - found[0][0] == pytest.approx(2.5, abs=0.8)


def test_killed_free_energy_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    whole = free_energies(3.0, tmp_path, 800)

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    other = tmp_path / "killed"
    other.mkdir()
    with pytest.raises(KeyboardInterrupt):
        free_energies(3.0, other, 800, kill)
    assert free_energy.State.load(other / "3.0-0.npz").pieces == 7
    resumed = free_energies(3.0, other, 800)
    for one, two in zip(whole, resumed, strict=True):
        assert np.array_equal(one.free_energy, two.free_energy)
        assert np.array_equal(one.visited, two.visited)
    assert not np.array_equal(whole[0].free_energy, whole[1].free_energy)


class Transfers:
    """A reference of a transfer whose barrier may be another one.

    Args:
        barrier: kcal/mol.
    """

    def __init__(self, barrier: float) -> None:
        self.potential = ProtonTransfer(barrier)
        self.calls = 0

    def label_round(
        self, campaign: Campaign, structures: list[Structure], path: Path
    ) -> Any:
        """Return labels, and their event."""
        from types import SimpleNamespace

        self.calls += 1
        frames = []
        for s in structures:
            energy, forces = self.potential.energy_and_forces(s.positions)
            frames.append(
                Frame(s.numbers, s.positions, energy - 4000.0, forces, s.trajectory)
            )
        return SimpleNamespace(frames=Frames.of(frames)), {}


@pytest.mark.parametrize(
    ("barrier", "problems"), [(3.1, 0), (3.6, 2), (float("nan"), 1)]
)
def test_barrier_of_the_reference_decides(
    barrier: float, problems: int, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "campaign")
    campaign.round_folder(1).mkdir(parents=True)
    settings = Settings("a.xyz", bias=(TEXT,), explore_steps=40)
    arguments = (campaign, settings, transfer(), ranges(), OPTIONS, 1)
    reference: Any = Transfers(barrier)
    committee: Any = ProtonTransfer(3.0)
    found = Comparison(*arguments).run(reference, committee, explored(), 1.0)
    assert len(found["problems"]) == problems, found["problems"]
    path = found["path"]
    assert path["barrier"] == pytest.approx(3.0, abs=0.02)
    if problems != 1:
        assert path["reference_barrier"] == pytest.approx(barrier, abs=0.02)
        assert path["worst"] == pytest.approx(barrier - 3.0, abs=0.02)
    # Dynamics over a barrier of 2 kcal/mol, and none of metadynamics.
    assert [row["temperature"] for row in found["transfers"]] == [300.0, 450.0, 600.0]
    assert sum(row["forward"] + row["backward"] for row in found["transfers"]) > 0
    again = Comparison(*arguments).run(reference, committee, explored(), 1.0)
    assert json.dumps(again) == json.dumps(found) and reference.calls == 1
    shown, below = reaction_parts(found, transfer(), 300.0)
    text = "".join(shown + below)
    assert f"{path['barrier']:.2f}" in text and TEXT in text
    # A bond is drawn where it is one: up to 1.3 times 0.97 A, of both oxygens.
    assert '"bonds":[]' in text and '"changing":[[0,2,1.2' in text
    if problems != 1:
        assert f"{path['reference_barrier']:.2f}" in text


def test_second_minimum_is_found_by_metadynamics(tmp_path: Path) -> None:
    """Of a reactant that is given alone; dynamics that stays there finds none."""
    campaign = Campaign(tmp_path / "campaign")
    campaign.round_folder(1).mkdir(parents=True)
    alone = transfer(minima=(minimum(-1.0),))
    frames = explored()
    committee: Any = ProtonTransfer(3.0)
    check = PathCheck(campaign, alone, ranges(), 1)
    ends = check.ends(committee, frames)
    assert ends is not None
    assert difference(ends) == pytest.approx([-0.5, 0.5], abs=0.02)
    free = [i for i, b in enumerate(frames.biased) if not b and frames.walker[i] == 0]
    near = Explored(
        walker=frames.walker[free],
        system=frames.system[free],
        temperature=frames.temperature[free],
        step=frames.step[free],
        deviation=frames.deviation[free],
        positions=[frames.positions[i] for i in free],
        stops=[""],
        walker_temperatures=np.array([300.0]),
        steps=frames.steps,
        walker_biased=np.array([False]),
    )
    assert check.ends(committee, near) is None
    assert check.band(committee, near) is None and check.problems(None) == []

"""What a round looks at: its walkers, and the frames of them that are labeled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.choose import are_new, diverse_frames, random_frames
from openmm_se3.active_learning.frames_of_run import given_structures
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System, initial_structures, starts
from openmm_se3.active_learning.walkers import FRAME_SPACING, Explored, Walker
from openmm_se3.data.frames import Frame, Structure
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.units import EV_TO_KCAL_PER_MOL

METADYNAMICS = "metadynamics"  # kind of the frames of biased walkers
WALKERS = (6, 4, 6)  # at T, 1.5 T and 2 T, of each system
SPARE_SEEDS = 7919  # between the seeds of structures that fill rounds
SETTLING = 0.3  # share of the dynamics before the first fresh frame


def make_walkers(
    settings: Settings, systems: Sequence[System], rng: np.random.Generator
) -> list[Walker]:
    """Return the walkers of a round."""
    walkers = []
    for index, system in enumerate(systems):
        for count, heat in zip(WALKERS, settings.temperatures(), strict=True):
            walkers += [
                Walker(index, heat, start) for start in starts(system, count, rng)
            ]
    return walkers


def fresh_structures(
    settings: Settings,
    systems: Sequence[System],
    number: int,
    explored: Explored,
    left: int,
) -> list[Structure]:
    """Draw frames at T, at 2 T and of metadynamics at random, as many of each.

    Args:
        settings: Settings of the campaign.
        systems: What is learned.
        number: The round.
        explored: Frames of the round.
        left: Labels that are left.
    """
    count = settings.fresh
    # Without room for another round the rest of the budget makes the test sharper.
    if left < settings.per_round + count:
        count = max(count, left)
    rng = np.random.default_rng([settings.seed, 5, number])
    settled = explored.step > SETTLING * explored.steps
    low, _, high = settings.temperatures()
    groups = [(low, False), (high, False), *([(low, True)] if settings.bias else [])]
    drawn = []
    for index, (heat, biased) in enumerate(groups):
        share = (count + len(groups) - 1 - index) // len(groups)
        mine = (explored.temperature == heat) & (explored.biased == biased)
        # Where all walkers stopped early, their first frames have to do.
        weights = (settled & mine) if (settled & mine).any() else mine
        drawn.append(random_frames(weights.astype(float), share, rng))
    return _structures(systems, explored, np.concatenate(drawn), f"fresh-{number}")


def chosen_structures(
    campaign: Campaign,
    settings: Settings,
    systems: Sequence[System],
    number: int,
    explored: Explored,
    known: Sequence[Frame],
) -> list[Structure]:
    """Return the frames that the next round learns from.

    Up to half of them are those of a simulation that was given for the round.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        systems: What is learned.
        number: The round.
        explored: Frames of the round.
        known: All labeled frames.
    """
    each = -(-(settings.per_round - settings.fresh) // len(systems))
    chosen, given = [], []
    for index, system in enumerate(systems):
        mine = np.flatnonzero(explored.system == index)
        whole = [bool(system.intact(explored.positions[int(i)][None])) for i in mine]
        mine = mine[np.array(whole, dtype=bool)]
        found = given_structures(campaign, number, system, index)[: each // 2]
        given += found
        same = [f.positions for f in known if np.array_equal(f.numbers, system.numbers)]
        same += [structure.positions for structure in found]
        frames = [explored.positions[int(i)] for i in mine]
        count = each - len(found)
        if settings.choice == "random":
            rng = np.random.default_rng([settings.seed, 9, number, index])
            picked = random_frames(are_new(frames, same).astype(float), count, rng)
        else:
            picked = diverse_frames(frames, explored.deviation[mine], same, count)
        chosen.append(mine[picked])
    name = f"chosen-{number}"
    return _structures(systems, explored, np.concatenate(chosen), name) + given


def spare_structures(
    settings: Settings,
    molecules: Sequence[Molecule],
    systems: Sequence[System],
    number: int,
    count: int,
    name: str,
) -> list[Structure]:
    """Return structures of a classical force field, where dynamics gave too few.

    Args:
        settings: Settings of the campaign.
        molecules: Its molecules.
        systems: What is learned.
        number: The round.
        count: Structures wanted.
        name: What tells them from others.
    """
    low, _, high = settings.temperatures()
    seed = settings.seed + SPARE_SEEDS * (number + 1)
    made = initial_structures(molecules, systems, count, (low, high), seed)
    return [
        dataclasses.replace(
            structure,
            trajectory=f"{structure.trajectory}-{name}",
            temperature=(low, high)[index % 2],
        )
        for index, structure in enumerate(made[:count])
    ]


def _structures(
    systems: Sequence[System], explored: Explored, chosen: np.ndarray, name: str
) -> list[Structure]:
    found = []
    for index, frame in enumerate(chosen):
        system = systems[int(explored.system[frame])]
        found.append(
            Structure(
                numbers=system.numbers,
                positions=explored.positions[int(frame)],
                trajectory=f"{system.trajectory}-{name}-{index}",
                kind=METADYNAMICS if explored.biased[frame] else "md",
                temperature=float(explored.temperature[frame]),
                charge=system.charge,
                spin=0,
            )
        )
    return found


def uncertain_shares(
    explored: Explored, factor: float, threshold: float
) -> list[dict[str, Any]]:
    """Return, at the lowest and highest temperature, the share of uncertain frames.

    A frame that a walker did not reach because it stopped counts as uncertain.  A third
    row, with ``biased``, is that of metadynamics, where there was some.

    Args:
        explored: Frames of a round.
        factor: What deviations are multiplied by.
        threshold: Calibrated deviation above which a frame is uncertain, eV/A.
    """
    table = []
    free = explored.walker_temperatures[~explored.walker_biased]
    groups = [(heat, False) for heat in (free.min(), free.max())]
    if explored.walker_biased.any():
        groups.append((free.min(), True))
    for heat, biased in groups:
        walkers = np.flatnonzero(
            (explored.walker_temperatures == heat) & (explored.walker_biased == biased)
        )
        frames = (explored.temperature == heat) & (explored.biased == biased)
        total = explored.steps // FRAME_SPACING * len(walkers)
        seen = int(frames.sum())
        above = int((factor * explored.deviation[frames] > threshold).sum())
        stops = [explored.stops[int(w)] for w in walkers]
        median = float(np.median(explored.deviation[frames])) if seen else np.nan
        table.append(
            {
                "temperature": float(heat),
                **({"biased": True} if biased else {}),
                "above": round((above + max(0, total - seen)) / max(1, total), 5),
                "median_deviation": round(factor * median * EV_TO_KCAL_PER_MOL, 4),
                "walkers": len(walkers),
                "stopped": sum(map(bool, stops)),
                "broken": stops.count("broken"),
            }
        )
    return table

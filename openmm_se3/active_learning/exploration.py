"""The dynamics of a round: walkers at all temperatures, and those of metadynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.candidates import make_walkers
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import Explored, explore

EXPLORED = "explored.npz"


def explore_round(
    campaign: Campaign,
    settings: Settings,
    systems: Sequence[System],
    reaction: Reaction | None,
    committee: Committee,
    number: int,
    stop_above: float,
    progress: Callable[[int, int], None],
    tell: Callable[[str], None],
) -> Explored:
    """Return the frames of a round; those of a finished one are read.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        systems: What is learned.
        reaction: The reaction, whose metadynamics explores too; None without one.
        committee: Its mean moves the walkers.
        number: The round.
        stop_above: Deviation at which a walker stops, eV/A.
        progress: Called with finished and all steps.
        tell: Told what was found.
    """
    path = campaign.round_folder(number) / EXPLORED
    if campaign.find("explored", round=number) is not None:
        return Explored.load(path)
    rng = np.random.default_rng([settings.seed, 4, number])
    walkers = make_walkers(settings, systems, rng)
    steps = settings.walker_steps
    with timed() as taken:
        explored = explore(
            committee, systems, walkers, steps, stop_above, rng, progress
        )
        if reaction is not None:
            explored = explored.joined(
                reaction.explore(committee, stop_above, rng, progress)
            )
            taken["biased_seconds"] = reaction.seconds
    explored.save(path)
    stopped, broken = sum(map(bool, explored.stops)), explored.stops.count("broken")
    campaign.record(
        "explored",
        round=number,
        frames=len(explored.positions),
        walkers=len(explored.stops),
        stopped=stopped,
        broken=broken,
        **taken,
    )
    tell(
        f"round {number}: explored {len(explored.positions)} frames in "
        f"{taken['seconds']:.0f} s; {stopped} of {len(explored.stops)} walkers "
        f"stopped, {broken} broken"
    )
    return explored

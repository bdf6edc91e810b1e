"""What a campaign of a reaction does in its rounds and at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reaction.compare import RUN_FACTOR, Comparison, Show
from openmm_se3.active_learning.reaction.free_energy import RUNS
from openmm_se3.active_learning.reaction.inputs import Inputs
from openmm_se3.active_learning.reaction.metadynamics import WALKERS, explore_biased
from openmm_se3.active_learning.reaction.path_check import PathCheck
from openmm_se3.active_learning.reaction.ranges import Biased, Metadynamics, biased
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import Explored


class Reaction:
    """A reaction that a campaign learns.

    Args:
        settings: Settings of the campaign.
        system: The molecule.
        variables: The collective variables and their ranges.
        options: Settings of metadynamics.

    Attributes:
        seconds: What the last exploration by metadynamics took.
    """

    def __init__(
        self,
        settings: Settings,
        system: System,
        variables: Sequence[Biased],
        options: Metadynamics,
    ) -> None:
        self.settings, self.system = settings, system
        self.variables, self.options = variables, options
        self.seconds = 0.0

    @classmethod
    def of(cls, settings: Settings, inputs: Inputs) -> Reaction | None:
        """Return the reaction of a campaign; None without ``bias``.

        Raises:
            ValueError: A setting of metadynamics is not possible.
        """
        if not inputs.variables:
            return None
        options = Metadynamics.of(settings.metadynamics)
        (system,) = inputs.systems
        ranges = biased(inputs.variables, system, options)
        return cls(settings, system, ranges, options)

    def explore(
        self,
        committee: Committee,
        stop_above: float,
        rng: np.random.Generator,
        progress: Callable[[int, int], None],
    ) -> Explored:
        """Run the walkers of metadynamics of a round."""
        with timed() as taken:
            explored = explore_biased(
                committee,
                self.system,
                self.variables,
                self.options,
                self.settings.temperature,
                self.settings.walker_steps,
                stop_above,
                rng,
                progress,
            )
        self.seconds = taken["seconds"]
        return explored

    def finishing_seconds(self, biased_seconds: float) -> float:
        """Return about how long the end of the campaign takes.

        Args:
            biased_seconds: What the metadynamics of a round took.
        """
        steps = self.options.steps or RUN_FACTOR * self.settings.walker_steps
        share = RUNS * steps / (WALKERS * self.settings.walker_steps)
        return share * biased_seconds

    def path_problems(
        self,
        campaign: Campaign,
        reference: Reference,
        committee: Committee,
        number: int,
        explored: Explored,
    ) -> list[str]:
        """Label the path of a round; return what is wrong with it."""
        check = PathCheck(campaign, self.system, self.variables, number)
        band = check.band(committee, explored)
        return check.problems(None if band is None else check.compare(band, reference))

    def check(
        self,
        campaign: Campaign,
        reference: Reference,
        committee: Committee,
        number: int,
        threshold: float,
        show: Show,
    ) -> dict[str, Any]:
        """Compare path and barrier with the reference; compute the free energy."""
        comparison = Comparison(
            campaign,
            self.settings,
            self.system,
            self.variables,
            self.options,
            number,
            show,
        )
        explored = Explored.load(campaign.round_folder(number) / "explored.npz")
        return comparison.run(reference, committee, explored, threshold)

"""The labels and minutes that a campaign may spend."""

from __future__ import annotations

import time

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.reaction.path_check import IMAGES
from openmm_se3.active_learning.settings import Settings

FINISHING_SECONDS = 40.0  # of the checks and the report


class Budget:
    """What is left of labels and minutes.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        reaction: Its reaction, whose path is labeled in each round; None without one.
    """

    def __init__(
        self, campaign: Campaign, settings: Settings, reaction: Reaction | None
    ) -> None:
        self.campaign, self.settings, self.reaction = campaign, settings, reaction
        self._clock = time.monotonic()
        self._before = campaign.seconds_spent()

    def labels_left(self) -> int:
        """Return the labels that are left."""
        return self.settings.labels - self.campaign.labels_spent()

    def minutes_left(self) -> float:
        """Return the minutes that are left."""
        if self.settings.minutes is None:
            return float("inf")
        spent = self._before + time.monotonic() - self._clock
        return self.settings.minutes - spent / 60.0

    @property
    def images(self) -> int:
        """Labels of the path of a round."""
        return 0 if self.reaction is None else IMAGES

    def used_up(self, number: int) -> str:
        """Return what does not suffice for another round: "labels", "minutes" or "".

        Args:
            number: The round that ends.
        """
        if self.labels_left() < self.settings.per_round + self.images:
            return "labels"
        if self.minutes_left() < self.round_minutes(number):
            return "minutes"
        return ""

    def round_minutes(self, number: int) -> float:
        """Return about how long the round after this one and the end will take, min.

        Args:
            number: The round that ends.
        """
        seconds = FINISHING_SECONDS
        names = ("round", "fresh", "path")
        files = [self.campaign.round_file(name, number).name for name in names]
        for event in self.campaign.events:
            if event.get("round") == number or event.get("file") in files:
                if self.reaction is not None:
                    biased = event.get("biased_seconds", 0.0)
                    seconds += self.reaction.finishing_seconds(biased)
                # The first round makes twice as many steps as the others.
                half = event["event"] == "trained" and number == 0
                seconds += event.get("seconds", 0.0) * (0.5 if half else 1.0)
        return seconds / 60.0

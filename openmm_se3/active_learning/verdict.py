"""What a model can be trusted for, and why not for more."""

from __future__ import annotations

import dataclasses
from typing import Any

from openmm_se3.active_learning.settings import LEAST_FRESH, Settings

# A frame is uncertain where the calibrated deviation of the force on one of its atoms
# is above this many times the wanted mean absolute error of a component.  At the target
# itself the largest of ten atoms reaches five.
DEVIATION = 10.0
# Shares of MD frames, at T, at 2 T and of metadynamics at T.
MOST_UNCERTAIN = (0.01, 0.05, 0.05)
HOT = 2.0  # the target at 2 T and in metadynamics, in targets at T


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits in kcal/mol/A.

    Attributes:
        deviation: Above it a frame is uncertain.
        force_mae: Largest error on fresh frames, at T, at 2 T and of metadynamics.
        uncertain: Largest share of uncertain MD frames, of the same three.
    """

    deviation: float
    force_mae: tuple[float, float, float]
    uncertain: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a model can be trusted for.

    Attributes:
        temperatures: Temperatures that were tested, K.
        trusted: Those at which the model can be trusted.
        reasons: Why not at the others, by temperature.
        problems: What is wrong at every temperature.
        notes: Other findings.
        ending: Why the campaign ended: "converged", "labels" or "minutes".
    """

    temperatures: list[float]
    trusted: list[float]
    reasons: dict[float, list[str]]
    problems: list[str]
    notes: list[str]
    ending: str

    @property
    def headline(self) -> str:
        """TRUSTED, or NOT TRUSTED FOR what."""
        low = self.temperatures[0]
        if low not in self.trusted:
            return f"NOT TRUSTED FOR simulations at {low:.0f} K"
        text = f"TRUSTED up to {max(self.trusted):.0f} K"
        failed = [t for t in self.temperatures if t not in self.trusted]
        if failed:
            text += f", NOT TRUSTED FOR {failed[0]:.0f} K"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "headline": self.headline,
            **dataclasses.asdict(self),
            "reasons": {f"{t:g}": lines for t, lines in self.reasons.items()},
        }


def group_name(row: dict[str, Any]) -> str:
    """Return what a row of errors or of walkers is of: temperature and bias."""
    biased = ", biased" if row.get("biased") else ""
    return f"{row['temperature']:.0f} K{biased}"


def limits(settings: Settings) -> Limits:
    """Return the limits that a target sets."""
    target = settings.target
    errors = target, HOT * target, HOT * target
    return Limits(DEVIATION * target, errors, MOST_UNCERTAIN)


def shortcomings(settings: Settings, test: dict[str, Any]) -> dict[float, list[str]]:
    """Return what a test finds wrong at each temperature.

    Args:
        settings: Settings of the campaign.
        test: The event "tested" of a round.
    """
    limit = limits(settings)
    found: dict[float, list[str]] = {}
    for place, (row, share) in enumerate(
        zip(test["errors"], test["shares"], strict=True)
    ):
        lines = found.setdefault(row["temperature"], [])
        what = " of metadynamics" if row.get("biased") else ""
        most = limit.force_mae[place]
        # Written so that NaN fails.
        if not row["force_mae"] <= most:
            lines.append(
                f"the force error on fresh frames{what} is {row['force_mae']:.2f} "
                f"kcal/mol/A, above the target of {most:.2f}"
            )
        if row["frames"] < LEAST_FRESH:
            lines.append(
                f"it was tested on {row['frames']} fresh frames{what}, fewer than "
                f"{LEAST_FRESH}: give more labels"
            )
        if share["broken"]:
            lines.append(
                f"{share['broken']} of {share['walkers']} walkers{what} broke a bond"
            )
        allowed = limit.uncertain[place]
        if not share["above"] <= allowed:
            lines.append(
                f"{100 * share['above']:.1f} % of the frames"
                f"{what or ' of the dynamics'} are uncertain, more than "
                f"{100 * allowed:.0f} %"
            )
    return found


def passed(settings: Settings, test: dict[str, Any]) -> bool:
    """Tell whether nothing is wrong at any temperature."""
    return not any(shortcomings(settings, test).values())


def judge(
    settings: Settings, test: dict[str, Any], checks: dict[str, Any], ending: str
) -> Verdict:
    """Return the verdict of a campaign.

    Args:
        settings: Settings of the campaign.
        test: The event "tested" of the last round.
        checks: What the checks found; see :mod:`~openmm_se3.active_learning.checks`.
        ending: Why the campaign ended.
    """
    reasons = shortcomings(settings, test)
    problems = list(checks.get("problems", []))
    temperatures = sorted(reasons)
    trusted: list[float] = []
    for temperature in temperatures:
        if reasons[temperature] or problems:
            break  # what fails when it is cool cannot be trusted when it is hot
        trusted.append(temperature)
    notes = list(checks.get("notes", []))
    if ending != "converged":
        notes.append(f"the campaign ended because its budget of {ending} was used up")
    return Verdict(
        temperatures,
        trusted,
        {t: lines for t, lines in reasons.items() if lines},
        problems,
        notes,
        ending,
    )

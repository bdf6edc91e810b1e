"""The report of a validation as a page for a browser."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from openmm_se3.data.level_of_theory import level_name
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.plot_style import BLUE, GRAY, ORANGE, STYLE
from openmm_se3.report.page import (
    Page,
    caption,
    figure,
    paragraph,
    repeat,
    table,
    viewer,
)
from openmm_se3.validation.check import Check
from openmm_se3.validation.report import Report, number, versions
from openmm_se3.version import __version__

SMALLEST = 1e-4  # share of a limit that is drawn; what is below is at the edge
ROW_INCHES = 0.24


def write_page(report: Report, path: Path, command: str) -> None:
    """Write the page of a validation.

    Args:
        report: The checks.
        path: The file.
        command: The command that repeats the validation.
    """
    page = Page(f"Validation of {report.model}", f"openmm-se3 {__version__}")
    failed = [check for check in report.checks if check.status == "fail"]
    reasons = [
        f"{check.group}, {check.name}: {number(check)}, limit {check.limit}"
        for check in failed
    ]
    headline, _, remark = report.summary().partition(". ")
    lines = [*reasons, *([remark] if remark else [])]
    page.banner(headline, lines, "good" if report.passed else "bad")
    page.section("The model", _structure(report), _facts(report), columns=True)
    page.section("Measured, as a share of the limit", *_shares(report.checks))
    for group in dict.fromkeys(check.group for check in report.checks):
        rows = [
            [check.name, number(check), check.limit, check.status, check.note]
            for check in report.checks
            if check.group == group
        ]
        header = ["check", "measured", "limit", "result", "note"]
        page.section(group[:1].upper() + group[1:], table(header, rows))
    page.section("Repeat it", *repeat(command, versions()))
    page.write(path)


def _structure(report: Report) -> str:
    """Return the structure that the model file keeps."""
    reference = report.metadata.get("reference")
    if not reference:
        return ""
    positions = np.array(reference["positions"], dtype=float)
    symbols = list(reference["symbols"])
    bonds = bonds_by_distance(symbols, positions, None)
    shown = viewer(symbols, bonds, positions[None], ["reference structure"])
    return shown + caption("Drag to turn, wheel to zoom.")


def _facts(report: Report) -> str:
    about = report.metadata
    model = about["model"]
    rows = [
        ["name", about["name"]],
        ["level of theory", level_name(about["level_of_theory"])],
        ["elements", ", ".join(model["elements"])],
        ["cutoff", f"{model['cutoff']:g} Å"],
        ["layers, channels", f"{model['layers']}, {model['channels']}"],
    ]
    if "members" in about:
        rows.append(["committee", f"{about['members']} networks"])
    rows.append(["weights, SHA-256", f"{about['weights_sha256'][:16]}..."])
    return table(["", ""], rows)


def _shares(checks: tuple[Check, ...]) -> list[str]:
    """Draw, of each group, the number that comes nearest to its upper limit."""
    worst: dict[str, tuple[float, Check]] = {}
    for check in checks:
        if check.high and check.measured is not None and np.isfinite(check.measured):
            share_of_limit = abs(check.measured) / check.high
            if share_of_limit >= worst.get(check.group, (0.0, check))[0]:
                worst[check.group] = share_of_limit, check
    if not worst:
        return [paragraph("No number has a limit.")]
    limited = [check for _, check in worst.values()]
    share = np.array([value for value, _ in worst.values()])
    names = [f"{check.group}: {check.name}" for check in limited]
    place = np.arange(len(limited))[::-1]
    colors = [ORANGE if check.status == "fail" else BLUE for check in limited]
    with matplotlib.rc_context(STYLE):
        drawn = Figure(
            figsize=(9.4, 0.9 + ROW_INCHES * len(limited)), layout="constrained"
        )
        axes = drawn.subplots()
        axes.hlines(place, SMALLEST, share.clip(SMALLEST), color=GRAY, linewidth=0.6)
        axes.scatter(share.clip(SMALLEST), place, s=22, color=colors, zorder=3)
        axes.axvline(1.0, color="black", linewidth=0.9, linestyle="--")
        axes.set(
            xscale="log",
            xlim=(SMALLEST, 2.0 * max(1.0, float(share.max()))),
            ylim=(-0.7, len(limited) - 0.3),
            xlabel="measured over limit",
        )
        axes.set_yticks(place, names)
        axes.tick_params(axis="y", length=0)
        drawing = figure(drawn, "The worst of each group.  Dashed: the limit.")
    return [drawing]

"""``report.html``: what a campaign found, from the files of its folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from openmm_se3.active_learning import figures
from openmm_se3.active_learning.campaign import MODEL, Campaign
from openmm_se3.active_learning.checks import CHECKS
from openmm_se3.active_learning.fresh_frames import INTERVAL, Fresh
from openmm_se3.active_learning.reaction.compare import REACTION
from openmm_se3.active_learning.reaction.page import molecule_viewer, reaction_parts
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.verdict import group_name, limits
from openmm_se3.active_learning.walkers import FRAME_SPACING, TIME_STEP, Explored
from openmm_se3.data.dataset import formula
from openmm_se3.elements import symbols_of
from openmm_se3.report.page import (
    REPORT,
    Page,
    caption,
    code,
    figure,
    paragraph,
    repeat,
    table,
)
from openmm_se3.units import FS_TO_PS
from openmm_se3.version import __version__

MOST_FRAMES = 200  # of the trajectory that can be played
WORST = 8
STEPS_OF = {
    "labeled": "labels",
    "trained": "training",
    "explored": "exploring",
    "tested": "tests",
    "checked": "checks",
    "path": "path and free energy",
    "free energy": "path and free energy",
    "model": "model",
}


def write_report(
    campaign: Campaign, settings: Settings, reference: str, systems: Sequence[System]
) -> None:
    """Write the report of a campaign that has a verdict."""
    verdict = campaign.find("verdict")
    assert verdict is not None
    number = int(verdict["round"])
    test = campaign.find("tested", round=number)
    assert test is not None
    folder = campaign.round_folder(number)
    fresh = Fresh.load(folder / "fresh.npz")
    explored = Explored.load(folder / "explored.npz")
    checks = json.loads((folder / CHECKS).read_text())
    names = ", ".join(system.name for system in systems)
    page = Page(f"Force field for {names}", f"{reference} · openmm-se3 {__version__}")
    _verdict(page, verdict)
    page.section(
        "The molecule",
        _movie(systems, explored, settings.temperature),
        _facts(campaign, settings, reference, systems, test),
        columns=True,
    )
    tests = campaign.all("tested")
    page.section(
        "Learning curve",
        figure(
            figures.learning_curve(tests, limits(settings)),
            "Errors on frames of the committee's own dynamics that it was not trained "
            f"on, with {INTERVAL:.0f} % intervals; dotted: the limits.",
        ),
    )
    page.section("Errors on fresh frames", *_errors(fresh, test))
    if settings.bias:
        found = json.loads((folder / REACTION).read_text())
        shown, below = reaction_parts(found, systems[0], settings.temperature)
        page.section("The reaction", *shown, columns=True)
        page.section("Variables and transfers", *below, columns=True)
    page.section("Torsion scans", *_torsions(checks))
    page.section(
        "Vibrations and energy conservation", *_vibrations(checks), columns=True
    )
    page.section(
        "Stability and uncertainty", *_stability(fresh, test, explored), columns=True
    )
    page.section("Worst fresh frames", *_worst(fresh, systems), columns=True)
    page.section("What was spent", _spent(campaign))
    page.section("Use it", *_usage(campaign, systems))
    page.section("Repeat it", *_repeat(campaign, settings))
    page.write(campaign.folder / REPORT)


def _verdict(page: Page, verdict: dict[str, Any]) -> None:
    lines = list(verdict["problems"])
    for heat, reasons in verdict["reasons"].items():
        lines += [f"{heat} K: {reason}" for reason in reasons]
    lines += verdict["notes"]
    trusted, tested = verdict["trusted"], verdict["temperatures"]
    kind = "bad" if not trusted else "good" if trusted == tested else "warn"
    page.banner(verdict["headline"], lines, kind)


def _movie(systems: Sequence[System], explored: Explored, temperature: float) -> str:
    """Return the viewer with the longest walk of the first system at T."""
    if not (explored.system == 0).any():
        return paragraph("Every walker broke at once.")
    mine = (explored.system == 0) & (explored.temperature == temperature)
    mine &= ~explored.biased
    if not mine.any():
        mine = explored.system == 0
    walkers, counts = np.unique(explored.walker[mine], return_counts=True)
    longest = walkers[counts.argmax()]
    rows = np.flatnonzero(explored.walker == longest)[:MOST_FRAMES]
    frames = np.stack([explored.positions[int(i)] for i in rows])
    heat = explored.temperature[rows[0]]
    labels = [
        f"{step * TIME_STEP * FS_TO_PS:.2f} ps, {heat:.0f} K"
        for step in explored.step[rows]
    ]
    shown = molecule_viewer(systems[0], frames, labels)
    return shown + caption("Dynamics of the committee.  Drag to turn, wheel to zoom.")


def _facts(
    campaign: Campaign,
    settings: Settings,
    reference: str,
    systems: Sequence[System],
    test: dict[str, Any],
) -> str:
    rows = [
        [system.name, f"{formula(system.numbers)}, {len(system.numbers)} atoms"]
        for system in systems
    ]
    rows += [
        ["reference", reference],
        ["started from", settings.start],
        ["labels", f"{campaign.labels_spent()} of {settings.labels}"],
        ["time", _time(campaign.seconds_spent())],
        ["committee", f"{settings.members} networks"],
        ["target", f"{settings.target:g} kcal/mol/A at {settings.temperature:g} K"],
    ]
    for row in test["errors"]:
        rows.append(
            [
                f"force MAE at {group_name(row)}",
                f"{row['force_mae']:.2f} ({row['force_mae_low']:.2f} to "
                f"{row['force_mae_high']:.2f}) kcal/mol/A",
            ]
        )
    return table(["", ""], rows)


def _errors(fresh: Fresh, test: dict[str, Any]) -> list[str]:
    by_heat = [
        [
            group_name(row),
            row["frames"],
            f"{row['force_mae']:.3f}",
            f"{row['force_rmse']:.3f}",
            f"{row['force_mae_worst']:.3f}",
            f"{row['energy_mae_centered']:.3f}",
        ]
        for row in test["errors"]
    ]
    errors = np.abs(fresh.errors).mean(axis=1)
    by_element = [
        [
            symbols_of([z])[0],
            int((fresh.numbers == z).sum()),
            f"{errors[fresh.numbers == z].mean():.3f}",
            f"{errors[fresh.numbers == z].max():.3f}",
        ]
        for z in np.unique(fresh.numbers)
    ]
    return [
        figure(figures.parity(fresh)),
        table(
            ["", "frames", "force MAE", "force RMSE", "worst frame", "energy MAE"],
            by_heat,
        ),
        table(["element", "atoms", "force MAE", "worst atom"], by_element),
        caption(
            "kcal/mol and kcal/mol/A; energies about their mean at each temperature; "
            "the worst frame by its mean absolute force error."
        ),
    ]


def _torsions(checks: dict[str, Any]) -> list[str]:
    parts = []
    scans = checks.get("torsions", [])
    for start in range(0, len(scans), 2):
        pair = scans[start : start + 2]
        told = "; ".join(
            f"{s['name']}: MAE {s['mae']:.2f}, height of the curve "
            f"{s['barrier_error']:+.2f} kcal/mol"
            for s in pair
            if "mae" in s
        )
        text = "Structures are relaxed by the committee.  " + (
            told or "Not compared with the reference."
        )
        parts.append(figure(figures.torsion_plot(pair), text))
    return parts


def _vibrations(checks: dict[str, Any]) -> list[str]:
    parts = []
    found = checks.get("frequencies", {})
    if "reference" in found:
        difference = np.abs(np.array(found["model"]) - np.array(found["reference"]))
        parts.append(
            figure(
                figures.frequency_plot(found),
                "Harmonic frequencies at the committee's minimum: mean absolute "
                f"difference {difference.mean():.1f}, largest {difference.max():.1f} "
                "1/cm.",
            )
        )
    elif "model" in found:
        listed = ", ".join(f"{value:.0f}" for value in found["model"])
        parts.append(
            paragraph(f"Harmonic frequencies of the committee, 1/cm: {listed}.")
        )
    nve = checks["nve"]
    if nve["drift"] is not None:
        parts.append(
            figure(
                figures.energy_plot(nve),
                f"{nve['walkers']} runs of {nve['picoseconds']:g} ps without a "
                f"thermostat: drift {nve['drift']:.3f} ± {nve['drift_error']:.3f} "
                "kT/ns per degree of freedom.",
            )
        )
    return parts


def _stability(fresh: Fresh, test: dict[str, Any], explored: Explored) -> list[str]:
    rows = []
    for share in test["shares"]:
        seen = explored.temperature == share["temperature"]
        seen &= explored.biased == bool(share.get("biased"))
        length = seen.sum() * FRAME_SPACING * TIME_STEP * FS_TO_PS
        rows.append(
            [
                group_name(share).replace(" ", "\u00a0"),
                share["walkers"],
                f"{length:.1f}",
                share["stopped"],
                share["broken"],
                f"{100 * share['above']:.1f} %",
                f"{share['median_deviation']:.2f}",
            ]
        )
    factor = float(test["calibration"])
    header = ["", "walkers", "ps", "stopped", "broken", "uncertain", "median"]
    explained = (
        "Dynamics of the last round: time simulated, walkers that stopped at "
        "a large deviation and that broke a bond, share of uncertain frames, median of "
        "the calibrated deviation (kcal/mol/A)."
    )
    return [
        table(header, rows) + caption(explained),
        figure(
            figures.calibration_plot(fresh, factor),
            f"Deviations of the members are multiplied by {factor:.2f}, the ratio of "
            "the errors on fresh frames to the deviations.",
        ),
    ]


def _worst(fresh: Fresh, systems: Sequence[System]) -> list[str]:
    by_frame = fresh.by_frame()
    order = np.argsort(-by_frame)
    sizes = np.bincount(fresh.frame)
    mine = [
        int(i)
        for i in order
        if np.array_equal(fresh.numbers[fresh.frame == i], systems[0].numbers)
    ][:WORST]
    if not mine:
        return []
    frames = np.stack([fresh.positions[fresh.frame == i] for i in mine])
    labels = [f"{by_frame[i]:.2f} kcal/mol/A" for i in mine]
    rows = []
    for rank, i in enumerate(order[:WORST], start=1):
        errors = np.linalg.norm(fresh.errors[fresh.frame == i], axis=1)
        atom = int(errors.argmax())
        symbol = symbols_of(fresh.numbers[fresh.frame == i])[atom]
        rows.append(
            [
                rank,
                f"{fresh.temperature[i]:.0f} K",
                f"{by_frame[i]:.2f}",
                f"{symbol}{atom + 1}: {errors[atom]:.2f}",
            ]
        )
    assert sizes.all()
    return [
        molecule_viewer(systems[0], frames, labels),
        table(["", "", "force MAE", "worst atom, kcal/mol/A"], rows),
    ]


def _spent(campaign: Campaign) -> str:
    seconds: dict[str, float] = defaultdict(float)
    for event in campaign.events:
        if "seconds" in event and event["event"] in STEPS_OF:
            seconds[STEPS_OF[event["event"]]] += event["seconds"]
    labels = campaign.labels_spent()
    checks = sum(event.get("check_labels", 0) for event in campaign.events)
    failed = sum(event.get("failed", 0) for event in campaign.events)
    rows = [[name, _time(value)] for name, value in seconds.items()]
    rows.append(["all", _time(campaign.seconds_spent())])
    rows.append(["labels of training and tests", f"{labels} ({failed} failed)"])
    rows.append(["labels of checks", str(checks)])
    return table(["", ""], rows)


def _usage(campaign: Campaign, systems: Sequence[System]) -> list[str]:
    name = "molecule.pdb" if len(systems) == 1 else "molecule-1.pdb"
    folder = campaign.folder.name
    reactive = " --reactive" if systems[0].reaction else ""
    return [
        code(
            f"from openmm import app\nfrom openmm_se3 import SE3Potential\n\n"
            f'pdb = app.PDBFile("{folder}/{name}")\n'
            f'system = SE3Potential("{folder}/{MODEL}").createSystem(pdb.topology)'
        ),
        code(
            f"openmm-se3 run {folder}/{name} --model {folder}/{MODEL}{reactive} "
            "--out run\n"
            f"openmm-se3 learn --resume {folder} --labels N    # more labels"
        ),
    ]


def _repeat(campaign: Campaign, settings: Settings) -> list[str]:
    started = campaign.find("started") or {}
    versions = started.get("versions", {})
    command = started.get("command") or "openmm_se3.learn(...)"
    note = "All settings: campaign.json."
    return repeat(f"{command}    # seed {settings.seed}", versions, note)


def _time(seconds: float) -> str:
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    minutes = seconds / 60.0
    return f"{minutes:.1f} min" if minutes < 90.0 else f"{minutes / 60.0:.1f} h"

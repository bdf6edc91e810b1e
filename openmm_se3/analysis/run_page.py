"""``report.html`` of a run that was not analyzed yet: its end, energies and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.log_panels import (
    has_uncertainty,
    temperature,
    total_energy,
    uncertainty,
)
from openmm_se3.analysis.page import analyze_command, movie, panel, seed_of
from openmm_se3.analysis.read import read_log, read_thinned
from openmm_se3.data.level_of_theory import level_name
from openmm_se3.report.page import Page, paragraph, repeat, table
from openmm_se3.simulation import folder as names
from openmm_se3.units import FS_TO_PS
from openmm_se3.version import __version__

KINDS = {"completed": "good", "stopped": "bad", "failed": "bad"}


def write_run_page(folder: str | Path) -> Path:
    """Write the page of a run from its ``run.json``, its log and some of its frames.

    Args:
        folder: Folder of a run that has ended.

    Returns:
        The file.
    """
    folder = Path(folder)
    run = names.read_facts(folder / names.RUN)
    trajectory, times = read_thinned(folder, run)
    page = Page(
        f"Molecular dynamics of {run.get('structure') or folder.resolve().name}",
        f"model {run.get('model', 'unknown')} · openmm-se3 {__version__}",
    )
    _banner(page, run)
    page.section(
        "Trajectory",
        movie(trajectory, times, run.get("steps", 0) // run["frame_interval"]),
        table(["", ""], _rows(run)),
        columns=True,
    )
    page.section("Figures", *_panels(folder, run), columns=True)
    page.section(
        "Measure it",
        paragraph(
            "openmm-se3 analyze measures stability, geometry, energy drift and "
            "vibrations, and replaces this page."
        ),
    )
    commands = [run.get("command", ""), analyze_command(folder)]
    text = "\n".join(filter(None, commands))
    page.section("Repeat it", *repeat(text, run["versions"], seed_of(run)))
    page.write(folder / names.PAGE)
    return folder / names.PAGE


def _banner(page: Page, run: dict[str, Any]) -> None:
    status, time = run["status"], run.get("time_ps", 0.0)
    asked = run["options"]["steps"] * run["options"]["dt_fs"] * FS_TO_PS
    length = f"{time:g} ps" if status == "completed" else f"{time:g} of {asked:g} ps"
    lines = [" ".join(run["reason"].split())] if run["reason"] else []
    found = run.get("uncertainty")
    kind = KINDS.get(status, "warn")
    if found and found["above_threshold"]:
        kind = "warn" if kind == "good" else kind
        lines.append(
            f"{found['above_threshold']} of {found['evaluated']} frames in which the "
            "committee was evaluated are above its threshold of "
            f"{found['threshold']:.3g} eV/Å: the model may be wrong there"
        )
    page.banner(f"{status.upper()}: {length}", lines, kind)


def _rows(run: dict[str, Any]) -> list[tuple[str, str]]:
    options = run["options"]
    length = options["steps"] * options["dt_fs"] * FS_TO_PS
    ensemble = options["ensemble"].upper()
    if options["ensemble"] != "nve":
        ensemble += f", {options['thermostat'].title()} thermostat"
    if options["ensemble"] == "npt":
        ensemble += f", {options['pressure_bar']:g} bar"
    table = [
        ("Atoms", f"{len(run['masses']):,}"),
        ("Length", f"{length:g} ps, {options['dt_fs']:g} fs steps"),
        ("Ensemble", f"{ensemble}, {options['temperature']:g} K"),
        ("Equilibration", f"{options['equilibration_ps']:g} ps"),
    ]
    if run.get("level_of_theory"):
        table.append(("Trained on", level_name(run["level_of_theory"])))
    if run.get("members"):
        table.append(("Committee", f"{run['members']} networks"))
    table.append(("Platform", f"{run['platform']}, {options['precision']} precision"))
    if run.get("backend"):
        table.append(("Backend", run["backend"]))
    if run.get("seconds"):
        table.append(("Speed", f"{run['ns_per_day']:.3g} ns/day"))
    return table


def _panels(folder: Path, run: dict[str, Any]) -> list[str]:
    if not (folder / names.LOG).is_file():
        return []
    log, options = read_log(folder / names.LOG), run["options"]
    thermal = energies(
        log,
        options["temperature"],
        run["degrees_of_freedom"],
        options["ensemble"] == "nve",
    )
    if thermal is None:
        return []
    panels = [
        panel(lambda axis: total_energy(axis, thermal, log)),
        panel(lambda axis: temperature(axis, thermal, log, options)),
    ]
    if has_uncertainty(log):
        found = run.get("uncertainty", {})
        panels.append(panel(lambda axis: uncertainty(axis, log, found)))
    return panels

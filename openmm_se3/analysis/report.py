"""The result of an analysis as a table, a JSON file and a short report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openmm_se3.analysis import geometry as hydrogen_bonds
from openmm_se3.analysis import stability
from openmm_se3.analysis.analysis import Analysis
from openmm_se3.analysis.geometry import Geometry, conformations
from openmm_se3.analysis.liquid import Liquid
from openmm_se3.data.level_of_theory import level_name
from openmm_se3.files import atomic_write
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.drift import Drift, block_error
from openmm_se3.units import FS_TO_PS

FORMULAS_SHOWN = 4  # kinds of molecules named
TORSION_NOTE = (
    "Torsions: about each bond the one of its heaviest neighbors; syn is below 30 "
    "degrees, gauche 30 to 90, anticlinal 90 to 150, trans beyond."
)
SPECTRUM_NOTE = (
    "Vibrations: from the velocity autocorrelation, inside each molecule (Eckart "
    "frame).  Verlet dynamics show a mode too high; the wavenumbers are corrected by "
    "w = (2/dt) sin(w_MD dt/2)."
)
DRIFT_NOTE = (
    "Drift: slope of a regression on 20 block means, with its standard error, in units "
    "of kT at the temperature asked for.  The shadow energy is what Verlet dynamics "
    "conserve better than the total energy; it drifts alike and shows smaller drifts."
)
SPREAD_NOTE = (
    "± of lengths, angles and distances is a standard deviation over the frames, ± of "
    "temperature and drift a standard error."
)
EQUILIBRATED_NOTE = (
    "Temperature: NVE keeps the energy of the last moment of the equilibration, which "
    "scatters widely where there are few atoms: one water molecule asked for 300 K "
    "runs between 160 and 440 K in two of three runs, and further off in the third."
)
PRESSURE_NOTE = (
    "Density: models are trained on energies and forces, not on pressures, so that it "
    "is the first thing to check; ± is a standard error."
)
MINIMUM_NOTE = (
    "Temperature: without equilibration the run starts at the minimum, with velocities "
    "of the temperature asked for; vibrations then turn half of their kinetic energy "
    "into potential energy, so that one water molecule asked for 300 K runs at about "
    "225 K."
)


def rows(analysis: Analysis) -> list[tuple[str, str]]:
    """Return what was found as rows of name and value."""
    run, thermal = analysis.recording.run, analysis.energies
    table: list[tuple[str, str]] = []
    if run:
        options = run["options"]
        if run.get("model"):
            level = run.get("level_of_theory")
            theory = f", trained on {level_name(level)}" if level else ""
            table.append(("Model", f"{run['model']}{theory}"))
        table += [
            (
                "System",
                f"{contents(analysis)}, {options['ensemble'].upper()}, "
                f"{options['dt_fs']:g} fs steps",
            ),
            ("Platform", f"{run['platform']}, {options['precision']} precision"),
        ]
        if run.get("backend"):
            table.append(("Backend", run["backend"]))
        if run.get("seconds") and run.get("steps"):
            per_step = 1000.0 * run["seconds"] / run["steps"]
            speed = f"{per_step:.2f} ms a step, {run['ns_per_day']:.1f} ns/day"
            table.append(("Speed", speed))
        if analysis.unfinished and run["reason"]:
            why = " ".join(run["reason"].split())
            table.append(("Ended early", f"{analysis.unfinished}: {why}"))
    if analysis.geometry is not None:
        table += _geometry_rows(analysis.geometry)
    if analysis.cluster is not None:
        nearest, count = analysis.cluster.nearest, analysis.cluster.bonds
        table += [
            ("Nearest O-O", f"{nearest.mean():.3f} ± {nearest.std():.3f} Å"),
            ("Hydrogen bonds", f"{count.mean():.2f} on average, at most {count.max()}"),
        ]
    if analysis.liquid is not None:
        table.append(("Density", f"{_density(analysis.liquid)} g/cm³"))
    if thermal is not None:
        error = ""
        if thermal.temperature_error is not None:
            error = f" ± {thermal.temperature_error:.1f}"
        table.append(
            (
                "Temperature",
                f"{thermal.temperature:.1f}{error} K "
                f"({thermal.temperature_asked:g} K asked, "
                f"{thermal.degrees_of_freedom} degrees of freedom)",
            )
        )
        for name, drift in (
            ("Drift, total energy", thermal.drift),
            ("Drift, shadow energy", thermal.shadow_drift),
        ):
            if drift is not None:
                slope, slope_error = drift.per_kt(
                    thermal.temperature_asked, thermal.degrees_of_freedom
                )
                table.append((name, f"{slope:+.5f} ± {slope_error:.5f} kT/ns/dof"))
    if analysis.spectrum is not None and len(analysis.spectrum.peaks):
        peaks = ", ".join(f"{peak:.0f}" for peak in analysis.spectrum.peaks)
        resolution = f"resolution {analysis.spectrum.resolution:.1f} cm^-1"
        table.append(("Vibrations", f"{peaks} cm^-1 ({resolution})"))
    return table


def _geometry_rows(geometry: Geometry) -> list[tuple[str, str]]:
    table = []
    for name, values in geometry.lengths.items():
        span = f"{values.min():.3f} to {values.max():.3f}"
        text = f"{values.mean():.4f} ± {values.std():.4f} Å ({span})"
        table.append((f"{name} length", text))
    for name, values in geometry.angles.items():
        text = f"{values.mean():.2f} ± {values.std():.2f} degrees"
        table.append((f"{name} angle", text))
    for name, values in geometry.torsions.items():
        shares = conformations(values).items()
        text = ", ".join(f"{kind} {100.0 * share:.0f} %" for kind, share in shares)
        table.append((f"{name} torsion", text))
    return table


def _density(liquid: Liquid) -> str:
    values = liquid.density
    text = f"{values.mean():.3f}"
    if not liquid.changes:
        return f"{text} (constant)"
    error = block_error(values)
    return text if error is None else f"{text} ± {error:.3f}"


def contents(analysis: Analysis) -> str:
    """Return what was simulated: molecules by formula, and the number of atoms."""
    atoms = f"{analysis.recording.trajectory.n_atoms} atoms"
    formulas = analysis.formulas
    if analysis.is_water:
        (count,) = formulas.values()
        plural = "s" if count > 1 else ""
        return f"{count} water molecule{plural}, {atoms}"
    shown = sorted(formulas.items(), key=lambda item: -item[1])[:FORMULAS_SHOWN]
    names = [f"{count} {name}" for name, count in shown]
    if len(formulas) > FORMULAS_SHOWN:
        names.append("others")
    return f"{', '.join(names)}; {atoms}"


def _reading_notes(analysis: Analysis) -> list[str]:
    """Return what a reader of the rows must know."""
    run, thermal = analysis.recording.run, analysis.energies
    notes = []
    if analysis.geometry is not None or thermal is not None:
        notes.append(SPREAD_NOTE)
    if analysis.geometry is not None and analysis.geometry.torsions:
        notes.append(TORSION_NOTE)
    if thermal is not None and run["options"]["ensemble"] == "nve":
        equilibrated = run["options"]["equilibration_ps"] > 0.0
        notes.append(EQUILIBRATED_NOTE if equilibrated else MINIMUM_NOTE)
    if analysis.liquid is not None and run.get("options", {}).get("ensemble") == "npt":
        notes.append(PRESSURE_NOTE)
    return notes


def notes(analysis: Analysis) -> list[str]:
    """Return what a reader of all that was found must know."""
    found = [stability.CRITERION, *_reading_notes(analysis)]
    if analysis.energies is not None and analysis.energies.drift is not None:
        found.append(DRIFT_NOTE)
    if analysis.spectrum is not None:
        found.append(SPECTRUM_NOTE)
    if analysis.cluster is not None:
        found.append(hydrogen_bonds.CRITERION)
    return found


def verdict(analysis: Analysis) -> str:
    """Return the verdict in one line."""
    judged = analysis.stability
    lasted = "1 frame" if judged.frames == 1 else f"{judged.frames} frames"
    if judged.lasted_ps is not None:
        lasted = f"{judged.lasted_ps:.4g} ps"
    if judged.stable:
        if analysis.unfinished:
            options = analysis.recording.run["options"]
            asked = options["steps"] * options["dt_fs"] * FS_TO_PS
            lasted = f"{judged.lasted_ps:.4g} of {asked:g} ps ({analysis.unfinished})"
        return (
            f"STABLE for {lasted}; no bond further than {judged.worst:.3f} Å from rest"
        )
    return f"UNSTABLE after {lasted}: {judged.reason}"


def print_report(analysis: Analysis, console: Console) -> None:
    """Print the table and the verdict."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in rows(analysis):
        table.add_row(name, Text(value))
    console.print(table)
    for sentence in (*_reading_notes(analysis), *analysis.missing):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    style = "bold red"
    if analysis.stability.stable:
        style = "bold yellow" if analysis.unfinished else "bold green"
    text = verdict(analysis)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def summary(analysis: Analysis) -> dict[str, Any]:
    """Return what was found as plain values for a JSON file."""
    judged, thermal = analysis.stability, analysis.energies
    result: dict[str, Any] = {
        "verdict": "STABLE" if judged.stable else "UNSTABLE",
        "reason": judged.reason,
        "criterion": stability.CRITERION,
        "lasted_ps": judged.lasted_ps,
        "good_frames": judged.frames,
        "largest_bond_deviation_angstrom": judged.worst,
        "molecules": sum(analysis.formulas.values()),
    }
    if analysis.geometry is not None:
        lengths, angles = analysis.geometry.lengths, analysis.geometry.angles
        if analysis.is_water:  # the names that earlier versions gave them
            result["oh_length_angstrom"] = _statistics(lengths["O-H"])
            result["hoh_angle_degrees"] = _statistics(angles["H-O-H"])
        result["lengths_angstrom"] = {k: _statistics(v) for k, v in lengths.items()}
        result["angles_degrees"] = {k: _statistics(v) for k, v in angles.items()}
        result["torsions"] = {
            k: conformations(v) for k, v in analysis.geometry.torsions.items()
        }
    if analysis.cluster is not None:
        result["nearest_oo_angstrom"] = _statistics(analysis.cluster.nearest)
        result["hydrogen_bonds"] = _statistics(analysis.cluster.bonds)
    if analysis.liquid is not None:
        liquid = analysis.liquid
        result["density_g_per_cm3"] = _statistics(liquid.density)
        result["density_error_g_per_cm3"] = block_error(liquid.density)
        result["pair_distribution_r_angstrom"] = liquid.r.tolist()
        result["pair_distributions"] = {k: g.tolist() for k, g in liquid.g.items()}
    if thermal is not None:
        result["temperature_k"] = thermal.temperature
        result["temperature_error_k"] = thermal.temperature_error
        result["temperature_asked_k"] = thermal.temperature_asked
        result["degrees_of_freedom"] = thermal.degrees_of_freedom
        result["total_energy_std_kj_per_mol"] = thermal.fluctuation
        for name, drift in (
            ("drift_kt_per_ns_per_dof", thermal.drift),
            ("shadow_drift_kt_per_ns_per_dof", thermal.shadow_drift),
        ):
            result[name] = _drift(
                drift, thermal.temperature_asked, thermal.degrees_of_freedom
            )
    if analysis.spectrum is not None:
        result["peaks_per_cm"] = analysis.spectrum.peaks.tolist()
        result["spectral_resolution_per_cm"] = analysis.spectrum.resolution
    result["missing"] = list(analysis.missing)
    result["run"] = analysis.recording.run
    return result


def _statistics(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _drift(
    drift: Drift | None, temperature: float, dof: int
) -> dict[str, float] | None:
    if drift is None:
        return None
    slope, error = drift.per_kt(temperature, dof)
    return {"slope": slope, "error": error}


def write_markdown(analysis: Analysis, path: Path) -> None:
    """Write the short report, which shows the figure beside it."""
    what = "water trajectory" if analysis.is_water else "trajectory"
    lines = [f"# Analysis of a {what}", "", f"**{verdict(analysis)}**", ""]
    lines += [f"![figure]({names.FIGURE})", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows(analysis)]
    lines += ["", *(f"- {note}" for note in notes(analysis))]
    if analysis.missing:
        lines += ["", "What this cannot give:", ""]
        lines += [f"- {sentence}" for sentence in analysis.missing]
    if analysis.recording.run:
        run = analysis.recording.run
        versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
        lines += ["", f"Seed {run['options']['seed']}; {versions}."]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

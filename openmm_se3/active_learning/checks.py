"""Checks of the finished committee: torsion scans, frequencies, energy conservation.

Torsion scans are relaxed by the committee; the reference computes the energies of these
structures.  Frequencies of both are those at the committee's minimum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.minima import (
    Dihedral,
    displaced,
    frequencies,
    model_frequencies,
    relaxed,
)
from openmm_se3.active_learning.reference import Reference, TooManyFailuresError
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import TIME_STEP, Walker, conserve
from openmm_se3.data.frames import Frame, Structure
from openmm_se3.data.labeling.labelers import LabelerError
from openmm_se3.files import atomic_write
from openmm_se3.progress import Update, progress_bar
from openmm_se3.simulation.drift import energy_drift
from openmm_se3.units import EV_TO_KCAL_PER_MOL, EV_TO_KJ_PER_MOL, FS_TO_PS

CHECKS = "checks.json"
ANGLES = tuple(range(-180, 180, 30))
MOST_TORSIONS = 4
# Labels of checks may take this long, or this share of the time spent so far.
MOST_SECONDS, MOST_SHARE = 120.0, 0.35
NVE_STEPS, NVE_WALKERS = 4000, 4
MOST_DRIFT = 1.0  # kT/ns per degree of freedom
MOST_BARRIER_ERROR = 0.5  # kcal/mol
NOTED_FREQUENCY = 30.0  # 1/cm, of a difference to the reference

Show = Callable[[str], None]


def shown_on(console: Console) -> Show:
    """Return what says on a console which check is running."""

    def show(what: str) -> None:
        console.print(f"checks: {what}", highlight=False, soft_wrap=True)

    return show


def run_checks(
    campaign: Campaign,
    settings: Settings,
    reference: Reference,
    committee: Committee,
    systems: Sequence[System],
    number: int,
    console: Console,
) -> dict[str, Any]:
    """Return what the checks found; those of a round are made once.

    Keys: ``minima`` (positions, A, of each system), ``torsions``, ``frequencies``,
    ``nve``, ``problems`` (why the model cannot be trusted) and ``notes``.
    """
    path = campaign.round_folder(number) / CHECKS
    if campaign.find("checked", round=number) is not None:
        return dict(json.loads(path.read_text()))
    show = shown_on(console)

    def labeled(structures: Sequence[np.ndarray], name: str) -> list[Frame]:
        file = campaign.folder / "data" / f"checks-{name}-{number:02d}.h5"
        with progress_bar(f"labeling {file.stem}", console) as progress:
            return _labels(reference, systems[0], structures, file, found, progress)

    labels = 0
    found: dict[str, Any] = {"problems": [], "notes": []}
    with timed() as taken:
        minima = [_lowest(committee, system) for system in systems]
        found["minima"] = [minimum.tolist() for minimum in minima]
        found["nve"] = _nve(committee, systems, minima, settings, show)
        if settings.checks:
            molecule = systems[0]
            affordable = _affordable(campaign, reference)
            scans = _scans(committee, molecule, minima[0], show)
            structures = [s for scan in scans for s in scan["structures"]]
            if structures and affordable(len(structures)):
                _compare_scans(scans, labeled(structures, "torsions"))
                labels += len(structures)
            elif structures:
                found["notes"].append("torsion scans were not compared: too expensive")
            for scan in scans:
                scan.pop("structures")
            found["torsions"] = scans
            moved = displaced(minima[0])
            ours = model_frequencies(committee, molecule, minima[0])
            found["frequencies"] = {"model": np.round(ours, 2).tolist()}
            if affordable(len(moved)):
                show("frequencies of the reference")
                frames = labeled(list(moved), "hessian")
                if len(frames) == len(moved):
                    forces = np.stack([np.asarray(f.forces) for f in frames])
                    theirs = frequencies(forces, minima[0], molecule.numbers)
                    found["frequencies"]["reference"] = np.round(theirs, 2).tolist()
                labels += len(moved)
            else:
                found["notes"].append("frequencies were not compared: too expensive")
        _judge(found)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found))
    campaign.record("checked", round=number, check_labels=labels, **taken)
    return found


def _lowest(committee: Committee, system: System) -> np.ndarray:
    """Return the lowest of the minima that are near those of the force field."""
    results = [relaxed(committee, system, start) for start in system.minima[:4]]
    intact = [r for r in results if system.intact(r[0][None])[0]] or results
    return min(intact, key=lambda result: result[1])[0]


def _affordable(campaign: Campaign, reference: Reference) -> Callable[[int], bool]:
    started = campaign.find("started")
    each = 0.0 if started is None else float(started["label_seconds"])
    limit = max(MOST_SECONDS, MOST_SHARE * campaign.seconds_spent())
    return lambda count: count * each / reference.parallel <= limit


def _labels(
    reference: Reference,
    system: System,
    structures: Sequence[np.ndarray],
    path: Path,
    found: dict[str, Any],
    progress: Update,
) -> list[Frame]:
    """Return the labeled frames; that there are too few is a problem of the model."""
    listed = [
        Structure(
            numbers=system.numbers,
            positions=np.asarray(positions),
            trajectory=f"{path.stem}-{index:04d}",
            kind="check",
            charge=system.charge,
            spin=0,
        )
        for index, positions in enumerate(structures)
    ]
    try:
        dataset, _ = reference.label(listed, path, progress)
    except (TooManyFailuresError, LabelerError) as error:
        found["problems"].append(f"structures of the model are not molecules: {error}")
        return []
    return list(dataset.frames)


def _scans(
    committee: Committee, system: System, minimum: np.ndarray, show: Show
) -> list[dict[str, Any]]:
    """Return relaxed torsion scans of the committee."""
    from rdkit import Chem
    from rdkit.Chem import rdMolTransforms

    from openmm_se3.data.labeling.conformers import set_positions

    scans: list[dict[str, Any]] = []
    if system.mol is None:
        return scans
    for dihedral in system.dihedrals()[:MOST_TORSIONS]:
        show(f"torsion scan about {_name(system, dihedral)}")
        energies, structures = [], []
        for angle in ANGLES:
            mol = Chem.Mol(system.mol)
            set_positions(mol, minimum)
            rdMolTransforms.SetDihedralDeg(mol.GetConformer(), *dihedral, float(angle))
            start = mol.GetConformer().GetPositions()
            positions, energy = relaxed(committee, system, start, (dihedral, angle))
            energies.append(energy * EV_TO_KCAL_PER_MOL)
            structures.append(positions)
        scans.append(
            {
                "atoms": list(dihedral),
                "name": _name(system, dihedral),
                "angles": list(ANGLES),
                "model": _relative(np.array(energies)),
                "structures": structures,
            }
        )
    return scans


def _name(system: System, dihedral: Dihedral) -> str:
    symbols = system.symbols
    return "-".join(f"{symbols[i]}{i + 1}" for i in dihedral)


def _relative(energies: np.ndarray) -> list[float]:
    return np.round(energies - energies.mean(), 4).tolist()


def _compare_scans(scans: list[dict[str, Any]], frames: Sequence[Frame]) -> None:
    """Add the energies of the reference to scans, about their mean, kcal/mol."""
    energies = {frame.trajectory.rpartition("-")[2]: frame.energy for frame in frames}
    index = 0
    for scan in scans:
        names = [f"{index + k:04d}" for k in range(len(scan["angles"]))]
        index += len(names)
        if not all(name in energies for name in names):
            continue  # a structure that the reference could not label
        values = EV_TO_KCAL_PER_MOL * np.array([energies[name] for name in names])
        scan["reference"] = _relative(values)
        difference = np.array(scan["model"]) - np.array(scan["reference"])
        scan["mae"] = round(float(np.abs(difference).mean()), 4)
        heights = [np.ptp(scan[key]) for key in ("model", "reference")]
        scan["barrier_error"] = round(float(heights[0] - heights[1]), 4)


def _nve(
    committee: Committee,
    systems: Sequence[System],
    minima: Sequence[np.ndarray],
    settings: Settings,
    show: Show,
) -> dict[str, Any]:
    """Run dynamics without a thermostat and fit the drift of the energy."""
    show("energy conservation")
    steps = NVE_STEPS
    if settings.explore_steps is not None:
        steps = min(steps, 4 * settings.explore_steps)
    walkers = [Walker(0, settings.temperature, minima[0])] * NVE_WALKERS
    rng = np.random.default_rng([settings.seed, 6])
    times, energies = conserve(committee, systems, walkers, steps, rng)
    n_dof = 3 * len(systems[0].numbers) - 3
    slopes = []
    for energy in energies.T:
        fit = energy_drift(times * FS_TO_PS, energy * EV_TO_KJ_PER_MOL)
        if fit is not None:
            slopes.append(fit.per_kt(settings.temperature, n_dof)[0])
    return {
        "picoseconds": round(steps * TIME_STEP * FS_TO_PS, 3),
        "walkers": NVE_WALKERS,
        "drift": round(float(np.mean(slopes)), 4) if slopes else None,
        "drift_error": round(float(np.std(slopes) / np.sqrt(len(slopes))), 4)
        if slopes
        else None,
        "times": np.round(times * FS_TO_PS, 4).tolist(),
        "energies": np.round(
            (energies - energies[0]) * EV_TO_KCAL_PER_MOL, 5
        ).T.tolist(),
    }


def _judge(found: dict[str, Any]) -> None:
    """Add what is wrong, and what is to be known."""
    both = found.get("frequencies", {})
    if "reference" in both:
        difference = np.abs(np.array(both["model"]) - np.array(both["reference"]))
        if difference.max() > NOTED_FREQUENCY:
            found["notes"].append(
                f"harmonic frequencies differ from the reference by up to "
                f"{difference.max():.0f} 1/cm"
            )
    drift = found["nve"]["drift"]
    if drift is None:
        found["problems"].append("dynamics without a thermostat did not stay whole")
    elif abs(drift) > MOST_DRIFT + 2.0 * found["nve"]["drift_error"]:
        found["problems"].append(
            f"the energy drifts by {drift:.2f} kT/ns per degree of freedom"
        )
    for scan in found.get("torsions", []):
        error = scan.get("barrier_error")
        if error is not None and abs(error) > MOST_BARRIER_ERROR:
            found["problems"].append(
                f"the barrier of the torsion {scan['name']} is {error:+.2f} kcal/mol "
                "off"
            )

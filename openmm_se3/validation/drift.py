"""The drift of the energy in a short NVE run."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.read import read_log
from openmm_se3.force import SE3Potential
from openmm_se3.simulation.ensemble import degrees_of_freedom
from openmm_se3.simulation.folder import LOG
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.run import run_dynamics
from openmm_se3.units import FS_TO_PS
from openmm_se3.validation.check import Check
from openmm_se3.validation.contexts import make_system, topology_of
from openmm_se3.validation.structures import Structure

DRIFT_LIMIT = {"single": 0.1, "double": 0.01}  # kT/ns per degree of freedom
TEMPERATURE = 300.0  # K
EQUILIBRATION_PS = 1.0
DT = 0.5  # fs
LOG_FS = 5.0


def drift_limit(precision: str, error: float) -> float:
    """Return the largest drift that passes: the precision's, or four times the error.

    Twice the error would fail one run in twenty without any drift.
    """
    return max(DRIFT_LIMIT[precision], 4.0 * error)


def drift_check(
    potential: SE3Potential,
    structure: Structure,
    precision: str,
    picoseconds: float,
    seed: int,
) -> Check:
    """Measure the energy drift of an NVE run after equilibration.

    Args:
        potential: The model in the precision named.
        structure: Atoms; they are relaxed first.
        precision: "single" or "double".
        picoseconds: Length of the run, ps.
        seed: Seed of the equilibration.
    """
    system = make_system(potential, structure)
    degrees = degrees_of_freedom(system, "nve")
    name = f"{structure.name}, NVE, {precision}"
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(
            steps=round(picoseconds / (DT * FS_TO_PS)),
            dt_fs=DT,
            temperature=TEMPERATURE,
            equilibration_ps=EQUILIBRATION_PS,
            precision=precision,
            platform="Reference",
            seed=seed,
            out=Path(folder) / "run",
            frame_fs=LOG_FS,
            log_fs=LOG_FS,
        )
        record = run_dynamics(
            system, topology_of(structure), structure.positions, options
        )
        log = read_log(record.folder / LOG) if (record.folder / LOG).is_file() else {}
    found = energies(log, TEMPERATURE, degrees, conserved=True)
    if record.status != "completed" or found is None or found.shadow_drift is None:
        reason = record.reason or "too short for a slope"
        return Check("drift", name, math.nan, "kT/ns/dof", note=reason)
    slope, error = found.shadow_drift.per_kt(TEMPERATURE, degrees)
    return Check(
        "drift",
        name,
        abs(slope),
        "kT/ns/dof",
        high=drift_limit(precision, error),
        note=(
            f"error {error:.2g}; {picoseconds:g} ps at {found.temperature:.0f} K, "
            f"{degrees} degrees of freedom, {DT:g} fs"
        ),
    )

"""Long runs of water: is every trajectory stable, and does the energy stay?

    python benchmarks/water_stability.py --out water_stability --processes 2

Rows: one molecule at 300, 600 and 1000 K, 100 ps, three seeds; one molecule for 1 ns at
300 K; two molecules in collision (100 ps) and the hexamer (20 ps) near 250 K, three
seeds, with the ratio of energy fluctuations at 0.5 and 0.25 fs.  Each in float32 and
float64 (1 ns in float32 only).  A finished row is a JSON file in ``--out``; rows that
are there are not run again.  Exit code 1 if a row fails.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import openmm
import torch
from openmm import unit
from rich.console import Console
from rich.table import Table

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.read import read_folder
from openmm_se3.analysis.stability import Stability, judge
from openmm_se3.data.labeling.executors import LocalExecutor
from openmm_se3.files import atomic_write
from openmm_se3.force import SE3Potential
from openmm_se3.geometry import in_angstrom, random_rotation
from openmm_se3.model_file import load_model
from openmm_se3.simulation import RunOptions, run_dynamics, water_start, water_topology
from openmm_se3.simulation.minimum import BadMinimumError
from openmm_se3.units import (
    ANGSTROM_TO_NM,
    BOLTZMANN_KJ_PER_MOL,
    FS_TO_PS,
    NM_TO_ANGSTROM,
)
from openmm_se3.validation.contexts import as_function, make_context, masses_of
from openmm_se3.validation.dynamics import DRIFT_LIMIT, HALVING_RANGE
from openmm_se3.verlet import run_verlet

DT = 0.5  # fs
SEEDS = (1, 2, 3)
PRECISIONS = ("single", "double")
FRAME_FS, LONG_FRAME_FS = 10.0, 50.0
# A, added to the cutoff: O-O at the start, where nothing is felt, and of a soft wall
# that sends molecules back.
COLLISION_SEPARATION, COLLISION_WALL = 0.5, 0.7
MET = 4.0  # A, O-O: molecules that came no nearer have not collided
TRACK_STRENGTH = 500.0  # kJ/mol/nm^2; O and O stay within about 1 A of one line
# The runs compared start together again and again: those of a cluster soon part, and
# their fluctuations then differ by more than the step makes.
SEGMENTS, SEGMENT_PS = 40, 0.05


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of the table."""

    name: str
    molecules: int
    temperature: float
    picoseconds: float
    precision: str
    seed: int
    collision: bool = False
    halving: bool = False

    @property
    def frame_fs(self) -> float:
        """Time between saved frames, fs."""
        return LONG_FRAME_FS if self.picoseconds > 200.0 else FRAME_FS


def all_rows() -> list[Row]:
    """Return every row, long ones first so that processes end together."""
    rows = [Row("monomer-300K-1ns", 1, 300.0, 1000.0, "single", 1)]
    for precision in PRECISIONS:
        for seed in SEEDS:
            tail = f"{precision}-seed{seed}"
            rows += [
                Row(f"monomer-{t:.0f}K-{tail}", 1, t, 100.0, precision, seed)
                for t in (300.0, 600.0, 1000.0)
            ]
            # The ratio of fluctuations is one of the float64 model.
            halving = precision == "double"
            rows += [
                Row(f"hexamer-{tail}", 6, 250.0, 20.0, precision, seed, False, halving),
                # A pair meets about once in a picosecond, which gives a drift after
                # many.
                Row(
                    f"collision-{tail}", 2, 250.0, 100.0, precision, seed, True, halving
                ),
            ]
    return sorted(rows, key=lambda row: -row.picoseconds * row.molecules)


def separated_pair(seed: int, cutoff: float) -> np.ndarray:
    """Return two molecules [6, 3] (A) on the z axis, too far apart to feel each other.

    Their orientations are random, but no hydrogens reach into the cutoff: the minimizer
    would pull such a pair together before the run.
    """
    rng = np.random.default_rng(seed)
    while True:
        one, other = (
            in_angstrom(water_start(1)) @ random_rotation(rng).T for _ in range(2)
        )
        other = other + [0.0, 0.0, cutoff + COLLISION_SEPARATION]
        if np.linalg.norm(one[:, None] - other, axis=-1).min() > cutoff:
            return np.concatenate([one, other])


def add_track(system: openmm.System, cutoff: float) -> None:
    """Let the two molecules of a pair meet head-on, again and again.

    The line from O to O stays near the z axis, so that they cannot pass each other, and
    a soft wall sends them back when they are far apart.
    """
    track = openmm.CustomCompoundBondForce(
        2,
        "0.5*strength*(across + max(0, sqrt(across + (z1 - z2)^2) - reach)^2);"
        "across = (x1 - x2)^2 + (y1 - y2)^2",
    )
    track.addGlobalParameter("strength", TRACK_STRENGTH)
    track.addGlobalParameter("reach", (cutoff + COLLISION_WALL) * ANGSTROM_TO_NM)
    track.addBond([0, 3])
    system.addForce(track)


def fluctuation_ratio(system: openmm.System, state: Path, platform: str) -> float:
    """Return the ratio of energy fluctuations at ``DT`` and half of it.

    Args:
        system: Particles and forces, in float64.
        state: State file of OpenMM that the runs start from.
        platform: Name of the platform that computes the forces.
    """
    loaded = openmm.XmlSerializer.deserialize(state.read_text())
    positions = loaded.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    velocities = loaded.getVelocities(asNumpy=True).value_in_unit(
        unit.angstrom / unit.femtosecond
    )
    integrator = openmm.VerletIntegrator(0.001)
    function = as_function(make_context(system, integrator, positions, platform))
    variance = np.zeros(2)
    for _ in range(SEGMENTS):
        runs = [
            run_verlet(
                function,
                masses_of(system),
                positions,
                velocities,
                dt=DT / divisor,
                steps=round(SEGMENT_PS / (DT * FS_TO_PS)) * divisor,
                velocities_at="same time",
            )
            for divisor in (1, 2)
        ]
        variance += [run.total_energy.var() for run in runs]
        positions, velocities = runs[1].positions[-1], runs[1].velocities[-1]
    return float(np.sqrt(variance[0] / variance[1]))


def run_row(task: tuple[Row, str, Path, str]) -> dict[str, Any]:
    """Run one row and write its result; this is what a process does."""
    row, model, out, platform = task
    torch.set_num_threads(1)
    topology = water_topology(row.molecules)
    potential = SE3Potential(model, precision=row.precision)
    system = potential.createSystem(topology)
    if row.collision:
        cutoff = potential.config.cutoff
        positions = separated_pair(row.seed, cutoff)
        add_track(system, cutoff)
    else:
        positions = in_angstrom(water_start(row.molecules, row.seed))
    options = RunOptions(
        steps=round(row.picoseconds / (DT * FS_TO_PS)),
        dt_fs=DT,
        temperature=row.temperature,
        precision=row.precision,
        platform=platform,
        seed=row.seed,
        out=out / row.name,
        overwrite=True,
        frame_fs=row.frame_fs,
        # A pair that met during equilibration would stay together.
        **({"equilibration_ps": 0.0} if row.collision else {}),
    )
    start = time.perf_counter()
    try:
        record = run_dynamics(system, topology, positions, options)
    except BadMinimumError as torn:
        result = never_ran(row, str(torn))
    else:
        result = {
            **measured(record.folder, row),
            "ns_per_day": record.ns_per_day,
            "implementation": potential.implementation,
        }
        if row.halving and record.status == "completed":
            state = record.folder / "final_state.xml"
            result["fluctuation_ratio"] = fluctuation_ratio(system, state, platform)
    result["passed"] = row_passes(result, potential.config.cutoff)
    result["seconds"] = time.perf_counter() - start
    with atomic_write(out / f"{row.name}.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    return result


def never_ran(row: Row, reason: str) -> dict[str, Any]:
    """Return the result of a row whose molecules fell apart before the run."""
    numbers = ("worst_stretch", "temperature", "fluctuation_kt", "drift", "drift_error")
    return {
        "row": dataclasses.asdict(row),
        "stable": False,
        "reason": reason,
        "lasted_ps": 0.0,
        "drift_limit": DRIFT_LIMIT[row.precision],
        **dict.fromkeys(numbers, math.nan),
    }


def measured(folder: Path, row: Row) -> dict[str, Any]:
    """Return stability, temperature and drift of a run."""
    recording = read_folder(folder)
    try:
        verdict = judge(recording)
    except ValueError as unfit:
        # The model has no minimum that is water: nothing to be stable.
        verdict = Stability(False, str(unfit), 0, 0.0, math.nan)
    degrees = recording.run["degrees_of_freedom"]
    found = energies(recording.log, row.temperature, degrees, conserved=True)
    slope = error = math.nan
    if found is not None and found.shadow_drift is not None:
        slope, error = found.shadow_drift.per_kt(row.temperature, degrees)
    kt = BOLTZMANN_KJ_PER_MOL * row.temperature
    result = {
        "row": dataclasses.asdict(row),
        "stable": verdict.stable and recording.run["status"] == "completed",
        "reason": verdict.reason,
        "lasted_ps": verdict.lasted_ps,
        "worst_stretch": verdict.worst,
        "degrees_of_freedom": degrees,
        "temperature": found.temperature if found else math.nan,
        "fluctuation_kt": found.fluctuation / kt if found else math.nan,
        "drift": slope,
        "drift_error": error,
        "drift_limit": drift_limit(row.precision, error),
    }
    if row.molecules == 2:
        oxygens = NM_TO_ANGSTROM * recording.trajectory.xyz[:, [0, 3]]
        separation = np.linalg.norm(oxygens[:, 1] - oxygens[:, 0], axis=-1)
        result["oo_range"] = [float(separation.min()), float(separation.max())]
    return result


def drift_limit(precision: str, error: float) -> float:
    """Return the largest drift that passes, kT/ns/dof.

    In float64 that is the limit or twice the error of the slope, whichever is larger.
    """
    limit = DRIFT_LIMIT[precision]
    return max(limit, 2.0 * error) if precision == "double" else limit


def row_passes(result: dict[str, Any], cutoff: float) -> bool:
    """Return whether a row meets every limit it has.

    A pair must have met and have left the cutoff, A, too.
    """
    ratio = result.get("fluctuation_ratio")
    low, high = HALVING_RANGE
    span = result.get("oo_range")
    return bool(
        result["stable"]
        and (span is None or (span[0] < MET and span[1] > cutoff))
        and abs(result["drift"]) <= result["drift_limit"]
        and (ratio is None or low <= ratio <= high)
    )


def finished(out: Path, row: Row) -> dict[str, Any] | None:
    """Return the result of a row that ran before with the same settings, or None."""
    path = out / f"{row.name}.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    return result if result["row"] == dataclasses.asdict(row) else None


def check_model(out: Path, digest: str) -> None:
    """Refuse to mix rows of different weights in one folder."""
    path = out / "model.sha256"
    if path.is_file() and path.read_text().strip() != digest:
        raise click.UsageError(f"{out} has rows of other weights; give another --out")
    path.write_text(digest + "\n")


def print_table(results: list[dict[str, Any]], console: Console) -> None:
    """Print one line a row."""
    table = Table(
        title="stability and drift, NVE, 0.5 fs", title_justify="left", box=None
    )
    table.add_column("run")
    for heading in ("ps", "T, K", "worst stretch, A", "drift, kT/ns/dof", "limit"):
        table.add_column(heading, justify="right")
    for heading in ("halving", "O-O, A", "result"):
        table.add_column(heading, justify="right")
    for r in sorted(results, key=lambda r: str(r["row"]["name"])):
        ratio, span = r.get("fluctuation_ratio"), r.get("oo_range")
        verdict = (
            "[green]pass[/]" if r["passed"] else f"[bold red]fail[/] {r['reason']}"
        )
        table.add_row(
            r["row"]["name"],
            f"{r['lasted_ps']:.0f}",
            f"{r['temperature']:.0f}",
            f"{r['worst_stretch']:.2f}",
            f"{r['drift']:.4f} +- {r['drift_error']:.4f}",
            f"{r['drift_limit']:.4g}",
            "" if ratio is None else f"{ratio:.2f}",
            "" if span is None else f"{span[0]:.1f} to {span[1]:.1f}",
            verdict,
        )
    console.print(table)


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="water_stability")
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
@click.option("--only", default="*", help="Rows to run, such as 'hexamer-*'.")
@click.option("--platform", default="Reference", show_default=True)
@click.option(
    "--short", is_flag=True, help="A hundredth of each length, to try it out."
)
@click.pass_context
def main(
    context: click.Context,
    model: str,
    out: Path,
    processes: int,
    only: str,
    platform: str,
    short: bool,
) -> None:
    """Run water at several temperatures, in collision and as hexamer: is it stable?"""
    console = Console()
    rows = [row for row in all_rows() if fnmatch.fnmatch(row.name, only)]
    if not rows:
        raise click.UsageError(f"no row is named like {only!r}")
    if short:
        rows = [dataclasses.replace(r, picoseconds=r.picoseconds / 100) for r in rows]
    out.mkdir(parents=True, exist_ok=True)
    check_model(out, str(load_model(model).metadata["weights_sha256"]))
    done = {row.name: finished(out, row) for row in rows}
    todo = [row for row in rows if done[row.name] is None]
    results = [result for result in done.values() if result is not None]
    console.print(f"{len(results)} rows are there, {len(todo)} to run", highlight=False)
    tasks = [(row, model, out, platform) for row in todo]
    for index, result in LocalExecutor(processes).run(run_row, tasks):
        results.append(result)
        console.print(
            f"{len(results)}/{len(rows)} {todo[index].name}: "
            f"{'pass' if result['passed'] else 'FAIL'} in {result['seconds']:.0f} s",
            highlight=False,
        )
    print_table(results, console)
    context.exit(0 if all(r["passed"] for r in results) else 1)


if __name__ == "__main__":
    main()

"""OpenMM's other dynamics with the model, long enough to break: does it hold?

    OMP_NUM_THREADS=1 python benchmarks/long_dynamics.py --out long_dynamics.json

Path integrals (RPMDIntegrator, 8 beads, 300 K) of one and of two molecules, and
multiple time steps (MTSLangevinIntegrator) of three, the first on the model, which is
called once a step, the others flexible TIP3P, which is called twice.  Prints the
largest change of an O-H bond of any bead from its length at the minimum; at 0.5 A, or
where a position is no number, a run ends.  Exit code 1 if one did.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import openmm
import torch
from openmm import app, unit
from rich.console import Console
from rich.table import Table

from openmm_se3.benchmark import machine
from openmm_se3.files import atomic_write
from openmm_se3.force import SE3Potential
from openmm_se3.geometry import in_angstrom
from openmm_se3.simulation import water_start, water_topology
from openmm_se3.simulation.guard import MAX_STRETCH
from openmm_se3.units import ANGSTROM_TO_NM, FS_TO_PS
from openmm_se3.validation.contexts import make_context, positions_of

BEADS = 8
TEMPERATURE = 300.0  # K
FRICTION = 1.0  # 1/ps
DT = 0.5  # fs
INNER_STEPS = 2  # of the classical forces in a step, with multiple time steps
LOOK = 40  # steps between looks at the bonds
MODEL_GROUP = 1


def bonds_of(n_molecules: int) -> np.ndarray:
    """Return the O-H bonds of water molecules [2 n_molecules, 2]."""
    oxygens = 3 * np.arange(n_molecules)
    pairs = [[o, h] for o in oxygens for h in (o + 1, o + 2)]
    return np.array(pairs)


def lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Return the lengths of bonds for positions [..., n_atoms, 3]."""
    difference = positions[..., bonds[:, 0], :] - positions[..., bonds[:, 1], :]
    return np.linalg.norm(difference, axis=-1)


def minimum(system: openmm.System, positions: np.ndarray) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, of the nearest minimum."""
    context = make_context(system, openmm.VerletIntegrator(0.0005), positions)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    return positions_of(context)


def path_integrals(
    system: openmm.System, start: np.ndarray, seed: int
) -> Iterator[np.ndarray]:
    """Run path integrals; yield the positions of all beads [beads, n_atoms, 3], A."""
    integrator = openmm.RPMDIntegrator(BEADS, TEMPERATURE, FRICTION, DT * FS_TO_PS)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    for bead in range(BEADS):
        integrator.setPositions(bead, ANGSTROM_TO_NM * start)
    while True:
        context.getIntegrator().step(LOOK)
        states = [integrator.getState(b, getPositions=True) for b in range(BEADS)]
        positions = [state.getPositions(asNumpy=True) for state in states]
        yield np.array([x.value_in_unit(unit.angstrom) for x in positions])


def multiple_steps(
    system: openmm.System, start: np.ndarray, seed: int
) -> Iterator[np.ndarray]:
    """Run with the model in the slow group; yield positions [1, n_atoms, 3], A."""
    groups = [(MODEL_GROUP, 1), (0, INNER_STEPS)]
    integrator = openmm.MTSLangevinIntegrator(
        TEMPERATURE, FRICTION, DT * FS_TO_PS, groups
    )
    integrator.setRandomNumberSeed(seed)
    context = make_context(system, integrator, start)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    while True:
        integrator.step(LOOK)
        yield positions_of(context)[None]


Dynamics = Callable[[openmm.System, np.ndarray, int], Iterator[np.ndarray]]
RUNS: dict[str, tuple[int, Dynamics]] = {
    "RPMD, one molecule": (1, path_integrals),
    "RPMD, two molecules": (2, path_integrals),
    "MTS, one of three molecules": (3, multiple_steps),
}


def system_of(
    n_molecules: int, dynamics: Dynamics, potential: SE3Potential
) -> openmm.System:
    """Return the System of a run."""
    topology = water_topology(n_molecules)
    if dynamics is path_integrals:
        return potential.createSystem(topology)
    classical = app.ForceField("tip3p.xml").createSystem(
        topology, constraints=None, rigidWater=False
    )
    return potential.createMixedSystem(topology, classical, [0, 1, 2], MODEL_GROUP)


def run(name: str, potential: SE3Potential, ps: float, seed: int) -> dict[str, Any]:
    """Run one row; return how far it came and the largest stretch, A."""
    n_molecules, dynamics = RUNS[name]
    system = system_of(n_molecules, dynamics, potential)
    start = minimum(system, in_angstrom(water_start(n_molecules, seed)))
    bonds = bonds_of(n_molecules)
    reference = lengths(start, bonds)
    looks = max(1, round(ps / (LOOK * DT * FS_TO_PS)))
    held = True
    stretches: list[float] = []
    means: list[float] = []
    trajectory = dynamics(system, start, seed)
    while held and len(means) < looks:
        try:
            found = lengths(next(trajectory), bonds)
        except openmm.OpenMMException:  # the model's, of positions that are no number
            found = np.array(np.nan)
        stretches.append(float(np.abs(found - reference).max()))
        held = stretches[-1] <= MAX_STRETCH  # not so of NaN
        means.append(float(found.mean()))
    return {
        "name": name,
        "held": held,
        "ps": len(means) * LOOK * DT * FS_TO_PS,
        "max_stretch": float(np.max(stretches)),
        "mean_length": float(np.mean(means)),
        "length_at_minimum": float(reference.mean()),
    }


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--picoseconds", type=float, default=10.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
@click.option("--short", is_flag=True, help="A tenth of a picosecond each.")
def main(
    model: str, picoseconds: float, seed: int, out: Path | None, short: bool
) -> None:
    """Run path integrals and multiple time steps, and tell whether they hold."""
    torch.set_num_threads(1)
    potential = SE3Potential(model)
    rows = []
    for name in RUNS:
        rows.append(run(name, potential, 0.1 if short else picoseconds, seed))
        click.echo(f"{name}: {rows[-1]['ps']:g} ps")
    table = Table(title="dynamics at 300 K, steps of 0.5 fs", box=None)
    headings = (
        "run",
        "outcome",
        "ps",
        "largest stretch, A",
        "mean O-H, A",
        "minimum, A",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            "holds" if row["held"] else "breaks",
            f"{row['ps']:g}",
            f"{row['max_stretch']:.3f}",
            f"{row['mean_length']:.4f}",
            f"{row['length_at_minimum']:.4f}",
        )
    Console(width=100).print(table)
    if out is not None:
        result = {
            "machine": machine.describe(),
            "weights_sha256": potential.metadata["weights_sha256"],
            "beads": BEADS,
            "rows": rows,
        }
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    if not all(row["held"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

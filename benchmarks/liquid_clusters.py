"""Clusters cut from liquid water that no model or label has seen, to label and test on.

    python benchmarks/liquid_clusters.py --temperature 350 --out clusters.xyz
    openmm-se3 label clusters.xyz --method pbe0 --basis def2-tzvp --spherical \
      -o clusters.h5
    openmm-se3 evaluate liquid-water clusters.h5 --split all

The test frames of the model ``liquid-water`` are of the same simulation as those it was
trained on.  These clusters are of another one: a box of flexible TIP3P water (OpenMM)
at any temperature, from which a molecule is cut out with its nearest neighbors every
few ps, at another place each time.  The labels have no dispersion, which the liquid's
have: the model goes from one to the other between two free molecules and the liquid.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import openmm
from ase import Atoms
from ase.io import write
from openmm import app, unit
from water_geometry import WATER, water_box

from openmm_se3.files import atomic_write

MOLECULES = 100  # of the box
CUTOFF_NM = 0.65
DT_FS = 0.5
EQUILIBRATION_PS, INTERVAL_PS = 20.0, 4.0


def simulation(temperature: float, seed: int) -> app.Simulation:
    """Return a box of flexible TIP3P water, minimized, with velocities.

    Args:
        temperature: K.
        seed: Random seed.
    """
    box = water_box(MOLECULES)
    force_field = app.ForceField("tip3p.xml")
    system = force_field.createSystem(
        box.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        rigidWater=False,
    )
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, 1.0 / unit.picosecond, DT_FS * unit.femtosecond
    )
    integrator.setRandomNumberSeed(seed)
    made = app.Simulation(box.topology, system, integrator)
    made.context.setPositions(box.positions)
    made.minimizeEnergy()
    made.context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
    return made


def cut(
    positions: np.ndarray, lengths: np.ndarray, center: int, molecules: int
) -> np.ndarray:
    """Return one molecule and its nearest neighbors, whole, as a free cluster.

    Args:
        positions: Positions O, H, H of all molecules, each one whole [n, 3, 3], A.
        lengths: Edges of the rectangular box [3], A.
        center: The molecule in the middle.
        molecules: Molecules of the cluster.

    Returns:
        Positions [3 molecules, 3], A.
    """
    offsets = positions[:, 0] - positions[center, 0]
    images = -lengths * np.round(offsets / lengths)
    distances = np.linalg.norm(offsets + images, axis=1)
    near = np.argsort(distances)[:molecules]
    whole = positions[near] + images[near, None]
    return (whole - positions[center, 0]).reshape(-1, 3)


@click.command()
@click.option("--temperature", type=click.FloatRange(min=1.0), default=350.0)
@click.option("--molecules", type=click.IntRange(1, 12), default=3, show_default=True)
@click.option("--clusters", type=click.IntRange(1), default=10, show_default=True)
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default="clusters.xyz"
)
def main(
    temperature: float, molecules: int, clusters: int, seed: int, out: Path
) -> None:
    """Cut clusters from a simulation of liquid water by a classical force field."""
    rng = np.random.default_rng(seed)
    liquid = simulation(temperature, seed)
    liquid.step(round(1000.0 * EQUILIBRATION_PS / DT_FS))
    frames = []
    for _ in range(clusters):
        liquid.step(round(1000.0 * INTERVAL_PS / DT_FS))
        state = liquid.context.getState(positions=True, enforcePeriodicBox=True)
        x = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        vectors = state.getPeriodicBoxVectors(asNumpy=True)
        lengths = np.diagonal(vectors.value_in_unit(unit.angstrom))
        center = int(rng.integers(MOLECULES))
        positions = cut(x.reshape(-1, 3, 3), lengths, center, molecules)
        frames.append(Atoms(numbers=np.tile(WATER, molecules), positions=positions))
    with atomic_write(out) as temporary:
        write(temporary, frames, format="extxyz")
    click.echo(f"{len(frames)} clusters of {molecules} molecules in {out}")


if __name__ == "__main__":
    main()

"""The free energy of a reaction with quantum nuclei, from the folder of a campaign.

    python benchmarks/learning/reaction_rpmd.py FOLDER --picoseconds 20 \
        --figure free_energy.png --out free_energy.json

Ring-polymer molecular dynamics (openmm.RPMDIntegrator) of the campaign's model.  The
bias of the campaign's metadynamics acts on every bead as a fixed potential, so that the
barrier is crossed.  The distribution of the first variable over all beads is then
reweighted by the mean of the bias over the beads.  Two independent runs, each with the
bias of one metadynamics run, give the error as half their difference.  The classical
free energy is that of the same campaign.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import click
import numpy as np
import openmm
import torch
from openmm import unit

from openmm_se3 import SE3Potential
from openmm_se3.active_learning.campaign import MODEL, SETTINGS, Campaign
from openmm_se3.active_learning.reaction import free_energy
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.reaction.inputs import read_inputs
from openmm_se3.active_learning.reaction.metadynamics import bias_of, walls
from openmm_se3.active_learning.reaction.ranges import Biased
from openmm_se3.active_learning.reaction.variables import values
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import TIME_STEP
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, save
from openmm_se3.simulation.small_molecule import molecule_topology
from openmm_se3.units import (
    BOLTZMANN_KJ_PER_MOL,
    FS_TO_PS,
    JOULE_PER_CALORIE,
    NM_TO_ANGSTROM,
)

FRICTION = 1.0  # 1/ps, of the centroid; RPMD damps the other modes itself
EVERY = 10  # steps between samples
SETTLING = 0.1  # share of the run that is left out
BINS = 60


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--picoseconds", default=20.0, show_default=True, help="Of each run.")
@click.option("--beads", default=16, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
def main(
    folder: Path, picoseconds: float, beads: int, figure: Path | None, out: Path | None
) -> None:
    """Run both rings; print, draw and write the curves."""
    torch.set_num_threads(1)
    campaign = Campaign(folder)
    settings = Settings.read(folder / SETTINGS)
    reaction = Reaction.of(settings, read_inputs(settings, folder))
    verdict = campaign.find("verdict")
    if reaction is None or len(reaction.variables) != 1 or verdict is None:
        raise click.ClickException(
            f"{folder} must be a finished campaign with one --bias"
        )
    potential = SE3Potential(folder / MODEL)
    steps = round(picoseconds / (TIME_STEP * FS_TO_PS))
    (first,) = reaction.variables
    classical, quantum = [], []
    for run in range(free_energy.RUNS):
        path = campaign.round_folder(int(verdict["round"])) / f"metadynamics-{run}.npz"
        state = free_energy.State.load(path)
        x, energy = free_energy.curve(state.free_energy, first, settings.temperature)
        classical.append(energy)
        centers, energy = ring(
            potential,
            reaction.system,
            first,
            bias_of(state.free_energy, reaction.options),
            settings.temperature,
            steps,
            beads,
            settings.seed * 100 + run + 1,
        )
        quantum.append(np.interp(x, centers, energy))
    curves: dict[str, list[float]] = {"values": x.tolist()}
    for name, pair in (("classical", classical), ("quantum", quantum)):
        mean = np.mean(pair, axis=0)
        curves[name] = (mean - np.nanmin(mean)).tolist()
        curves[f"{name} error"] = (np.ptp(pair, axis=0) / 2.0).tolist()
    label = first.variable.label
    click.echo(f"{label}: free energy at {settings.temperature:g} K, kcal/mol")
    click.echo(", ".join(curves))
    for row in list(zip(*curves.values(), strict=True))[:: max(1, len(x) // 25)]:
        click.echo("".join(f"{number:10.2f}" for number in row))
    if figure is not None:
        draw(curves, label, beads, settings.temperature, figure)
    if out is not None:
        facts = {"beads": beads, "picoseconds": picoseconds, "variable": label}
        facts["weights_sha256"] = potential.metadata["weights_sha256"]
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps({**facts, **curves}, indent=1) + "\n")


def ring(
    potential: SE3Potential,
    molecule: System,
    one: Biased,
    bias: np.ndarray,
    temperature: float,
    steps: int,
    beads: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return values of the variable and its free energy, kcal/mol, of one run."""
    thermal = BOLTZMANN_KJ_PER_MOL * temperature
    grid = one.bias_variable()
    bonds = [(int(i), int(j), None, None) for i, j in molecule.bonds]
    system = potential.createSystem(molecule_topology(molecule.symbols, bonds))
    system.addForce(walls(one, thermal))
    pushed = openmm.CustomCVForce("table(cv)")
    pushed.addCollectiveVariable("cv", copy.deepcopy(one.variable.force))
    ends = grid.minValue, grid.maxValue, grid.periodic
    pushed.addTabulatedFunction("table", openmm.Continuous1DFunction(bias, *ends))
    system.addForce(pushed)
    integrator = openmm.RPMDIntegrator(
        beads, temperature, FRICTION, TIME_STEP * FS_TO_PS
    )
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    start = molecule.minima[seed % len(molecule.minima)] / NM_TO_ANGSTROM
    context.setPositions(start)
    context.setVelocitiesToTemperature(temperature, seed)
    drawn = context.getState(velocities=True).getVelocities()
    for bead in range(beads):
        integrator.setPositions(bead, start)
        integrator.setVelocities(bead, drawn)
    points = np.linspace(grid.minValue, grid.maxValue, len(bias)) / one.variable.scale
    found, weights = [], []
    for step in range(EVERY, steps + 1, EVERY):
        integrator.step(EVERY)
        frames = np.stack([_positions(integrator, bead) for bead in range(beads)])
        if not molecule.intact(frames).all():
            raise click.ClickException(f"the molecule broke after {step} steps")
        if step < SETTLING * steps:
            continue
        along = values([one.variable], frames)[:, 0]
        found.append(along)
        weights.append(np.interp(along, points, bias).mean() / thermal)
    exponents = np.array(weights) - max(weights)
    count, edges = np.histogram(
        np.concatenate(found),
        bins=BINS,
        range=(one.low, one.high),
        weights=np.repeat(np.exp(exponents), beads),
    )
    # What was not visited has no free energy.
    share = np.where(count > 0.0, count / count.mean(), np.nan)
    energy = -np.log(share) * thermal / JOULE_PER_CALORIE
    return (edges[1:] + edges[:-1]) / 2.0, energy


def _positions(integrator: openmm.RPMDIntegrator, bead: int) -> np.ndarray:
    state = integrator.getState(bead, getPositions=True)
    found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return NM_TO_ANGSTROM * np.asarray(found)


def draw(
    curves: dict[str, list[float]],
    label: str,
    beads: int,
    temperature: float,
    path: Path,
) -> None:
    """Draw both free energies with their errors."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    x = np.array(curves["values"])
    with rc_context(STYLE):
        figure = Figure((5.6, 3.4), layout="constrained")
        panel = figure.subplots()
        for name, color, text in (
            ("classical", GRAY, "classical nuclei, metadynamics"),
            ("quantum", BLUE, f"quantum nuclei, RPMD with {beads} beads"),
        ):
            energy = np.array(curves[name])
            error = np.array(curves[f"{name} error"])
            panel.fill_between(
                x, energy - error, energy + error, color=color, alpha=0.3
            )
            panel.plot(x, energy, color=color, label=text)
        panel.set_xlabel(label)
        panel.set_ylabel(f"free energy at {temperature:g} K, kcal/mol")
        panel.legend()
        save(path, figure)


if __name__ == "__main__":
    main()

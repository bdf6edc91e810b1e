"""The free energy of a reaction with quantum nuclei, from the folder of a campaign.

    python benchmarks/learning/reaction_rpmd.py FOLDER --picoseconds 20

Ring-polymer molecular dynamics (openmm.RPMDIntegrator) of the campaign's committee.
The bias of the campaign's metadynamics acts on every bead as a fixed potential, so that
the barrier is crossed.  The distribution of the first variable over all beads is then
reweighted by the mean of the bias over the beads.  Two independent runs, each with the
bias of one metadynamics run, give the error as half their difference.  The classical
free energy of the same campaign is printed for comparison.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from openmm_se3.active_learning.campaign import SETTINGS, Campaign
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reaction import free_energy
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.reaction.inputs import read_inputs
from openmm_se3.active_learning.reaction.metadynamics import (
    MeanForce,
    bias_of,
    walls,
)
from openmm_se3.active_learning.reaction.variables import values
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.walkers import TIME_STEP
from openmm_se3.training.checkpoint import BEST
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


def main() -> None:
    """Run both rings and print the curves."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a campaign with one --bias")
    parser.add_argument("--picoseconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--beads", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON file of the curves")
    arguments = parser.parse_args()
    campaign = Campaign(arguments.folder)
    settings = Settings.read(arguments.folder / SETTINGS)
    reaction = Reaction.of(settings, read_inputs(settings, arguments.folder))
    verdict = campaign.find("verdict")
    if reaction is None or len(reaction.variables) != 1 or verdict is None:
        raise SystemExit("the folder must be a finished campaign with one --bias")
    number = int(verdict["round"])
    steps = round(arguments.picoseconds / (TIME_STEP * FS_TO_PS))
    curves, classical = [], []
    (first,) = reaction.variables
    for run in range(free_energy.RUNS):
        path = campaign.round_folder(number) / f"metadynamics-{run}.npz"
        state = free_energy.State.load(path)
        x, energy = free_energy.curve(state.free_energy, first, settings.temperature)
        classical.append(energy)
        bias = bias_of(state.free_energy, reaction.options)
        curves.append(
            ring(
                campaign, settings, reaction, number, bias, run, steps, arguments.beads
            )
        )
    centers = curves[0][0]
    quantum = np.array([np.interp(x, centers, energy) for _, energy in curves])
    table = []
    print(
        f"{first.variable.label}: free energy at {settings.temperature:g} K, kcal/mol"
    )
    print("value, classical, error, quantum, error")
    for name in (np.array(classical), quantum):
        mean = name.mean(axis=0)
        table += [mean - np.nanmin(mean), np.ptp(name, axis=0) / 2.0]
    for value, *row in list(zip(x, *table, strict=True))[:: max(1, len(x) // 25)]:
        print(f"{value:8.3f}" + "".join(f"{number:9.2f}" for number in row))
    if arguments.out:
        names = ("classical", "classical_error", "quantum", "quantum_error")
        rows = {name: row.tolist() for name, row in zip(names, table, strict=True)}
        arguments.out.write_text(json.dumps({"values": x.tolist(), **rows}))


def ring(
    campaign: Campaign,
    settings: Settings,
    reaction: Reaction,
    number: int,
    bias: np.ndarray,
    run: int,
    steps: int,
    beads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return values of the variable and its free energy, kcal/mol, of one run."""
    from ase.data import atomic_masses

    molecule, (one,) = reaction.system, reaction.variables
    members = range(settings.members)
    committee = Committee.load(
        [campaign.member_folder(number, member) / BEST for member in members]
    )
    thermal = BOLTZMANN_KJ_PER_MOL * settings.temperature
    grid = one.bias_variable()
    system = openmm.System()
    for z in molecule.numbers:
        system.addParticle(float(atomic_masses[z]))
    mean = MeanForce(committee, molecule, np.inf)
    system.addForce(openmm.PythonForce(mean))
    system.addForce(walls(one, thermal))
    pushed = openmm.CustomCVForce("table(cv)")
    pushed.addCollectiveVariable("cv", copy.deepcopy(one.variable.force))
    ends = grid.minValue, grid.maxValue, grid.periodic
    pushed.addTabulatedFunction("table", openmm.Continuous1DFunction(bias, *ends))
    system.addForce(pushed)
    integrator = openmm.RPMDIntegrator(
        beads, settings.temperature, FRICTION, TIME_STEP * FS_TO_PS
    )
    integrator.setRandomNumberSeed(settings.seed * 100 + run + 1)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    start = molecule.minima[run % len(molecule.minima)] / NM_TO_ANGSTROM
    context.setPositions(start)
    context.setVelocitiesToTemperature(settings.temperature, run + 1)
    drawn = context.getState(velocities=True).getVelocities()
    for bead in range(beads):
        integrator.setPositions(bead, start)
        integrator.setVelocities(bead, drawn)
    points = np.linspace(grid.minValue, grid.maxValue, len(bias)) / one.variable.scale
    found, weights = [], []
    for step in range(EVERY, steps + 1, EVERY):
        integrator.step(EVERY)
        if mean.stop:
            raise SystemExit(f"run {run + 1}: the molecule broke")
        if step < SETTLING * steps:
            continue
        frames = np.stack([_positions(integrator, bead) for bead in range(beads)])
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


if __name__ == "__main__":
    main()

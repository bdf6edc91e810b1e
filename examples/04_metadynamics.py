"""Free energy of the water dimer along its O-O distance, by metadynamics.

OpenMM's own metadynamics, twice, beside a run without bias.  A wall at 5.5 A keeps the
molecules together.  Seven minutes.

    python examples/04_metadynamics.py
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import openmm
import torch
from matplotlib.figure import Figure
from openmm import app, unit

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_start, water_topology

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="only 1.5 ps")
parser.add_argument("--out", type=Path, default=Path("free-energy.png"))
arguments = parser.parse_args()
torch.set_num_threads(1)
STEPS = 1_000 if arguments.quick else 200_000  # of 0.5 fs
TEMPERATURE = 300.0  # K
REFERENCE = openmm.Platform.getPlatform("Reference")
system = SE3Potential("water").createSystem(topology := water_topology(2))
wall = openmm.CustomBondForce("20000*max(0, r-0.55)^2")  # kJ/mol, nm
system.getForce(system.addForce(wall)).addBond(0, 3)


def simulation_of(system: openmm.System) -> app.Simulation:
    """Return a simulation that has come to its temperature."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 2.0, 0.0005)
    simulation = app.Simulation(topology, system, integrator, REFERENCE)
    simulation.context.setPositions(water_start(2, seed=1))
    simulation.minimizeEnergy()
    simulation.step(STEPS // 20)
    return simulation


profiles = []
for _ in range(2):
    biased = copy.deepcopy(system)
    # Gaussians of 0.1 A and at first 1 kJ/mol on 2.2 to 6.2 A, one every 100 steps.
    distance = openmm.CustomBondForce("r")
    distance.addBond(0, 3)
    variable = app.BiasVariable(distance, 0.22, 0.62, 0.01)  # nm
    metadynamics = app.Metadynamics(biased, [variable], TEMPERATURE, 8.0, 1.0, 100)
    metadynamics.step(simulation_of(biased), 2 * STEPS)
    free = metadynamics.getFreeEnergy() / unit.kilocalorie_per_mole
    profiles.append(free - free.min())
grid = np.linspace(2.2, 6.2, len(profiles[0]))  # A

distances, simulation = [], simulation_of(system)
for _ in range(STEPS // 20):
    simulation.step(20)
    x = simulation.context.getState(positions=True).getPositions(asNumpy=True)
    distances.append(np.linalg.norm((x[0] - x[3]).value_in_unit(unit.angstrom)))
counts, edges = np.histogram(distances, bins=np.arange(2.2, 6.25, 0.05))
seen = counts > len(distances) // 1000
centers = edges[:-1][seen] + 0.025
direct = -0.0019872 * TEMPERATURE * np.log(counts[seen])  # kcal/mol
offset = direct - np.interp(centers, grid, profiles[0])
direct -= offset.mean()  # its zero is free
apart = np.abs(offset - offset.mean()).mean()
for profile in profiles:
    print(f"5 A is {np.interp(5.0, grid, profile):.2f} kcal/mol above the minimum")
print(f"without bias, {centers[0]:.2f} to {centers[-1]:.2f} A: {apart:.2f} apart")
axes = Figure(figsize=(5.0, 3.5), layout="constrained").add_subplot()
axes.plot(grid, profiles[0], "C0", label=f"metadynamics, {STEPS / 1000:g} ps")
axes.plot(grid, profiles[1], "C0--", label="once more")
axes.plot(centers, direct, "C1o", ms=4, label=f"without bias, {STEPS / 2000:g} ps")
axes.set(xlabel="O-O distance (A)", ylabel="free energy (kcal/mol)", ylim=(-0.5, 8))
axes.legend()
axes.figure.savefig(arguments.out)

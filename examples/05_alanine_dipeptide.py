"""Ramachandran map of alanine dipeptide, by metadynamics, through openmm-ml.

The dipeptide moves on the model "organic": in vacuum, or with --solvent in TIP3P water,
where only the dipeptide is the model's.  About half an hour in vacuum.

    python examples/05_alanine_dipeptide.py
"""

import argparse
from pathlib import Path

import numpy as np
import openmm
import torch
from matplotlib.figure import Figure
from openmm import app, unit
from openmmml import MLPotential

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--solvent", action="store_true", help="in TIP3P water")
parser.add_argument("--quick", action="store_true", help="only 0.1 ps")
parser.add_argument("--out", type=Path, default=Path("ramachandran.png"))
arguments = parser.parse_args()
torch.set_num_threads(1)
STEPS = 200 if arguments.quick else 1_000_000  # of 0.5 fs
TEMPERATURE = 300.0  # K

pdb = app.PDBFile(str(Path(__file__).with_name("alanine_dipeptide.pdb")))
modeller = app.Modeller(pdb.topology, pdb.positions)
potential = MLPotential("se3", modelPath="organic")
platform = openmm.Platform.getPlatform("Reference")
if arguments.solvent:
    platform = openmm.Platform.getPlatform("CPU")
    amber = app.ForceField("amber14-all.xml", "amber14/tip3pfb.xml")
    modeller.addSolvent(amber, padding=1.0 * unit.nanometer)
    classical = amber.createSystem(
        modeller.topology, nonbondedMethod=app.PME, constraints=None, rigidWater=True
    )
    system = potential.createMixedSystem(modeller.topology, classical, range(22))
else:
    system = potential.createSystem(modeller.topology)

atoms = {(a.residue.name, a.name): a.index for a in modeller.topology.atoms()}
ace, alanine, nme = (("ACE", "C"), [("ALA", n) for n in ("N", "CA", "C")], ("NME", "N"))
angles = {"phi": [ace, *alanine], "psi": [*alanine, nme]}
variables = []
for quadruple in angles.values():
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(*(atoms[name] for name in quadruple))
    # Gaussians of 0.35 rad, on the whole circle.
    variables.append(app.BiasVariable(torsion, -np.pi, np.pi, 0.35, periodic=True))
# At first of 1 kJ/mol, one every 100 steps.
metadynamics = app.Metadynamics(system, variables, TEMPERATURE, 6.0, 1.0, 100)

integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.0005)
simulation = app.Simulation(modeller.topology, system, integrator, platform)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=50 if arguments.quick else 0)
simulation.context.setVelocitiesToTemperature(TEMPERATURE)
metadynamics.step(simulation, STEPS)

free = metadynamics.getFreeEnergy() / unit.kilocalorie_per_mole
free -= free.min()
grid = np.linspace(-180.0, 180.0, free.shape[0])
psi, phi = np.unravel_index(free.argmin(), free.shape)  # psi is the first axis
print(
    f"{STEPS / 2000:g} ps; lowest at phi {grid[phi]:.0f}, psi {grid[psi]:.0f} degrees"
)
axes = Figure(figsize=(5.0, 4.2), layout="constrained").add_subplot()
levels = np.arange(0.0, 10.5, 0.5)
filled = axes.contourf(grid, grid, free, levels, cmap="viridis", extend="max")
axes.figure.colorbar(filled, label="free energy (kcal/mol)")
axes.set(xlabel="phi (degrees)", ylabel="psi (degrees)", aspect="equal")
axes.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
axes.figure.savefig(arguments.out, dpi=150)

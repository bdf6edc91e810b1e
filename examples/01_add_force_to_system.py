"""Add the model to an OpenMM System that already holds another force.

Two water molecules are held near each other by a harmonic restraint between their
oxygen atoms, the only other force, and move by OpenMM's Langevin integrator.

    python examples/01_add_force_to_system.py
"""

import argparse

import openmm
import torch
from openmm import app, unit

from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_start, water_topology

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="only 0.1 ps")
arguments = parser.parse_args()

# A few atoms give several threads nothing to do but to wait for each other.
torch.set_num_threads(1)

# Any Topology whose atoms have elements will do, for example app.PDBFile(...).topology.
topology = water_topology(2)
positions = water_start(2, seed=1)

# A System of the caller's own: particles, and a restraint between atoms 0 and 3.
system = openmm.System()
for atom in topology.atoms():
    system.addParticle(atom.element.mass)
restraint = openmm.CustomBondForce("0.5 * k * (r - r0)^2")
restraint.addGlobalParameter("k", 1000.0)  # kJ/mol/nm^2
restraint.addGlobalParameter("r0", 0.29)  # nm
restraint.addBond(0, 3)
system.addForce(restraint)

# The model acts on all atoms; its force group lets its energy be read on its own.
potential = SE3Potential("water")
potential.addForces(system, topology, forceGroup=1)
level = potential.metadata["level_of_theory"]
print(f"Model of {level['method']}/{level['basis']}, ", end="")
print(f"elements {', '.join(potential.config.elements)}, called by {potential.backend}")

integrator = openmm.LangevinMiddleIntegrator(
    300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtosecond
)
integrator.setRandomNumberSeed(1)
platform = openmm.Platform.getPlatform("Reference")
simulation = app.Simulation(topology, system, integrator, platform)
simulation.context.setPositions(positions)
simulation.minimizeEnergy()

for _ in range(5):
    simulation.step(40 if arguments.quick else 1000)
    model = simulation.context.getState(getEnergy=True, groups={1})
    state = simulation.context.getState(getPositions=True)
    x = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    distance = ((x[0] - x[3]) ** 2).sum() ** 0.5
    energy = model.getPotentialEnergy().value_in_unit(unit.kilocalories_per_mole)
    time = state.getTime().value_in_unit(unit.picosecond)
    print(f"{time:5.2f} ps  model energy {energy:9.3f} kcal/mol  O-O {distance:.2f} A")

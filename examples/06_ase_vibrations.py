"""Minimum, vibrations and entropy of a molecule with ASE.

The molecule is given as SMILES; the model "organic" is ASE's calculator.

    python examples/06_ase_vibrations.py "CC(=O)OC"
"""

import argparse
import tempfile

import torch
from ase import Atoms
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations

from openmm_se3 import SE3Potential
from openmm_se3.simulation import make_structure

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("smiles", nargs="?", default="CC(=O)OC", help="a molecule")
parser.add_argument("--quick", action="store_true", help="methanol")
arguments = parser.parse_args()
torch.set_num_threads(1)

topology, positions = make_structure("CO" if arguments.quick else arguments.smiles)
atoms = Atoms([atom.element.symbol for atom in topology.atoms()], positions)
atoms.calc = SE3Potential("organic", precision="double").ase_calculator()
BFGS(atoms, logfile=None).run(fmax=0.001)
print(f"{atoms.get_chemical_formula()}: {atoms.get_potential_energy():.4f} eV")

with tempfile.TemporaryDirectory() as folder:
    vibrations = Vibrations(atoms, name=folder)
    vibrations.run()
    energies = vibrations.get_energies()[6:]
    waves = vibrations.get_frequencies()[6:].real
print("harmonic wavenumbers, 1/cm:", *(f"{wave:.0f}" for wave in waves))
gas = IdealGasThermo(energies.real, "nonlinear", atoms=atoms, symmetrynumber=1, spin=0)
entropy = gas.get_entropy(298.15, 101325.0, verbose=False)
print(f"zero-point energy {energies.real.sum() / 2:.3f} eV")
print(f"entropy at 298 K and 1 atm {1000 * entropy:.2f} meV/K, symmetry ignored")

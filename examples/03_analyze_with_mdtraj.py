"""Look at a trajectory of a water dimer with mdtraj.

A run leaves ordinary files: a DCD trajectory and a PDB file.  mdtraj reads them, and so
does any other program.  Here the hydrogen bond of a dimer is followed.

    python examples/03_analyze_with_mdtraj.py
"""

import argparse
from pathlib import Path

import mdtraj
import numpy as np

from openmm_se3.simulation import WaterRunOptions, run_water

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="only 0.5 ps")
parser.add_argument("--out", type=Path, default=Path("dimer-example"))
arguments = parser.parse_args()

# Two molecules near 150 K, so that they stay together.
run_water(
    WaterRunOptions(
        molecules=2,
        temperature=150.0,
        steps=1_000 if arguments.quick else 20_000,
        equilibration_ps=0.1 if arguments.quick else 2.0,
        out=arguments.out,
        overwrite=True,
    )
)

trajectory = mdtraj.load(
    str(arguments.out / "trajectory.dcd"), top=str(arguments.out / "topology.pdb")
)
print(trajectory)

# Atoms are O, H1, H2 of the first molecule, then of the second.  mdtraj works in nm.
topology = trajectory.topology
oxygens = topology.select("element O")
oo = 10.0 * mdtraj.compute_distances(trajectory, [oxygens])[:, 0]
print(f"O-O distance  {oo.mean():.2f} A, from {oo.min():.2f} to {oo.max():.2f} A")

# O-H lengths of all bonds of the topology.
bonds = [(a.index, b.index) for a, b in topology.bonds]
lengths = 10.0 * mdtraj.compute_distances(trajectory, bonds)
for (a, b), length in zip(topology.bonds, lengths.T, strict=True):
    print(f"{a}-{b.name}    {length.mean():.3f} +- {length.std():.3f} A")

# A hydrogen bond: O-O below 3.5 A, and O-H within 30 degrees of the line O-O.
bonded = np.zeros(trajectory.n_frames, dtype=bool)
for donor, acceptor in (oxygens, oxygens[::-1]):
    for hydrogen in (donor + 1, donor + 2):
        angle = mdtraj.compute_angles(trajectory, [[hydrogen, donor, acceptor]])[:, 0]
        bonded |= (np.degrees(angle) < 30.0) & (oo < 3.5)
print(f"Hydrogen bonded in {100.0 * bonded.mean():.0f} % of the frames")
print(
    "At this level of theory the minimum of the dimer is cyclic, with two hydrogen\n"
    "bonds bent by 43 degrees, because of the basis-set superposition error.  Frames\n"
    "near it do not count by this criterion, although the molecules are bound there."
)

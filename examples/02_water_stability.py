"""Run one water molecule on the shipped model and see whether it stays whole.

The molecule starts at the minimum of the model, is brought to 300 K by 2 ps of Langevin
dynamics, and then runs free for 20 ps: Newton's equations alone, no thermostat.  Forces
that were not the exact derivative of the energy would heat or cool it.

    python examples/02_water_stability.py
"""

import argparse
from pathlib import Path

from rich.console import Console

from openmm_se3.analysis import analyze_folder, verdict
from openmm_se3.simulation import WaterRunOptions, run_water

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="only 0.5 ps")
parser.add_argument("--out", type=Path, default=Path("water-example"))
arguments = parser.parse_args()

options = WaterRunOptions(
    molecules=1,
    model="water",
    steps=1_000 if arguments.quick else 40_000,
    dt_fs=0.5,
    temperature=300.0,
    ensemble="nve",
    equilibration_ps=0.1 if arguments.quick else 2.0,
    out=arguments.out,
    overwrite=True,
)
record = run_water(options, Console())
print(f"{record.steps} steps on {record.platform}, {record.ns_per_day:.1f} ns/day")

# Everything measured is in `analysis`; the folder has a report and a figure as well.
analysis = analyze_folder(arguments.out)
print(verdict(analysis))

lengths = analysis.geometry.lengths["O-H"]
angles = analysis.geometry.angles["H-O-H"]
print(
    f"O-H length   {lengths.mean():.3f} A ({lengths.min():.3f} to {lengths.max():.3f})"
)
print(f"H-O-H angle  {angles.mean():.1f} degrees")

energies = analysis.energies
if energies.shadow_drift is not None:
    # The shadow energy is what the Verlet integrator conserves; its slope is the drift.
    drift, dof = energies.shadow_drift, energies.degrees_of_freedom
    slope, error = drift.per_kt(energies.temperature_asked, dof)
    print(f"Energy drift {slope:+.5f} +- {error:.5f} kT/ns per degree of freedom")
if analysis.spectrum is not None:
    print(
        "Vibrations  ", ", ".join(f"{x:.0f}" for x in analysis.spectrum.peaks), "cm^-1"
    )

print(f"Figure: {arguments.out / 'figure.png'}")

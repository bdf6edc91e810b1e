"""Does the model hold in dynamics?  Forty drugs, at constant energy or temperature.

    OMP_NUM_THREADS=1 python benchmarks/organic/dynamics.py nve --out nve.json
    OMP_NUM_THREADS=1 python benchmarks/organic/dynamics.py nvt --temperature 500 \
        --length 50 --molecules 20 --out nvt.json

Each molecule of drugs.smi starts in its lowest conformer by MMFF94, is minimized with
the model, brought to the temperature by LangevinMiddleIntegrator in 2 ps, and then run:
"nve" with VerletIntegrator, "nvt" with LangevinMiddleIntegrator.  A molecule breaks
when a bond is longer than 1.6 times the sum of its covalent radii, or two atoms without
a bond come nearer than 0.7 times that sum.  Drift is the slope of the total energy with
its standard error.  Molecules that are in the output file already are not run again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import openmm
import torch
from openmm import unit

from openmm_se3 import SE3Potential
from openmm_se3.benchmark import machine
from openmm_se3.elements import COVALENT_RADII
from openmm_se3.files import atomic_write
from openmm_se3.geometry import in_angstrom
from openmm_se3.simulation.drift import energy_drift
from openmm_se3.simulation.structure import make_structure
from openmm_se3.units import FS_TO_PS

DRUGS = Path(__file__).with_name("drugs.smi")
FRICTION = 1.0  # 1/ps
EQUILIBRATION = 2.0  # ps
LOOK = 20  # steps between energies and looks at the bonds
LONGEST_BOND, NEAREST = 1.6, 0.7  # of the sum of covalent radii
MINIMIZED = 1.0  # kJ/mol/nm


class Molecule:
    """A molecule on the model, its bonds and whether they hold."""

    def __init__(self, smiles: str, potential: SE3Potential) -> None:
        self.topology, self.start = make_structure(smiles)
        self.system = potential.createSystem(self.topology)
        symbols = [atom.element.symbol for atom in self.topology.atoms()]
        radii = np.array([COVALENT_RADII[symbol] for symbol in symbols])
        self.sums = radii[:, None] + radii[None, :]
        self.bonded = np.zeros(self.sums.shape, dtype=bool)
        for bond in self.topology.bonds():
            i, j = bond.atom1.index, bond.atom2.index
            self.bonded[i, j] = self.bonded[j, i] = True
        self.apart = ~self.bonded & ~np.eye(len(symbols), dtype=bool)

    def broken(self, positions: np.ndarray) -> bool:
        """Tell whether a bond is broken, or made, at positions [n_atoms, 3], A."""
        vectors = positions[:, None] - positions[None, :]
        ratio = np.linalg.norm(vectors, axis=-1) / self.sums
        whole = (ratio[self.bonded] < LONGEST_BOND).all()
        return not (whole and (ratio[self.apart] > NEAREST).all())


def langevin(temperature: float, dt: float, seed: int) -> openmm.Integrator:
    """Return LangevinMiddleIntegrator with a seed."""
    integrator = openmm.LangevinMiddleIntegrator(temperature, FRICTION, dt * FS_TO_PS)
    integrator.setRandomNumberSeed(seed)
    return integrator


def run(
    smiles: str,
    potential: SE3Potential,
    kind: Literal["nve", "nvt"],
    temperature: float,
    length: float,
    dt: float,
    seed: int,
) -> dict[str, Any]:
    """Run one molecule; return how long it held and its drift."""
    molecule = Molecule(smiles, potential)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(molecule.system, langevin(temperature, dt, seed), platform)
    context.setPositions(molecule.start * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(context, MINIMIZED)
    context.setVelocitiesToTemperature(temperature, seed)
    context.getIntegrator().step(round(EQUILIBRATION / (dt * FS_TO_PS)))
    if kind == "nve":
        state = context.getState(getPositions=True, getVelocities=True)
        context = openmm.Context(
            molecule.system, openmm.VerletIntegrator(dt * FS_TO_PS), platform
        )
        context.setPositions(state.getPositions())
        context.setVelocities(state.getVelocities())
    times: list[float] = []
    energies: list[float] = []
    held = True
    while held and len(times) < round(length / (LOOK * dt * FS_TO_PS)):
        context.getIntegrator().step(LOOK)
        state = context.getState(getPositions=True, getEnergy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        times.append((len(times) + 1) * LOOK * dt * FS_TO_PS)
        energies.append(total.value_in_unit(unit.kilojoules_per_mole))
        held = bool(np.isfinite(energies[-1])) and not molecule.broken(
            in_angstrom(state.getPositions(asNumpy=True))
        )
    n_atoms = len(molecule.start)
    result: dict[str, Any] = {"atoms": n_atoms, "held": held, "ps": times[-1]}
    line = energy_drift(times, energies) if kind == "nve" and held else None
    if line is not None:
        # Verlet keeps the momentum that Langevin dynamics gave.
        result["drift"], result["error"] = line.per_kt(temperature, 3 * n_atoms)
    return result


def passed(row: dict[str, Any], limit: float) -> bool:
    """Tell whether a molecule held and does not drift beyond limit and error."""
    drift = abs(row.get("drift", 0.0))
    return bool(row["held"]) and drift < max(limit, 2.0 * row.get("error", 0.0))


@click.command()
@click.argument("kind", type=click.Choice(["nve", "nvt"]))
@click.option("--model", default="organic", show_default=True)
@click.option("--temperature", type=float, default=300.0, show_default=True)
@click.option("--length", type=float, default=20.0, show_default=True, help="ps")
@click.option("--dt", type=float, default=0.5, show_default=True, help="fs")
@click.option("--molecules", type=click.IntRange(1), help="First ones only.")
@click.option("--every", type=click.IntRange(1), default=1, help="Every so many-th.")
@click.option("--seed", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--limit", type=float, default=0.05, show_default=True, help="kT/ns/dof")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    kind: Literal["nve", "nvt"],
    model: str,
    temperature: float,
    length: float,
    dt: float,
    molecules: int | None,
    every: int,
    seed: int,
    limit: float,
    out: Path,
) -> None:
    """Run drugs and tell which hold."""
    torch.set_num_threads(1)
    potential = SE3Potential(model)
    settings = {
        "kind": kind,
        "weights_sha256": potential.metadata["weights_sha256"],
        "temperature": temperature,
        "length": length,
        "dt": dt,
        "seed": seed,
    }
    results: dict[str, Any] = {**settings, "machine": machine.describe(), "rows": {}}
    if out.is_file():
        results = json.loads(out.read_text())
        other = {k for k, value in settings.items() if results.get(k) != value}
        if other:
            raise click.ClickException(f"{out} has other settings: {sorted(other)}")
    lines = DRUGS.read_text().splitlines()[::every][:molecules]
    for smiles, name in (line.split() for line in lines):
        if name in results["rows"]:
            continue
        row = run(smiles, potential, kind, temperature, length, dt, seed)
        results["rows"][name] = row
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
        drift = f"{row['drift']:8.4f} +- {row['error']:.4f}" if "drift" in row else ""
        state = "holds" if row["held"] else f"BREAKS at {row['ps']:g} ps"
        click.echo(f"{name:20}{row['atoms']:4} atoms  {state:18} {drift}")
    bad = [name for name, row in results["rows"].items() if not passed(row, limit)]
    click.echo(
        f"{len(results['rows'])} molecules, {len(bad)} outside of the limits "
        f"({limit:g} kT/ns/dof or two standard errors) {' '.join(bad)}"
    )


if __name__ == "__main__":
    main()

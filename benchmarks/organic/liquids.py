"""Organic liquids on the model: do they hold, how are they packed, how dense are they?

    OMP_NUM_THREADS=1 python benchmarks/organic/liquids.py --out runs/liquids

Each liquid starts as turned molecules on a wide grid.  Its box is drawn together to the
density of experiment under the model, and then run at constant volume and, from its
end, at constant pressure.  Printed are whether all molecules stayed whole, the first
peak of g(r) and the density.  The model knows no interaction beyond its cutoff, and
had no liquid in its training data: the density is what this makes of it.

A run that was stopped goes on when the command is given again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import mdtraj
import numpy as np
import openmm
import torch
from openmm import Vec3, app, unit
from rich.console import Console
from scipy.spatial.transform import Rotation

from openmm_se3 import SE3Potential
from openmm_se3.analysis.liquid import density, pair_distribution
from openmm_se3.analysis.read import read_folder
from openmm_se3.analysis.stability import judge
from openmm_se3.files import atomic_write
from openmm_se3.geometry import in_angstrom
from openmm_se3.plot_style import BLUE, STYLE, save
from openmm_se3.simulation import ModelRunOptions, run_structure
from openmm_se3.simulation.structure import make_structure
from openmm_se3.units import (
    ANGSTROM_TO_NM,
    DALTON_PER_NM3_TO_G_PER_CM3,
    FS_TO_PS,
    NM_TO_ANGSTROM,
)

DT_FS, FRAME_FS = 0.5, 50.0
WIDE = 1.5  # edge of the first box, in edges of the last
STAGES, STAGE_STEPS = 60, 100  # of drawing the box together
BIN = 0.1  # A


@dataclasses.dataclass(frozen=True)
class Liquid:
    """A liquid at 298 K.

    Attributes:
        smiles: Its molecule.
        molecules: How many are simulated.
        density: Measured density at 298.15 K and 1 bar, g/cm^3 (CRC Handbook of
            Chemistry and Physics).
        site: Element whose atoms, by their mean in each molecule, g(r) is of.
        name: What this site is called.
    """

    smiles: str
    molecules: int
    density: float
    site: str
    name: str


LIQUIDS = {
    "methanol": Liquid("CO", 90, 0.7866, "O", "O-O"),
    "acetonitrile": Liquid("CC#N", 90, 0.7765, "N", "N-N"),
    "benzene": Liquid("c1ccccc1", 48, 0.8736, "C", "center-center"),
}


def start(liquid: Liquid, potential: SE3Potential, path: Path) -> None:
    """Write molecules in a box of the measured density as a PDB file."""
    topology, one = make_structure(liquid.smiles)
    one = one - one.mean(axis=0)
    masses = [atom.element.mass.value_in_unit(unit.dalton) for atom in topology.atoms()]
    mass = liquid.molecules * sum(masses)
    volume = DALTON_PER_NM3_TO_G_PER_CM3 * mass / liquid.density  # nm^3
    edge = NM_TO_ANGSTROM * volume ** (1.0 / 3.0)
    side = int(np.ceil(liquid.molecules ** (1.0 / 3.0)))
    rng = np.random.default_rng(0)
    places = np.argwhere(np.ones((side, side, side)))
    places = places[np.sort(rng.permutation(len(places))[: liquid.molecules])]
    turns = Rotation.random(liquid.molecules, rng)
    centers = WIDE * edge * (places + 0.5) / side
    positions = np.concatenate(
        [turn.apply(one) + c for turn, c in zip(turns, centers, strict=True)]
    )
    modeller = app.Modeller(app.Topology(), [])
    for number in range(liquid.molecules):
        rows = positions[number * len(one) : (number + 1) * len(one)]
        modeller.add(topology, unit.Quantity(rows, unit.angstrom))
    whole = modeller.topology
    _set_box(whole, WIDE * edge)
    positions = compressed(whole, positions, potential, WIDE * edge, edge)
    _set_box(whole, edge)
    with atomic_write(path) as temporary, temporary.open("w") as file:
        app.PDBFile.writeFile(whole, unit.Quantity(positions, unit.angstrom), file)


def _set_box(topology: app.Topology, edge: float) -> None:
    topology.setPeriodicBoxVectors(_vectors(edge))


def _vectors(edge: float) -> unit.Quantity:
    """Return the vectors of a cube, edge in A."""
    rows = (ANGSTROM_TO_NM * edge * np.eye(3)).tolist()
    return [Vec3(*row) for row in rows] * unit.nanometer


def compressed(
    topology: app.Topology,
    positions: np.ndarray,
    potential: SE3Potential,
    first: float,
    last: float,
) -> np.ndarray:
    """Return positions, A, in a box that was drawn together in small steps.

    Args:
        topology: The molecules, and the first box.
        positions: Where they begin [n_atoms, 3], A; molecules are whole.
        potential: The model.
        first: Edge of the box, A.
        last: Edge that it is to have, A.
    """
    system = potential.createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, DT_FS * FS_TO_PS)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatform("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(positions * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 100)
    context.setVelocitiesToTemperature(300.0, 1)
    n_molecules = topology.getNumResidues()
    edges = np.linspace(first, last, STAGES + 1)
    for before, edge in zip(edges[:-1], edges[1:], strict=True):
        state = context.getState(positions=True)
        molecules = in_angstrom(state.getPositions(asNumpy=True))
        molecules = molecules.reshape(n_molecules, -1, 3)
        centers = molecules.mean(axis=1, keepdims=True)
        molecules = molecules + (edge / before - 1.0) * centers
        context.setPeriodicBoxVectors(*_vectors(float(edge)))
        context.setPositions(molecules.reshape(-1, 3) * unit.angstrom)
        integrator.step(STAGE_STEPS)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 100)
    state = context.getState(positions=True)
    return np.asarray(in_angstrom(state.getPositions(asNumpy=True)))


def sites(trajectory: mdtraj.Trajectory, element: str) -> mdtraj.Trajectory:
    """Return one point for each molecule: the mean of its atoms of an element."""
    points = [
        trajectory.xyz[
            :, [a.index for a in residue.atoms if a.element.symbol == element]
        ].mean(axis=1)
        for residue in trajectory.topology.residues
    ]
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in points:
        topology.add_atom("X", mdtraj.element.virtual, topology.add_residue("X", chain))
    return mdtraj.Trajectory(
        np.stack(points, axis=1),
        topology,
        unitcell_lengths=trajectory.unitcell_lengths,
        unitcell_angles=trajectory.unitcell_angles,
    )


def run(
    name: str, model: str, folder: Path, length: float, ensemble: str, console: Console
) -> dict[str, Any]:
    """Run a liquid; return whether it held, g(r) of its sites and its density."""
    liquid = LIQUIDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    pdb = folder / "start.pdb"
    if not pdb.is_file():
        start(liquid, SE3Potential(model), pdb)
    out = folder / ensemble
    options = ModelRunOptions(
        model=model,
        steps=round(length / (DT_FS * FS_TO_PS)),
        temperature=298.15,
        ensemble=ensemble,
        equilibration_ps=5.0,
        frame_fs=FRAME_FS,
        out=out,
        resume=out.exists(),
        seed=1,
    )
    record = run_structure(pdb, options, console)
    found = read_folder(out)
    points = sites(found.trajectory, liquid.site)
    every = np.arange(points.n_atoms)
    last = BIN * np.floor(
        0.5 * NM_TO_ANGSTROM * float(points.unitcell_lengths.min()) / BIN
    )
    r, g = pair_distribution(points, every, every, (0.0, last), round(last / BIN))
    top = int(np.argmax(g))
    densities = density(found.trajectory)
    return {
        "status": record.status,
        "whole": judge(found).stable,
        "ps": length,
        "r": r.round(3).tolist(),
        "g": g.round(4).tolist(),
        "peak": [float(r[top]), float(g[top])],
        "density": float(densities[len(densities) // 2 :].mean()),
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw g(r) of each liquid at constant volume."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        page = Figure(figsize=(3.2 * len(results), 2.8), layout="constrained")
        panels = np.atleast_1d(page.subplots(1, len(results)))
        for axes, (name, rows) in zip(panels, results.items(), strict=True):
            axes.plot(rows["nvt"]["r"], rows["nvt"]["g"], color=BLUE)
            axes.axhline(1.0, lw=0.6, color="0.6")
            axes.set(title=name, xlim=(2.0, None), ylim=(0.0, None))
            axes.set_xlabel(f"r({LIQUIDS[name].name}), A")
        panels[0].set_ylabel("g(r)")
        save(path, page)


@click.command(help=__doc__)
@click.option("--model", default="organic", show_default=True)
@click.option("--liquid", "names", multiple=True, type=click.Choice(list(LIQUIDS)))
@click.option("--length", default=20.0, show_default=True, help="ps, of each ensemble")
@click.option("--npt/--no-npt", default=True, help="Also at 1 bar.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--figure", type=click.Path(path_type=Path))
def main(
    model: str,
    names: tuple[str, ...],
    length: float,
    npt: bool,
    out: Path,
    figure: Path | None,
) -> None:
    """Run liquids and print what they are like."""
    torch.set_num_threads(1)
    console = Console()
    results: dict[str, Any] = {}
    for name in names or LIQUIDS:
        results[name] = {
            ensemble: run(name, model, out / name, length, ensemble, console)
            for ensemble in (("nvt", "npt") if npt else ("nvt",))
        }
        for ensemble, row in results[name].items():
            console.print(
                f"{name}, {ensemble}: {'whole' if row['whole'] else 'BROKEN'}, first "
                f"peak of g({LIQUIDS[name].name}) {row['peak'][1]:.2f} at "
                f"{row['peak'][0]:.2f} A, {row['density']:.3f} g/cm^3 (measured "
                f"{LIQUIDS[name].density:.3f})"
            )
        with atomic_write(out / "liquids.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    if figure is not None:
        draw(results, figure)


if __name__ == "__main__":
    main()

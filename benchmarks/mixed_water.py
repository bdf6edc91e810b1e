"""One water molecule on the model in a box of classical water: is the mixture sound?

    OMP_NUM_THREADS=1 python benchmarks/mixed_water.py --out mixed_water

The box is of TIP3P water, the first molecule is the model's, flexible, the others are
rigid.  Beside it runs the same box with TIP3P only.  Prints

* the forces on atoms of both regions against finite differences of the energy, in
  float64 on the Reference platform;
* NVE: the drift of the total energy, with its error;
* NPT, 300 K and 1 bar: whether it is stable, density, geometry of the model's molecule;

and draws the drift, and g(r) of its oxygen and the solvent's beside that of TIP3P.
Everything is kept in ``--out``: stopped at any time, the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
import openmm
from matplotlib.figure import Figure
from openmm import app, unit
from rich.console import Console
from rich.table import Table

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.geometry import geometry
from openmm_se3.analysis.liquid import density, narrowest, pair_distribution
from openmm_se3.analysis.read import Recording, read_folder
from openmm_se3.benchmark import machine
from openmm_se3.files import atomic_write
from openmm_se3.force import SE3Potential
from openmm_se3.geometry import in_angstrom
from openmm_se3.plot_style import BLUE, GRAY, STYLE, few_ticks, legend_above, save
from openmm_se3.simulation import RunOptions, run_dynamics, water_start, water_topology
from openmm_se3.simulation.drift import block_error
from openmm_se3.units import (
    BOLTZMANN_KJ_PER_MOL,
    FS_TO_PS,
    NM_TO_ANGSTROM,
)
from openmm_se3.validation.contexts import as_function, make_context

DT = 0.5  # fs
WIDTH = 110  # of the tables, in characters
TEMPERATURE = 300.0  # K
MOLECULE = [0, 1, 2]  # atoms of the model
SYSTEMS = {"mixed": BLUE, "TIP3P": GRAY}
LABELS = {"mixed": "one molecule on the model", "TIP3P": "TIP3P alone"}
DISPLACEMENT = 2e-4  # A, of finite differences
FINE_EWALD, MESH = 5.0, (32, 32, 32)  # of finite differences; erfc(5) is 2e-12
NPT_FRAME_FS = 50.0
DISCARDED = 0.2  # of a run in NPT, while the density settles
RDF_RANGE, RDF_BIN = (2.0, 8.0), 0.1  # A


@dataclasses.dataclass(frozen=True)
class Setting:
    """Size and length of everything.

    Attributes:
        edge: Edge of the cubic box at the start, nm.
        cutoff: Of the classical nonbonded forces, nm.
        ewald_tolerance: Of the forces between charges.
        solvent_molecules: How many have their forces checked.
        equilibration_ps: Before every run.
        nve_ps: Length of a run at constant energy.
        npt_ps: Length of a run at constant pressure.
    """

    edge: float = 2.5
    cutoff: float = 0.9
    ewald_tolerance: float = 1e-5
    solvent_molecules: int = 3
    equilibration_ps: float = 2.0
    nve_ps: float = 10.0
    npt_ps: float = 50.0


SHORT = Setting(1.1, 0.45, 1e-3, 1, 0.01, 0.03, 0.03)


def water_box(setting: Setting, seed: int) -> tuple[app.Topology, np.ndarray]:
    """Return a box of water, one molecule first, and positions [n_atoms, 3], A."""
    start = in_angstrom(water_start(1, seed)) + 0.5 * setting.edge * NM_TO_ANGSTROM
    modeller = app.Modeller(water_topology(1), start * unit.angstrom)
    box = openmm.Vec3(1, 1, 1) * setting.edge * unit.nanometer
    modeller.addSolvent(app.ForceField("amber14/tip3p.xml"), boxSize=box)
    positions = modeller.positions.value_in_unit(unit.angstrom)
    return modeller.topology, np.array(positions)


def make_system(
    name: str, topology: app.Topology, setting: Setting, potential: SE3Potential
) -> openmm.System:
    """Return one of ``SYSTEMS``; energy is conserved as well as a cutoff allows."""
    classical = app.ForceField("amber14/tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=setting.cutoff,
        switchDistance=0.85 * setting.cutoff,
        ewaldErrorTolerance=setting.ewald_tolerance,
        rigidWater=True,
        removeCMMotion=False,
    )
    if name == "TIP3P":
        return classical
    return potential.createMixedSystem(topology, classical, MOLECULE)


def force_errors(
    system: openmm.System, positions: np.ndarray, atoms: list[int]
) -> dict[str, float]:
    """Compare forces with finite differences of the energy.

    Args:
        system: The System; constraints do not matter to its forces.
        positions: Positions [n_atoms, 3], A.
        atoms: Atoms to move.

    Returns:
        Largest difference and largest force, eV/A.
    """
    context = make_context(system, openmm.VerletIntegrator(0.0005), positions)
    evaluate = as_function(context)
    _, forces = evaluate(positions)
    worst = 0.0
    for atom in atoms:
        for axis in range(3):
            moved = positions.copy()
            moved[atom, axis] += DISPLACEMENT
            above, _ = evaluate(moved)
            moved[atom, axis] -= 2.0 * DISPLACEMENT
            below, _ = evaluate(moved)
            slope = (above - below) / (2.0 * DISPLACEMENT)
            worst = max(worst, abs(forces[atom, axis] + slope))
    largest = float(np.abs(forces[atoms]).max())
    return {"largest_difference": worst, "largest_force": largest}


def check_forces(
    topology: app.Topology, positions: np.ndarray, setting: Setting, model: str
) -> dict[str, dict[str, float]]:
    """Return :func:`force_errors` of the model's molecule and of its neighbors."""
    potential = SE3Potential(model, precision="double")
    system = make_system("mixed", topology, setting, potential)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            # No jump where a pair crosses the cutoff.  The mesh may be coarse: forces
            # are the slope of its energy all the same.
            force.setPMEParameters(FINE_EWALD / setting.cutoff, *MESH)
    oxygens = np.arange(3, len(positions), 3)
    distances = np.linalg.norm(positions[oxygens] - positions[0], axis=1)
    nearest = oxygens[np.argsort(distances)[: setting.solvent_molecules]]
    solvent = [int(atom) + i for atom in nearest for i in range(3)]
    return {
        "model": force_errors(system, positions, MOLECULE),
        "solvent": force_errors(system, positions, solvent),
    }


def options_of(
    ensemble: str, setting: Setting, folder: Path, platform: str, seed: int
) -> RunOptions:
    """Return the options of a run, which goes on if it has begun."""
    picoseconds = setting.nve_ps if ensemble == "nve" else setting.npt_ps
    # 400 rows and more; at 12 fs none falls into step with a vibration.
    log_fs = max(DT, min(12.0, picoseconds / FS_TO_PS / 400.0))
    return RunOptions(
        steps=round(picoseconds / (DT * FS_TO_PS)),
        dt_fs=DT,
        temperature=TEMPERATURE,
        ensemble=ensemble,
        equilibration_ps=setting.equilibration_ps,
        platform=platform,
        seed=seed,
        out=folder,
        resume=True,
        frame_fs=log_fs if ensemble == "nve" else min(NPT_FRAME_FS, 10.0 * log_fs),
        log_fs=log_fs if ensemble == "nve" else 10.0 * log_fs,
        checkpoint_ps=1.0,
    )


def of_nve(recording: Recording) -> dict[str, Any]:
    """Return temperature, drift and its error; None for what is too short."""
    degrees = recording.run["degrees_of_freedom"]
    found = energies(recording.log, TEMPERATURE, degrees, conserved=True)
    result: dict[str, Any] = {**outcome(recording), "degrees_of_freedom": degrees}
    if found is not None:
        result["temperature"] = found.temperature
        result["fluctuation_kj_per_mol"] = found.fluctuation
        if found.drift is not None:
            drift, error = found.drift.per_kt(TEMPERATURE, degrees)
            result |= {"drift": drift, "drift_error": error}
    return result


def of_npt(recording: Recording, of_all: bool) -> dict[str, Any]:
    """Return density, g/mL, temperature, geometry of the first molecule, and g(r).

    Args:
        recording: The run.
        of_all: g(r) of all oxygens, not only of the first molecule's.
    """
    frames = recording.trajectory
    frames = frames[int(DISCARDED * frames.n_frames) :]
    result = outcome(recording)
    if not frames.n_frames:
        return result
    densities = density(frames)
    r, g = radial_distribution(recording, of_all)
    first = geometry(frames.atom_slice(MOLECULE))
    assert first is not None
    lengths, angles = first.lengths["O-H"], first.angles["H-O-H"]
    return {
        **result,
        "frames": frames.n_frames,
        "temperature": float(np.mean(recording.log["temperature_k"])),
        "density": float(densities.mean()),
        "density_error": block_error(densities, blocks=5),
        "oh": [float(lengths.mean()), float(lengths.std())],
        "angle": [float(angles.mean()), float(angles.std())],
        "rdf": {"r": np.round(r, 3).tolist(), "g": np.round(g, 3).tolist()},
    }


def outcome(recording: Recording) -> dict[str, Any]:
    """Return how a run ended."""
    run = recording.run
    return {name: run[name] for name in ("status", "reason", "time_ps", "platform")}


def radial_distribution(
    recording: Recording, of_all: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return r, A, and g(r) of oxygens: of the first molecule, or of all."""
    frames = recording.trajectory
    frames = frames[int(DISCARDED * frames.n_frames) :]
    oxygens = frames.topology.select("element O")
    first = oxygens if of_all else oxygens[:1]
    low, high = RDF_RANGE
    # Beyond half the box there are no pairs but in its corners.
    bins = int((min(high, 0.5 * narrowest(frames)) - low) / RDF_BIN)
    return pair_distribution(frames, first, oxygens, (low, low + bins * RDF_BIN), bins)


def draw(path: Path, nve: dict[str, Recording], npt: dict[str, Any]) -> None:
    """Draw the total energy at constant energy, and g(r) at constant pressure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, color in SYSTEMS.items():
            log = nve[name].log
            kt = BOLTZMANN_KJ_PER_MOL * TEMPERATURE
            scale = kt * nve[name].run["degrees_of_freedom"]
            change = (log["total_kj_per_mol"] - log["total_kj_per_mol"][0]) / scale
            time, label = log["time_ps"], LABELS[name]
            left.plot(time, 1e3 * change, color=color, lw=0.7, label=label)
            if "rdf" not in npt[name]:
                continue
            label = "TIP3P to TIP3P" if name == "TIP3P" else "model to TIP3P"
            rdf = npt[name]["rdf"]
            right.plot(rdf["r"], rdf["g"], color=color, lw=1.4, label=label)
        left.set(xlabel="time (ps)", xlim=(0.0, None))
        left.set_ylabel(
            "change of the total energy, NVE\n(kT/1000 per degree of freedom)"
        )
        right.set(xlabel="O-O distance (Å)", ylim=(0.0, None), ylabel="g(r), NPT")
        for axes in (left, right):
            few_ticks(axes.xaxis)
            few_ticks(axes.yaxis)
            legend_above(axes, 2)
        save(path, figure)


def print_tables(results: dict[str, Any], console: Console) -> None:
    """Print forces, drifts, and what runs at constant pressure gave."""
    table = Table(title="forces against finite differences", box=None)
    for heading in ("atoms of", "largest difference, eV/A", "largest force, eV/A"):
        table.add_column(heading, justify="right")
    for region, row in results["forces"].items():
        difference, force = row["largest_difference"], row["largest_force"]
        table.add_row(region, f"{difference:.1e}", f"{force:.1f}")
    console.print(table)
    table = Table(title="NVE", box=None)
    for heading in ("system", "outcome", "ps", "mean T, K", "drift, kT/ns/dof"):
        table.add_column(heading, justify="right")
    for name, row in results["nve"].items():
        drift = "too short"
        if "drift" in row:
            drift = f"{row['drift']:+.4f} ± {row['drift_error']:.4f}"
        temperature = f"{row.get('temperature', math.nan):.0f}"
        table.add_row(name, row["status"], f"{row['time_ps']:g}", temperature, drift)
    console.print(table)
    table = Table(title="NPT, and the first molecule", box=None)
    headings = ("system", "outcome", "ps", "g/mL", "O-H, A", "H-O-H, degrees", "peak")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, row in results["npt"].items():
        cells = [""] * 4
        if "density" in row:
            error = row["density_error"]
            cells = [
                f"{row['density']:.3f}" + (f" ± {error:.3f}" if error else ""),
                "{:.4f}, spread {:.4f}".format(*row["oh"]),
                "{:.2f}, spread {:.2f}".format(*row["angle"]),
                f"{max(row['rdf']['g']):.2f}",
            ]
        table.add_row(name, row["status"], f"{row['time_ps']:g}", *cells)
    console.print(table)
    for ensemble in ("nve", "npt"):
        for name, row in results[ensemble].items():
            if row["reason"]:
                text = f"{name}, {ensemble}: {row['reason']}"
                console.print(text, highlight=False, soft_wrap=True)


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option("--platform", default="CPU", show_default=True, help="Of the runs.")
@click.option("--nve-ps", type=float, default=Setting.nve_ps, show_default=True)
@click.option("--npt-ps", type=float, default=Setting.npt_ps, show_default=True)
@click.option("--seed", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="mixed_water")
@click.option("--short", is_flag=True, help="Seconds instead: a small box, 0.03 ps.")
def main(
    model: str,
    platform: str,
    nve_ps: float,
    npt_ps: float,
    seed: int,
    out: Path,
    short: bool,
) -> None:
    """Check one molecule on the model in a box of TIP3P: forces, drift, NPT, g(r)."""
    setting = SHORT if short else Setting(nve_ps=nve_ps, npt_ps=npt_ps)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=WIDTH)
    topology, positions = water_box(setting, seed)
    console.print(f"{topology.getNumResidues()} molecules, {setting.edge} nm")
    potential = SE3Potential(model)
    weights = {"weights_sha256": potential.metadata["weights_sha256"]}
    runs: dict[str, dict[str, Recording]] = {"nve": {}, "npt": {}}
    for ensemble, found in runs.items():
        for name in SYSTEMS:
            folder = out / f"{ensemble}-{name}-run"
            options = options_of(ensemble, setting, folder, platform, seed)
            system = make_system(name, topology, setting, potential)
            about = weights if name == "mixed" else {}
            console.print(folder.name)
            run_dynamics(system, topology, positions, options, about, console)
            found[name] = read_folder(folder)
    # Where a run has brought the molecules, rather than at the start.
    frame = NM_TO_ANGSTROM * np.asarray(runs["nve"]["mixed"].trajectory.xyz[-1], float)
    results = {
        "machine": machine.describe(),
        **weights,
        "setting": dataclasses.asdict(setting),
        "molecules": topology.getNumResidues(),
        "forces": check_forces(topology, frame, setting, model),
        "nve": {name: of_nve(found) for name, found in runs["nve"].items()},
        "npt": {
            name: of_npt(found, of_all=name == "TIP3P")
            for name, found in runs["npt"].items()
        },
    }
    print_tables(results, console)
    with atomic_write(out / "mixed_water.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    draw(out / "mixed_water.png", runs["nve"], results["npt"])
    click.echo(out / "mixed_water.png")


if __name__ == "__main__":
    main()

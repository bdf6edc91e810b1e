"""Our force in the test systems, integrators and samplers of openmmtools.

    pip install openmmtools netCDF4 mpiplus pymbar numba pandas
    OMP_NUM_THREADS=1 python benchmarks/openmmtools_systems.py

Every test system of openmmtools gets the shipped model of water in its first molecule
of water, or must refuse with a message that names what is missing.  Where it is taken,
a step along the forces must change the energy by what they say.  Every integrator, move
and sampler then runs one free molecule on the model, which must stay whole.  Prints a
line each; exit code 1 if something went otherwise.
"""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import openmm
from openmm import app, unit
from openmmtools import integrators, mcmc, multistate, states, testsystems
from rich.console import Console

from openmm_se3.force import SE3Potential
from openmm_se3.simulation import water_start, water_topology
from openmm_se3.simulation.guard import MAX_STRETCH

MODEL = "water"
OH = 0.96  # A
MAX_ATOMS = 3000  # larger systems say nothing new, slowly
DISPLACEMENT = 1e-4  # nm, along the forces
STEPS = 200
DT = 0.5 * unit.femtosecond
TEMPERATURE = 300.0 * unit.kelvin
KJ = unit.kilojoule_per_mole


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one of them; ``well`` is None where nothing was to be tried."""

    name: str
    well: bool | None
    text: str


# ------------------------------------------------------------------- test systems


def subclasses(base: type) -> Iterator[type]:
    """Yield every class derived from another, each once, by name."""
    found: dict[str, type] = {}
    todo = [base]
    while todo:
        for child in todo.pop().__subclasses__():
            if child.__name__ not in found:
                found[child.__name__] = child
                todo.append(child)
    yield from (found[name] for name in sorted(found))


def first_water(topology: app.Topology) -> list[int] | None:
    """Return the atoms O, H, H of the first molecule of water, if there is one."""
    for residue in topology.residues():
        # Virtual sites, which have no element, stay with the classical field.
        atoms = [atom for atom in residue.atoms() if atom.element]
        atoms.sort(key=lambda atom: atom.element.symbol != "O")
        symbols = [atom.element.symbol for atom in atoms]
        if symbols == ["O", "H", "H"]:
            return [atom.index for atom in atoms]
    return None


def slope_error(system: openmm.System, positions: unit.Quantity) -> float:
    """Return by how much the energy's slope along the forces is not their norm."""
    integrator = openmm.VerletIntegrator(DT)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions)
    context.applyConstraints(1e-8)
    state = context.getState(positions=True, forces=True)
    start = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    forces = state.getForces(asNumpy=True).value_in_unit(KJ / unit.nanometer)
    massless = [i for i in range(len(start)) if system.isVirtualSite(i)]
    # A virtual site passes its force on to the atoms that it hangs on.
    forces[massless] = 0.0
    norm = float(np.linalg.norm(forces))
    energies = []
    for sign in (1.0, -1.0):
        context.setPositions(start + sign * DISPLACEMENT * forces / norm)
        context.computeVirtualSites()
        energies.append(context.getState(energy=True).getPotentialEnergy() / KJ)
    return abs((energies[1] - energies[0]) / (2.0 * DISPLACEMENT * norm) - 1.0)


def try_system(kind: type) -> Outcome:
    """Put the model into one test system."""
    name = kind.__name__
    try:
        made = kind()
    except Exception as error:
        return Outcome(name, None, f"not made by openmmtools: {error}"[:90])
    n_atoms = made.system.getNumParticles()
    if n_atoms > MAX_ATOMS:
        return Outcome(name, None, f"{n_atoms} atoms: left out")
    atoms = first_water(made.topology)
    elements = {a.element.symbol for a in made.topology.atoms() if a.element}
    potential = SE3Potential(MODEL, precision="double")
    if atoms is None:
        if elements <= {"O", "H"}:
            return Outcome(name, None, "no water")
        try:
            potential.createSystem(made.topology)
        except ValueError as error:
            said = any(element in str(error) for element in elements - {"O", "H"})
            return Outcome(name, said, f"refused: {error}"[:90])
        return Outcome(name, False, "elements that the model lacks were taken")
    try:
        mixed = potential.createMixedSystem(made.topology, made.system, atoms)
    except ValueError as error:
        return Outcome(name, True, f"refused: {error}"[:90])
    error = slope_error(mixed, made.positions)
    return Outcome(name, error < 1e-4, f"{n_atoms} atoms: slope off by {error:.0e}")


# ---------------------------------------------------------- integrators and samplers


def molecule() -> tuple[openmm.System, unit.Quantity]:
    """Return a free molecule on the model, and positions near its minimum."""
    system = SE3Potential(MODEL).createSystem(water_topology(1))
    return system, water_start(1, seed=1)


def stretch(positions: unit.Quantity) -> float:
    """Return the largest change of an O-H bond, A; infinity for what is no number."""
    x = np.asarray(positions.value_in_unit(unit.angstrom))
    if not np.isfinite(x).all():
        return np.inf
    return float(np.abs(np.linalg.norm(x[1:] - x[0], axis=1) - OH).max())


def try_run(name: str, run: Callable[[], unit.Quantity]) -> Outcome:
    """Judge the positions that a run of one molecule ends with."""
    try:
        largest = stretch(run())
    except Exception as error:
        return Outcome(name, False, f"{type(error).__name__}: {error}"[:90])
    return Outcome(
        name, largest < MAX_STRETCH, f"O-H off by {largest:.2f} A at the end"
    )


def integrate(integrator: openmm.Integrator) -> unit.Quantity:
    """Run one integrator; return where it ends."""
    system, positions = molecule()
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    context.getIntegrator().step(STEPS)
    return context.getState(positions=True).getPositions(asNumpy=True)


def move(applied: mcmc.MCMCMove) -> unit.Quantity:
    """Apply one move ten times, its state pickled in between; return where it ends."""
    system, positions = molecule()
    thermodynamic = states.ThermodynamicState(system, TEMPERATURE)
    thermodynamic = pickle.loads(pickle.dumps(thermodynamic))
    sampler = states.SamplerState(positions)
    for _ in range(10):
        applied.apply(thermodynamic, sampler)
    return sampler.positions


def temper() -> unit.Quantity:
    """Run replica exchange at three temperatures; return where the worst ends."""
    system, positions = molecule()
    cold = states.ThermodynamicState(system, TEMPERATURE)
    langevin = mcmc.LangevinDynamicsMove(timestep=DT, n_steps=20)
    tempering = multistate.ParallelTemperingSampler(
        mcmc_moves=langevin, number_of_iterations=5
    )
    with tempfile.TemporaryDirectory() as folder:
        reporter = multistate.MultiStateReporter(
            str(Path(folder) / "tempering.nc"), checkpoint_interval=5
        )
        tempering.create(
            cold,
            states.SamplerState(positions),
            reporter,
            min_temperature=TEMPERATURE,
            max_temperature=2.0 * TEMPERATURE,
            n_temperatures=3,
        )
        tempering.run()
        ends = [state.positions for state in tempering.sampler_states]
        reporter.close()
    return max(ends, key=stretch)


def integrators_to_try() -> Iterator[tuple[str, openmm.Integrator]]:
    """Yield the integrators of openmmtools that need no other force than ours."""
    for kind in subclasses(openmm.CustomIntegrator):
        if kind.__module__ != integrators.__name__ or kind.__name__.startswith("_"):
            continue
        accepted = inspect.signature(kind.__init__).parameters
        arguments = {"timestep": DT, "temperature": TEMPERATURE}
        given = {k: v for k, v in arguments.items() if k in accepted}
        if "alchemical_functions" in accepted:
            continue  # needs a parameter of the System to drive
        try:
            yield kind.__name__, kind(**given)
        except (TypeError, IndexError):
            continue  # a base class


MOVES = {
    "LangevinDynamicsMove": lambda: mcmc.LangevinDynamicsMove(DT, n_steps=20),
    "LangevinSplittingDynamicsMove": lambda: mcmc.LangevinSplittingDynamicsMove(
        DT, n_steps=20
    ),
    "GHMCMove": lambda: mcmc.GHMCMove(DT, n_steps=20),
    "HMCMove": lambda: mcmc.HMCMove(DT, n_steps=20),
    "MCDisplacementMove": lambda: mcmc.MCDisplacementMove(atom_subset=[0, 1, 2]),
    "MCRotationMove": lambda: mcmc.MCRotationMove(atom_subset=[0, 1, 2]),
}


def outcomes() -> Iterator[tuple[str, Outcome]]:
    """Yield each outcome with the kind of thing that was tried."""
    for kind in subclasses(testsystems.TestSystem):
        yield "test system", try_system(kind)
    for name, integrator in integrators_to_try():
        yield "integrator", try_run(name, lambda i=integrator: integrate(i))
    for name, make in MOVES.items():
        yield "move", try_run(name, lambda m=make: move(m()))
    yield "sampler", try_run("ParallelTemperingSampler", temper)


@click.command()
def main() -> None:
    """Try all systems and moves of openmmtools with the force, and print what came."""
    marks = {True: "well", False: "WRONG", None: "-"}
    console = Console(width=150)
    results = []
    for kind, outcome in outcomes():
        results.append(outcome)
        mark = marks[outcome.well]
        console.print(f"{kind:12} {outcome.name:36} {mark:6} {outcome.text}")
    tried = [outcome for outcome in results if outcome.well is not None]
    well = sum(bool(outcome.well) for outcome in tried)
    console.print(f"{len(tried)} tried, {well} as they should be")
    sys.exit(0 if well == len(tried) else 1)


if __name__ == "__main__":
    main()

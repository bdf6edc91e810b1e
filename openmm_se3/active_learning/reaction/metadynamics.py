"""Well-tempered metadynamics of the committee's mean, run by OpenMM.

Barducci, Bussi and Parrinello 2008 (https://doi.org/10.1103/PhysRevLett.100.020603), as
``openmm.app.Metadynamics`` does it.  Variables that are not periodic are kept in their
range by walls.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.reaction.ranges import Biased, Metadynamics
from openmm_se3.active_learning.reaction.variables import named_topology
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import (
    FRAME_SPACING,
    FRICTION,
    TIME_STEP,
    Explored,
)
from openmm_se3.units import (
    BOLTZMANN_KJ_PER_MOL,
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    FS_TO_PS,
    JOULE_PER_CALORIE,
    NM_TO_ANGSTROM,
)

WALKERS = 4  # of metadynamics in a round
WALL = 4.0  # k T / width^2, stiffness of the walls
KJ = unit.kilojoule_per_mole


class MeanForce:
    """The committee's mean as OpenMM calls it; watches how far the members deviate.

    Args:
        committee: The committee.
        system: The molecule.
        stop_above: Deviation at which a walker stops, eV/A.

    Attributes:
        deviation: Deviation at the last call, eV/A.
        stop: "deviation" or "broken" once a walker has to stop, with the frame.
    """

    def __init__(self, committee: Committee, system: System, stop_above: float) -> None:
        self.committee, self.system = committee, system
        self.stop_above = stop_above
        self.atoms = Atoms([system.numbers])
        self.reset()

    def reset(self) -> None:
        """Forget what stopped a walker."""
        self.deviation = 0.0
        self.stop = ""
        self.frame: np.ndarray | None = None

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_atoms, 3], kJ/mol/nm."""
        found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        positions = NM_TO_ANGSTROM * np.asarray(found)
        if self.stop:
            return 0.0, np.zeros_like(positions)
        predicted = self.committee.predict(self.atoms, positions)
        self.deviation = float(predicted.deviations(self.atoms)[0])
        forces = predicted.mean_forces
        if not self.deviation < self.stop_above or not np.isfinite(forces).all():
            whole = np.isfinite(self.deviation) and self.system.intact(positions[None])
            self.stop = "deviation" if whole else "broken"
            self.frame = positions - positions.mean(axis=0)
            return 0.0, np.zeros_like(positions)
        energy = float(predicted.energies.mean()) * EV_TO_KJ_PER_MOL
        return energy, EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM * forces


class BiasedDynamics:
    """Langevin dynamics with metadynamics, of one molecule after the other.

    The bias stays when another walker starts.

    Args:
        committee: Its mean moves the atoms.
        system: The molecule.
        variables: The collective variables.
        options: Settings of metadynamics.
        temperature: K.
        stop_above: Deviation at which a walker stops, eV/A.
        bias: Bias to begin with, on the grid of the variables, kJ/mol; None for none.
        seed: Seed of noise and velocities.
    """

    def __init__(
        self,
        committee: Committee,
        system: System,
        variables: Sequence[Biased],
        options: Metadynamics,
        temperature: float,
        stop_above: float,
        seed: int,
        bias: np.ndarray | None = None,
    ) -> None:
        from ase.data import atomic_masses

        self.system, self.temperature = system, temperature
        self.mean = MeanForce(committee, system, stop_above)
        moved = openmm.System()
        for number in system.numbers:
            moved.addParticle(float(atomic_masses[number]))
        moved.addForce(openmm.PythonForce(self.mean))
        thermal = BOLTZMANN_KJ_PER_MOL * temperature
        for one in variables:
            if not one.variable.periodic:
                moved.addForce(walls(one, thermal))
        height = thermal
        if options.height is not None:
            height = options.height * JOULE_PER_CALORIE
        with tempfile.TemporaryDirectory() as folder:
            # The public way to begin with a bias: that of another walker, on disk.
            if bias is not None:
                np.save(Path(folder, "bias_-1_0.npy"), bias)
            self.bias = app.Metadynamics(
                moved,
                [one.bias_variable() for one in variables],
                temperature * unit.kelvin,
                options.bias_factor,
                height * KJ,
                options.spacing,
                options.spacing,
                folder,
            )
        self.bias.biasDir = self.bias.saveFrequency = None  # only read
        integrator = openmm.LangevinMiddleIntegrator(
            temperature, FRICTION / FS_TO_PS, TIME_STEP * FS_TO_PS
        )
        integrator.setRandomNumberSeed(_seed(seed))
        self.simulation = app.Simulation(
            named_topology(system),
            moved,
            integrator,
            openmm.Platform.getPlatformByName("Reference"),
        )

    def start(
        self, positions: np.ndarray, seed: int, velocities: np.ndarray | None = None
    ) -> None:
        """Place a walker.

        Args:
            positions: Positions [n_atoms, 3], A.
            seed: Seed of its velocities.
            velocities: Velocities [n_atoms, 3], nm/ps; None draws them.
        """
        self.mean.reset()
        context = self.simulation.context
        context.setPositions(positions / NM_TO_ANGSTROM)
        if velocities is None:
            context.setVelocitiesToTemperature(self.temperature, _seed(seed))
        else:
            context.setVelocities(velocities)

    def advance(self, steps: int) -> str:
        """Make some steps; return why the walker has to stop, "" if it has not."""
        try:
            self.bias.step(self.simulation, steps)
        except openmm.OpenMMException as error:
            if "NaN" not in str(error):
                raise
            return "broken"
        if self.mean.stop:
            return self.mean.stop
        return "" if self.system.intact(self.positions()[None])[0] else "broken"

    def positions(self) -> np.ndarray:
        """Return centered positions [n_atoms, 3], A."""
        state = self.simulation.context.getState(positions=True)
        found = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        centered = NM_TO_ANGSTROM * np.asarray(found)
        return centered - centered.mean(axis=0)

    def velocities(self) -> np.ndarray:
        """Return velocities [n_atoms, 3], nm/ps."""
        state = self.simulation.context.getState(velocities=True)
        found = state.getVelocities(asNumpy=True)
        return np.asarray(found.value_in_unit(unit.nanometer / unit.picosecond))

    def variables(self) -> np.ndarray:
        """Return the collective variables, in OpenMM's units."""
        return np.array(self.bias.getCollectiveVariables(self.simulation))

    def free_energy(self) -> np.ndarray:
        """Return the estimate of the free energy on the grid, kJ/mol.

        Its last axis is the first variable.
        """
        return np.asarray(self.bias.getFreeEnergy().value_in_unit(KJ))


def bias_of(free_energy: np.ndarray, options: Metadynamics) -> np.ndarray:
    """Return the bias that belongs to a free energy of :class:`BiasedDynamics`."""
    factor = options.bias_factor
    return np.asarray(-free_energy * (factor - 1.0) / factor)


def explore_biased(
    committee: Committee,
    system: System,
    variables: Sequence[Biased],
    options: Metadynamics,
    temperature: float,
    steps: int,
    stop_above: float,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Explored:
    """Run walkers of metadynamics, one after the other, and return their frames.

    They start from all minima in turn, each with the bias of those before it.

    Args:
        committee: Its mean moves the walkers.
        system: The molecule.
        variables: The collective variables.
        options: Settings of metadynamics.
        temperature: K.
        steps: Steps of each walker.
        stop_above: Deviation at which a walker stops, eV/A.
        rng: Draws the seeds.
        progress: Called with finished and all steps.
    """
    seeds = rng.integers(1, 2**30, size=WALKERS + 1)
    dynamics = BiasedDynamics(
        committee,
        system,
        variables,
        options,
        temperature,
        stop_above,
        int(seeds[WALKERS]),
    )
    frames: list[tuple[int, int, float, np.ndarray]] = []
    stops = [""] * WALKERS
    for walker in range(WALKERS):
        start = system.minima[walker % len(system.minima)]
        dynamics.start(start, int(seeds[walker]))
        for step in range(FRAME_SPACING, steps + 1, FRAME_SPACING):
            stops[walker] = dynamics.advance(FRAME_SPACING)
            mean = dynamics.mean
            if stops[walker] == "deviation" and mean.frame is not None:
                frames.append((walker, step, mean.deviation, mean.frame))
            if stops[walker]:
                break
            frames.append((walker, step, mean.deviation, dynamics.positions()))
            progress(walker * steps + step, WALKERS * steps)
    return Explored(
        walker=np.array([f[0] for f in frames], dtype=int),
        system=np.zeros(len(frames), dtype=int),
        temperature=np.full(len(frames), temperature),
        step=np.array([f[1] for f in frames], dtype=int),
        deviation=np.array([f[2] for f in frames], dtype=float),
        positions=[f[3] for f in frames],
        stops=stops,
        walker_temperatures=np.full(WALKERS, temperature),
        steps=steps,
        walker_biased=np.ones(WALKERS, dtype=bool),
    )


def walls(one: Biased, thermal: float) -> openmm.Force:
    """Return what keeps a variable in its range."""
    scale = one.variable.scale
    force = openmm.CustomCVForce("stiffness*(max(0, cv - high)^2 + max(0, low - cv)^2)")
    force.addCollectiveVariable("cv", copy.deepcopy(one.variable.force))
    force.addGlobalParameter("stiffness", WALL * thermal / (scale * one.width) ** 2)
    force.addGlobalParameter("high", scale * one.high)
    force.addGlobalParameter("low", scale * one.low)
    force.setName("walls")
    return force


def _seed(seed: int) -> int:
    return seed % (2**31 - 1) + 1  # 0 would be a seed of OpenMM's choice

"""The ensemble of a run: its integrators, its barostat and its degrees of freedom."""

from __future__ import annotations

import openmm
from openmm import app, unit

from openmm_se3.molecules import NAME as MOLECULES
from openmm_se3.molecules import keep_molecules
from openmm_se3.simulation.options import RunOptions
from openmm_se3.units import FS_TO_PS

FRICTION_EQUILIBRATION = 10.0  # 1/ps; 2 ps are then 20 relaxation times
FRICTION_LANGEVIN = 1.0  # 1/ps
FREQUENCY_NOSE_HOOVER = 25.0  # 1/ps
BAROSTAT_INTERVAL = 25  # steps between attempts to change the volume
EQUILIBRATION, PRODUCTION = 0, 1  # places in the CompoundIntegrator


def add_ensemble_forces(
    system: openmm.System, topology: app.Topology, options: RunOptions, seed: int
) -> None:
    """Add to a System what the ensemble needs and is not there yet.

    NPT needs a MonteCarloBarostat.  It moves molecules as a whole, which it finds by
    bonds; forces without any get bonds of no strength, where these are not there yet.
    The Nose-Hoover thermostat conserves a momentum of zero, and takes that into account
    only if there is a CMMotionRemover.

    Args:
        system: The System; changed in place.
        topology: Its topology.
        options: The ensemble, thermostat, temperature and pressure.
        seed: Seed of the barostat.

    Raises:
        ValueError: NPT is asked for, but the System is not periodic; or the System has
            a barostat or thermostat of another ensemble.
    """
    present = {type(force) for force in system.getForces()}
    refuse_npt_without_box(options, system.usesPeriodicBoundaryConditions())
    _refuse_another_ensemble(system, options)
    if options.ensemble == "npt":
        if openmm.MonteCarloBarostat not in present:
            system.addForce(
                openmm.MonteCarloBarostat(
                    options.pressure_bar * unit.bar,
                    options.temperature * unit.kelvin,
                    BAROSTAT_INTERVAL,
                )
            )
        for force in system.getForces():
            if isinstance(force, openmm.MonteCarloBarostat):
                force.setRandomNumberSeed(seed)
        if all(force.getName() != MOLECULES for force in system.getForces()):
            keep_molecules(system, topology)
    if _is_nose_hoover(options) and openmm.CMMotionRemover not in present:
        system.addForce(openmm.CMMotionRemover())


def refuse_npt_without_box(options: RunOptions, periodic: bool) -> None:
    """Refuse NPT of what is not periodic.

    Raises:
        ValueError: NPT is asked for, but there is no box.
    """
    if options.ensemble == "npt" and not periodic:
        raise ValueError(
            "NPT needs a periodic box and this structure has none: choose nve or nvt, "
            "or give the box in the structure file (CRYST1 in PDB, _cell in mmCIF)"
        )


def _refuse_another_ensemble(system: openmm.System, options: RunOptions) -> None:
    """Refuse barostats and thermostats that would make another ensemble of the run."""
    ours = (options.pressure_bar * unit.bar, options.temperature * unit.kelvin)
    for force in system.getForces():
        name = type(force).__name__
        if isinstance(force, openmm.MonteCarloBarostat) and options.ensemble == "npt":
            theirs = (force.getDefaultPressure(), force.getDefaultTemperature())
            if theirs != ours:
                raise ValueError(
                    f"the System has a {name} of {theirs[0]} and {theirs[1]}, the run "
                    f"asks for {ours[0]} and {ours[1]}: give the run these, or take "
                    "the barostat out of the System"
                )
        elif "Barostat" in name or isinstance(force, openmm.AndersenThermostat):
            raise ValueError(
                f"the System has a {name}, which would act in this run at "
                f"{options.ensemble}, too: take it out of the System (an earlier run "
                "at npt adds one: give each run its own copy.deepcopy of the System)"
            )


def make_integrator(options: RunOptions, seed: int) -> openmm.CompoundIntegrator:
    """Return the integrators of equilibration and production.

    They share one Context: making a second one would load the model again.
    """
    step = options.dt_fs * FS_TO_PS * unit.picosecond
    temperature = options.temperature * unit.kelvin

    def langevin(friction: float) -> openmm.LangevinMiddleIntegrator:
        integrator = openmm.LangevinMiddleIntegrator(
            temperature, friction / unit.picosecond, step
        )
        integrator.setRandomNumberSeed(seed)
        return integrator

    both = openmm.CompoundIntegrator()
    both.addIntegrator(langevin(FRICTION_EQUILIBRATION))
    if options.ensemble == "nve":
        both.addIntegrator(openmm.VerletIntegrator(step))
    elif _is_nose_hoover(options):
        frequency = FREQUENCY_NOSE_HOOVER / unit.picosecond
        both.addIntegrator(openmm.NoseHooverIntegrator(temperature, frequency, step))
    else:
        both.addIntegrator(langevin(FRICTION_LANGEVIN))
    return both


def set_seed(simulation: app.Simulation, seed: int) -> None:
    """Give integrators and forces a seed; the Context must be made anew after it."""
    both = simulation.integrator
    integrators = [both.getIntegrator(i) for i in range(both.getNumIntegrators())]
    for source in (*integrators, *simulation.system.getForces()):
        if hasattr(source, "setRandomNumberSeed"):
            source.setRandomNumberSeed(seed)


def degrees_of_freedom(system: openmm.System, ensemble: str) -> int:
    """Return the degrees of freedom of the kinetic energy.

    Three for each atom with a mass, less the constraints, less three where the momentum
    stays zero: with a CMMotionRemover, or where it is removed at the start and
    conserved.  A free cluster turns, so its angular momentum counts: 3N - 3.

    Raises:
        ValueError: Nothing can move.
    """
    count = range(system.getNumParticles())
    massive = sum(system.getParticleMass(i)._value > 0.0 for i in count)
    removed = any(isinstance(f, openmm.CMMotionRemover) for f in system.getForces())
    conserved = ensemble == "nve" and not is_anchored(system)
    fixed = 3 if removed or conserved else 0
    free = 3 * massive - system.getNumConstraints() - fixed
    if free < 1:
        raise ValueError(f"a system of {massive} moving atoms has nothing to simulate")
    return free


def is_anchored(system: openmm.System) -> bool:
    """Tell whether something ties the system to its place in space.

    An atom without mass, which pushes the others and does not move, or a force that
    depends on where the atoms are, not only on where they are to each other.
    """
    held = any(
        system.getParticleMass(i)._value == 0.0 and not system.isVirtualSite(i)
        for i in range(system.getNumParticles())
    )
    return held or any(_depends_on_place(force) for force in system.getForces())


def _depends_on_place(force: openmm.Force) -> bool:
    if isinstance(force, openmm.CustomCVForce):
        count = range(force.getNumCollectiveVariables())
        return any(_depends_on_place(force.getCollectiveVariable(i)) for i in count)
    return isinstance(force, openmm.CustomExternalForce)


def _is_nose_hoover(options: RunOptions) -> bool:
    return options.ensemble != "nve" and options.thermostat == "nose-hoover"

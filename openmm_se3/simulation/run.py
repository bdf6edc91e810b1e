"""One run of molecular dynamics: minimize, equilibrate, produce, record, go on.

It takes any System, so that a model is only one use of it.
"""

from __future__ import annotations

import datetime
import platform as machine
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rich.console import Console

from openmm_se3.files import atomic_write
from openmm_se3.geometry import in_angstrom
from openmm_se3.renamed_fields import with_new_names
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.checkpoint import (
    Checkpoint,
    Checkpoints,
    environment,
    identity,
)
from openmm_se3.simulation.ensemble import (
    add_ensemble_forces,
    degrees_of_freedom,
    make_integrator,
)
from openmm_se3.simulation.folder import RunFolder, chosen_seed, read_facts
from openmm_se3.simulation.guard import GuardReporter
from openmm_se3.simulation.minimum import minimized
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.phases import Phases, RunRecord
from openmm_se3.simulation.platforms import (
    best_platform,
    named_platform,
    platform_names,
    platform_properties,
)
from openmm_se3.simulation.uncertainty import UncertaintyReporter
from openmm_se3.version import installed_versions

PACKAGES = ("openmm-se3", "openmm", "openmmtorch", "torch", "numpy")
# Facts of ``about`` that may change when a run is resumed.
CIRCUMSTANCES = ("backend", "command", "implementation", "model", "structure")
BYTES_OF_ATOM = 24  # position and velocity in float32
SIZE_SHOWN_GB = 0.5  # less is no reason to think about disks


def run_dynamics(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray | unit.Quantity,
    options: RunOptions,
    about: dict[str, Any] | None = None,
    console: Console | None = None,
    uncertainty: UncertaintyReporter | None = None,
) -> RunRecord:
    """Run one trajectory and write it to ``options.out``, or go on with it.

    The structure is minimized, equilibrated with Langevin dynamics, then produced.  At
    the hand-over the momentum and, without a box, the center of mass are set to zero;
    the angular momentum is kept.  The integrators are leapfrogs with the same step, so
    positions and velocities go over as they are.

    Args:
        system: Particles and forces; what the ensemble needs, such as a barostat, is
            added to it.
        topology: Atoms and the bonds that the guard watches.
        positions: Start [n_atoms, 3], A, or a Quantity.
        options: What to run.
        about: More facts for ``run.json``, for example of the model.  A run is resumed
            with the same facts only, but for the names of model, backend and structure.
        console: Shows progress there; None shows nothing.
        uncertainty: Evaluates the run's model, a committee, on the way.  The frames
            that it saves go to ``options.out``.

    Raises:
        FolderInUseError: The folder has results already, or another run writes to it.
        BadMinimumError: A molecule falls apart, or two fuse, when it is minimized.
        ValueError: The start, the ensemble or the platform is unfit, or the run to
            resume was another one or is damaged.
        KeyboardInterrupt: After a signal such as Ctrl-C, when the files were closed, a
            checkpoint was written and the state was recorded.
    """
    positions = _checked_positions(system, topology, positions)
    console = console or Console(quiet=True)
    about = with_new_names("environment", about or {}, DeprecationWarning)
    with RunFolder(options.out, options.overwrite or options.resume) as folder:
        checkpoint = _newest_checkpoint(folder, console) if options.resume else None
        before = _facts_before(folder, checkpoint)
        seed = chosen_seed(options)
        add_ensemble_forces(system, topology, options, seed)
        dof = degrees_of_freedom(system, options.ensemble)
        settings = {**options.settings(), "seed": seed}
        model = {k: v for k, v in about.items() if k not in CIRCUMSTANCES}
        what = identity(system, topology, positions, settings, model)
        if checkpoint is not None:
            checkpoint.refuse_others(what)
        if before.get("status") == "completed" and before["steps"] >= options.steps:
            text = f"The run in {folder.path} is complete: {before['steps']} steps."
            console.print(text, highlight=False, soft_wrap=True)
            return RunRecord.of(folder.path, before)
        platform, why = _choose_platform(system, positions, options, checkpoint)
        console.print(f"Platform {platform.getName()} ({why})", highlight=False)
        console.print(f"Seed {seed}", highlight=False)
        _print_size(options, len(positions), console)
        integrator = make_integrator(options, seed)
        properties = platform_properties(platform.getName(), options.precision)
        simulation = app.Simulation(topology, system, integrator, platform, properties)
        here = environment(
            simulation.context,
            about.get("backend", ""),
            about.get("implementation", ""),
        )
        facts: dict[str, Any] = {
            "status": "running",
            "reason": "",
            "started": before.get("started", _now()),
            "options": {**options.to_dict(), "seed": seed},
            "frame_interval": options.frame_interval,
            "log_interval": options.log_interval,
            "degrees_of_freedom": dof,
            "masses": [system.getParticleMass(i)._value for i in range(len(positions))],
            "platform": platform.getName(),
            "platform_reason": why,
            "machine": machine.platform(),
            "versions": installed_versions(PACKAGES),
            **about,
        }
        if checkpoint is None:
            reference = _start(simulation, positions, options, seed, folder, console)
        else:
            reference, resumed = _go_on(simulation, checkpoint, here, seed, folder)
            facts["resumed"] = [*before.get("resumed", []), resumed]
            text = f"Going on from step {checkpoint.step} of the {checkpoint.phase}."
            if checkpoint.phase == "production" and checkpoint.step > options.steps:
                text = (
                    f"The run has {checkpoint.step} steps already, more than the "
                    f"{options.steps} that are asked for."
                )
            console.print(text, highlight=False, soft_wrap=True)
        folder.write_json(names.RUN, facts)
        guard = GuardReporter(
            options.frame_interval,
            topology,
            np.array(facts["masses"]),
            reference,
            options.temperature,
            options.dt_fs,
            watch_bonds=not options.reactive,
        )
        fit = {"identity": what, "environment": here}
        phases = Phases(
            simulation,
            options,
            guard,
            folder,
            facts,
            fit,
            console,
            checkpoint,
            uncertainty,
        )
        return phases.run()


def _print_size(options: RunOptions, n_atoms: int, console: Console) -> None:
    """Say how much the frames of a run will take, where that is much."""
    frames = options.steps // options.frame_interval
    size = frames * n_atoms * BYTES_OF_ATOM / 1e9
    if size > SIZE_SHOWN_GB:
        console.print(
            f"{frames:,} frames will take {size:.2g} GB; a longer --frame-interval "
            "(frame_fs) takes less, and above 3.9 fs leaves out the vibrational "
            "spectrum",
            highlight=False,
            soft_wrap=True,
        )


def _checked_positions(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray | unit.Quantity,
) -> np.ndarray:
    positions = in_angstrom(positions)
    atoms, particles = topology.getNumAtoms(), system.getNumParticles()
    if not (atoms == particles and positions.shape == (atoms, 3)):
        raise ValueError(
            f"the topology has {atoms} atoms, the System {particles} particles and the "
            f"positions have the shape {positions.shape}; they must agree"
        )
    if not np.isfinite(positions).all():
        bad = int(np.argmax(~np.isfinite(positions).all(axis=1)))
        raise ValueError(f"the start position of atom {bad} is not a finite number")
    return positions


def _newest_checkpoint(folder: RunFolder, console: Console) -> Checkpoint | None:
    """Return the checkpoint to go on from; None if the run never came to its first.

    Raises:
        ValueError: All checkpoints are damaged or were deleted.
    """
    checkpoint = Checkpoints(folder / names.CHECKPOINTS).newest()
    if checkpoint is None:
        found = [name for name in names.RECORDS if (folder / name).exists()]
        if found:
            raise ValueError(
                f"{folder.path} holds {', '.join(found)} but no checkpoint to go on "
                "from; start again with --overwrite"
            )
        console.print(
            f"No checkpoint in {folder.path} yet: starting at the beginning.",
            highlight=False,
            soft_wrap=True,
        )
    return checkpoint


def _facts_before(folder: RunFolder, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Return what ``run.json`` says of the run that goes on; nothing of a new run."""
    path = folder / names.RUN
    if checkpoint is None or not path.is_file():
        return {}
    return read_facts(path)


def _choose_platform(
    system: openmm.System,
    positions: np.ndarray,
    options: RunOptions,
    checkpoint: Checkpoint | None,
) -> tuple[openmm.Platform, str]:
    if options.platform is not None:
        return named_platform(options.platform), "asked for"
    if checkpoint is not None:
        name = checkpoint.environment["platform"]
        if name in platform_names():
            return named_platform(name), "that of the checkpoint"
    return best_platform(system, positions, options.precision)


def _start(
    simulation: app.Simulation,
    positions: np.ndarray,
    options: RunOptions,
    seed: int,
    folder: RunFolder,
    console: Console,
) -> np.ndarray:
    """Put a simulation at its start; return the minimized positions [n_atoms, 3], A.

    Raises:
        BadMinimumError: A molecule falls apart, or two fuse, when it is minimized.
        ValueError: The start cannot be minimized.
    """
    minimum = minimized(simulation, positions, console)
    temperature = options.temperature * unit.kelvin
    simulation.context.setVelocitiesToTemperature(temperature, seed)
    folder.clear()
    with atomic_write(folder / names.TOPOLOGY) as path, open(path, "w") as file:
        app.PDBFile.writeFile(simulation.topology, minimum * unit.angstrom, file)
    return minimum


def _go_on(
    simulation: app.Simulation,
    checkpoint: Checkpoint,
    here: dict[str, str],
    seed: int,
    folder: RunFolder,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Put a simulation at a checkpoint.

    Returns:
        The minimized positions of the start [n_atoms, 3], A, and what ``run.json`` says
        of this sitting.

    Raises:
        ValueError: The files of the run are not those of the checkpoint.
    """
    checkpoint.refuse_short_files(folder.path)
    n_atoms = simulation.topology.getNumAtoms()
    minimum = _read_positions(folder / names.TOPOLOGY, n_atoms)
    because = checkpoint.restore(simulation, here, seed)
    folder.clear(names.ENDINGS)
    return minimum, {
        "at": _now(),
        "phase": checkpoint.phase,
        "step": checkpoint.step,
        "bit_identical": not because,
        "because": because,
    }


def _read_positions(path: Path, n_atoms: int) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, of a PDB file that a run wrote.

    Raises:
        ValueError: The file is missing or damaged.
    """
    columns = (slice(30, 38), slice(38, 46), slice(46, 54))
    try:
        positions = [
            [float(line[column]) for column in columns]
            for line in path.read_text().splitlines()
            if line.startswith(("ATOM", "HETATM"))
        ]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}, with the bond lengths that a run is watched by, cannot be read "
            f"({error}): put it back, or start again with --overwrite"
        ) from error
    if len(positions) != n_atoms:
        raise ValueError(
            f"{path} has {len(positions)} atoms, the run {n_atoms}: put the file back "
            "as it was, or start again with --overwrite"
        )
    return np.array(positions)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

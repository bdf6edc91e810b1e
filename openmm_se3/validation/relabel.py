"""A model beside the DFT of its labels: its own dynamics, frequencies and torsions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
from openmm import unit

from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.elements import COVALENT_RADII, symbols_of
from openmm_se3.force import SE3Potential
from openmm_se3.units import (
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    EV_TO_KCAL_PER_MOL,
    SPEED_OF_LIGHT_CM_PER_FS,
)
from openmm_se3.validation.accuracy import GROUP
from openmm_se3.validation.check import Check
from openmm_se3.validation.contexts import (
    as_function,
    energy_and_forces_of,
    make_context,
    make_system,
    masses_of,
    positions_of,
    relaxed,
)
from openmm_se3.validation.structures import BOND_REACH, Structure

TEMPERATURE = 300.0  # K
DT = 0.0005  # ps
FIRST_STEPS, APART_STEPS = 1000, 200  # before the first frame, and between two
DISPLACEMENT = 0.01  # A, of the finite differences for frequencies
TORSION_STEP = 30.0  # degrees
MOST_TORSIONS = 3

Labels = Callable[[np.ndarray], tuple[float, np.ndarray]]


def level_of(metadata: dict[str, Any]) -> LevelOfTheory:
    """Return the level of theory of a model's labels.

    Raises:
        ValueError: It is known by its name only, so that it cannot be computed.
    """
    values = metadata["level_of_theory"]
    if set(values) == {"name"}:
        raise ValueError(
            f"the level of theory of the model's labels is known as {values['name']!r} "
            "only: --relabel needs all settings, which labels of openmm-se3 have"
        )
    return LevelOfTheory(**values)


def dft_of(numbers: np.ndarray, level: LevelOfTheory) -> Labels:
    """Return DFT as a function of positions [n_atoms, 3], A: energy, eV, and forces."""
    from openmm_se3.data.labeling.dft import label_frame

    def function(positions: np.ndarray) -> tuple[float, np.ndarray]:
        label = label_frame(numbers, positions, level)
        return label.energy, label.forces

    return function


def relabel_checks(
    potential: SE3Potential,
    molecule: Structure,
    structure: Structure,
    dft: Callable[[np.ndarray], Labels],
    frames: int,
    seed: int,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[Check]:
    """Compare a model with DFT on frames of its own dynamics and on one molecule.

    Args:
        potential: The model.
        molecule: A molecule near a minimum, for frequencies and torsions.
        structure: Where dynamics starts.
        dft: Gives the DFT of atomic numbers.
        frames: Number of frames of dynamics.
        seed: Seed of the dynamics.
        progress: Called with what comes next.
    """
    progress(f"DFT of {frames} frames of the model's own dynamics")
    system = make_system(potential, structure)
    pairs = []
    labels = dft(structure.numbers)
    for ours, positions in own_frames(system, structure, frames, seed):
        pairs.append((*ours, *labels(positions)))
    energy = np.array([ours - theirs for ours, _, theirs, _ in pairs])
    force = np.array([ours - theirs for _, ours, _, theirs in pairs])
    note = f"{frames} frames of {structure.name} at {TEMPERATURE:g} K"
    spread = float(np.abs(energy - energy.mean()).mean()) * EV_TO_KCAL_PER_MOL
    checks = [
        _check("own dynamics, force error", np.abs(force).mean(), "kcal/mol/A", note),
        Check(GROUP, "own dynamics, energy error", spread, "kcal/mol", note=note),
    ]
    function = as_function(_context(make_system(potential, molecule), molecule))
    minimum = relaxed(make_system(potential, molecule), molecule)
    theirs_of = dft(molecule.numbers)
    masses = masses_of(make_system(potential, molecule))
    progress(f"DFT frequencies of {molecule.name}")
    waves, dft_waves = (
        frequencies(f, minimum.positions, masses) for f in (function, theirs_of)
    )
    checks.append(
        Check(
            GROUP,
            f"harmonic frequencies, {molecule.name}",
            float(np.abs(waves - dft_waves).max()),
            "cm^-1",
            note=f"largest difference; DFT {', '.join(f'{w:.0f}' for w in dft_waves)}",
        )
    )
    for bond, moved in rotatable_bonds(minimum)[:MOST_TORSIONS]:
        name = "-".join(symbols_of(minimum.numbers[list(bond)]))
        progress(f"DFT torsion about {name}")
        profile = np.array(
            [
                [f(positions)[0] for f in (function, theirs_of)]
                for positions in scan(minimum.positions, bond, moved)
            ]
        )
        relative = (profile - profile[0]) * EV_TO_KCAL_PER_MOL
        checks.append(
            Check(
                GROUP,
                f"torsion about {name} {bond[0]}-{bond[1]}",
                float(np.abs(relative[:, 0] - relative[:, 1]).max()),
                "kcal/mol",
                note=f"largest difference; DFT barrier {np.ptp(relative[:, 1]):.2f}",
            )
        )
    return checks


def own_frames(
    system: openmm.System, structure: Structure, frames: int, seed: int
) -> list[tuple[tuple[float, np.ndarray], np.ndarray]]:
    """Return energies and forces of Langevin dynamics, and their positions."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, DT)
    integrator.setRandomNumberSeed(seed)
    context = make_context(system, integrator, relaxed(system, structure).positions)
    context.setVelocitiesToTemperature(TEMPERATURE * unit.kelvin, seed)
    integrator.step(FIRST_STEPS)
    found = []
    for _ in range(frames):
        integrator.step(APART_STEPS)
        found.append((energy_and_forces_of(context), positions_of(context)))
    return found


def frequencies(
    function: Labels, positions: np.ndarray, masses: np.ndarray
) -> np.ndarray:
    """Return harmonic wavenumbers, cm^-1, in rising order; imaginary ones negative.

    Args:
        function: Gives energy, eV, and forces [n_atoms, 3], eV/A.
        positions: A minimum [n_atoms, 3], A.
        masses: Masses [n_atoms], dalton.
    """
    hessian = np.empty((positions.size, positions.size))
    for row, index in enumerate(np.ndindex(*positions.shape)):
        step = np.zeros_like(positions)
        step[index] = DISPLACEMENT
        forces = [function(positions + sign * step)[1] for sign in (1.0, -1.0)]
        hessian[row] = (forces[1] - forces[0]).ravel() / (2.0 * DISPLACEMENT)
    weights = np.repeat(1.0 / np.sqrt(masses), 3)
    symmetric = 0.5 * (hessian + hessian.T)
    squares = np.linalg.eigvalsh(symmetric * np.outer(weights, weights))
    squares = squares * EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2
    angular = np.sign(squares) * np.sqrt(np.abs(squares))
    found = angular / (2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS)
    # The six smallest are translations and rotations, five of a linear molecule.
    kept: np.ndarray = np.sort(found[np.argsort(np.abs(found))][_rigid(positions) :])
    return kept


def _rigid(positions: np.ndarray) -> int:
    """Return the number of motions that change no distance."""
    moments = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    return 3 + min(3, int((moments > 1e-3).sum()) + 1) if len(positions) > 1 else 3


def rotatable_bonds(structure: Structure) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Return bonds of two heavy atoms that are in no ring, and the atoms to turn."""
    radii = np.array([COVALENT_RADII[s] for s in symbols_of(structure.numbers)])
    x = structure.positions
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    bonded = distances < BOND_REACH * (radii[:, None] + radii)
    np.fill_diagonal(bonded, False)
    found = []
    for i, j in itertools.combinations(np.flatnonzero(structure.numbers > 1), 2):
        if not bonded[i, j] or min(bonded[i].sum(), bonded[j].sum()) < 2:
            continue
        side, waiting = {int(j)}, [int(j)]
        while waiting:
            atom = waiting.pop()
            for other in np.flatnonzero(bonded[atom]).tolist():
                if other not in side and {atom, other} != {int(i), int(j)}:
                    side.add(other)
                    waiting.append(other)
        if int(i) not in side:
            found.append(((int(i), int(j)), np.array(sorted(side))))
    return found


def scan(
    positions: np.ndarray, bond: tuple[int, int], moved: np.ndarray
) -> list[np.ndarray]:
    """Return a molecule turned about a bond, positions [n_atoms, 3], A, each."""
    from scipy.spatial.transform import Rotation

    axis = positions[bond[1]] - positions[bond[0]]
    axis = axis / np.linalg.norm(axis)
    turned = []
    for angle in np.arange(0.0, 360.0, TORSION_STEP):
        rotation = Rotation.from_rotvec(np.radians(angle) * axis)
        copy = positions.copy()
        copy[moved] = rotation.apply(copy[moved] - copy[bond[0]]) + copy[bond[0]]
        turned.append(copy)
    return turned


def _context(system: openmm.System, structure: Structure) -> openmm.Context:
    return make_context(system, openmm.VerletIntegrator(0.001), structure.positions)


def _check(name: str, value: float, kind: str, note: str) -> Check:
    return Check(GROUP, name, float(value) * EV_TO_KCAL_PER_MOL, kind, note=note)

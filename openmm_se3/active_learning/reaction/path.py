"""The minimum-energy path between two minima: a nudged elastic band of ASE.

Improved tangents and a climbing image (Henkelman, Uberuaga, Jonsson 2000,
https://doi.org/10.1063/1.1329672), from an IDPP interpolation.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.interpolation import aligned, interpolated

BETWEEN = 9  # images between the minima
SPRING = 0.2  # eV/A^2
TOLERANCE = 0.02  # eV/A, largest force across the path
FIRST_TOLERANCE = 0.1  # before an image climbs
MOST_STEPS = 300  # of each of the two stages
MINIMUM_TOLERANCE = 0.003  # eV/A
MINIMUM_STEPS = 200


@dataclasses.dataclass(frozen=True)
class Band:
    """A path.

    Attributes:
        positions: Positions of the images, the minima included [n_images, n_atoms, 3],
            A.
        energies: Energies [n_images], eV.
        converged: Whether the forces across it vanish.
    """

    positions: np.ndarray
    energies: np.ndarray
    converged: bool

    @property
    def top(self) -> int:
        """Image of highest energy."""
        return int(np.argmax(self.energies))

    @property
    def lengths(self) -> np.ndarray:
        """Length of the path up to each image [n_images], A: all atoms together."""
        frames = [self.positions[0]]
        for image in self.positions[1:]:
            frames.append(aligned(image, frames[-1]))
        steps = np.linalg.norm(np.diff(np.stack(frames), axis=0), axis=(1, 2))
        return np.concatenate([[0.0], np.cumsum(steps)])

    def save(self, path: Path) -> None:
        """Write the band."""
        write_arrays(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Band:
        """Read what :meth:`save` wrote."""
        arrays = read_arrays(path)
        return cls(**{**arrays, "converged": bool(arrays["converged"])})


def relaxed_minimum(
    calculator: Any, numbers: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return the positions [n_atoms, 3] (A) of the nearest minimum.

    Args:
        calculator: ASE calculator.
        numbers: Atomic numbers [n_atoms].
        start: Positions to start from [n_atoms, 3], A.
    """
    from ase import Atoms
    from ase.optimize import BFGS

    atoms = Atoms(numbers, start, calculator=calculator)
    BFGS(atoms, logfile=None).run(MINIMUM_TOLERANCE, MINIMUM_STEPS)
    return np.asarray(atoms.positions - atoms.positions.mean(axis=0))


def minimum_energy_path(
    calculator: Any,
    numbers: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    between: int = BETWEEN,
) -> Band:
    """Return the minimum-energy path from one minimum to another.

    Args:
        calculator: ASE calculator.
        numbers: Atomic numbers [n_atoms].
        first: Positions of the first minimum [n_atoms, 3], A.
        last: Positions of the last one, atoms in the same order.
        between: Images between them.
    """
    from ase import Atoms
    from ase.mep.neb import NEB
    from ase.optimize import FIRE

    guess = interpolated(numbers, first, last, between)
    images = [Atoms(numbers, x, calculator=calculator) for x in guess]
    options = {
        "k": SPRING,
        "method": "improvedtangent",
        "allow_shared_calculator": True,
        "remove_rotation_and_translation": True,
    }
    converged = True
    for climb, tolerance in ((False, FIRST_TOLERANCE), (True, TOLERANCE)):
        band = NEB(images, climb=climb, **options)
        converged = FIRE(band, logfile=None).run(tolerance, MOST_STEPS)
    energies = np.array([image.get_potential_energy() for image in images])
    return Band(np.stack([i.positions for i in images]), energies, bool(converged))

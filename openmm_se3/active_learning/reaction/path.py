"""The minimum-energy path between two minima: a nudged elastic band of ASE.

Improved tangents and a climbing image (Henkelman, Uberuaga, Jonsson 2000,
https://doi.org/10.1063/1.1329672), from an IDPP interpolation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.interpolation import aligned, interpolated

BETWEEN = 9  # images between the minima
SPRING = 0.2  # eV/A^2
TOLERANCE = 0.02  # eV/A, largest force across the path
FIRST_TOLERANCE = 0.1  # before an image climbs
MOST_STEPS = 100  # of each of the two stages; good potentials need some 30 in all

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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


def minimum_energy_path(
    evaluate: Evaluate,
    numbers: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    between: int = BETWEEN,
) -> Band:
    """Return the minimum-energy path from one minimum to another.

    Args:
        evaluate: Returns energies [n_images], eV, and forces [n_images, n_atoms, 3],
            eV/A, of positions [n_images, n_atoms, 3], A.
        numbers: Atomic numbers [n_atoms].
        first: Positions of the first minimum [n_atoms, 3], A.
        last: Positions of the last one, atoms in the same order.
        between: Images between them.
    """
    from ase import Atoms
    from ase.build import minimize_rotation_and_translation
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.mep.neb import NEB
    from ase.optimize import FIRE

    class Elastic(NEB):
        """A band whose images are computed in one call."""

        def get_forces(self) -> np.ndarray:
            for before, image in pairwise(self.images):
                minimize_rotation_and_translation(before, image)
            results = evaluate(np.stack([image.positions for image in self.images]))
            for image, energy, forces in zip(self.images, *results, strict=True):
                image.calc = SinglePointCalculator(image, energy=energy, forces=forces)
            return np.asarray(super().get_forces())

    guess = interpolated(numbers, first, last, between)
    images = [Atoms(numbers, x) for x in guess]
    converged = True
    for climb, tolerance in ((False, FIRST_TOLERANCE), (True, TOLERANCE)):
        band = Elastic(images, k=SPRING, climb=climb, method="improvedtangent")
        converged = FIRE(band, logfile=None).run(tolerance, MOST_STEPS)
    energies = np.array([image.get_potential_energy() for image in images])
    return Band(np.stack([i.positions for i in images]), energies, bool(converged))

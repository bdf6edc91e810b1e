"""The atom nearest to each atom, in little memory whatever the size of a frame."""

from __future__ import annotations

import dataclasses

import numpy as np

from openmm_se3.data.frames import Frame
from openmm_se3.elements import COVALENT_RADII, symbols_of
from openmm_se3.geometry import minimum_image

MOST_CENTERS = 500  # atoms of a frame looked at, evenly spaced; all of smaller frames
PAIRS_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The neighbor of some atoms that is nearest as a share of the covalent radii.

    Attributes:
        center: The atoms [n].
        neighbor: The nearest atom of each [n].
        vector: From the neighbor to the atom [n, 3], A.
        ratio: Distance over the sum of covalent radii [n].
        distance: Shortest distance of each atom to any other [n], A.
    """

    center: np.ndarray
    neighbor: np.ndarray
    vector: np.ndarray
    ratio: np.ndarray
    distance: np.ndarray


def nearest_atoms(frame: Frame) -> Nearest:
    """Return the nearest atoms of a frame of at least two."""
    n = len(frame.numbers)
    radii = np.array([COVALENT_RADII[symbol] for symbol in symbols_of(frame.numbers)])
    centers = np.arange(n)
    if n > MOST_CENTERS:
        centers = np.linspace(0, n - 1, MOST_CENTERS).round().astype(int)
    parts = []
    for some in np.array_split(centers, -(-len(centers) * n // PAIRS_AT_ONCE)):
        vectors = frame.positions[some, None] - frame.positions[None]
        vectors = minimum_image(vectors, frame.box)
        lengths = np.linalg.norm(vectors, axis=-1)
        rows = np.arange(len(some))
        lengths[rows, some] = np.inf
        ratios = lengths / (radii[some, None] + radii)
        best = ratios.argmin(1)
        parts.append(
            (best, vectors[rows, best], ratios[rows, best], lengths.min(axis=1))
        )
    neighbor, vector, ratio, distance = map(np.concatenate, zip(*parts, strict=True))
    return Nearest(centers, neighbor, vector, ratio, distance)

"""Structures between two minima of the same atoms, before any potential is known.

Image-dependent pair potential (Smidstrup, Pedersen, Stokbro, Jonsson 2014,
https://doi.org/10.1063/1.4878664), as ASE has it: all distances change as evenly as the
atoms can.
"""

from __future__ import annotations

import numpy as np


def aligned(positions: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Return positions [n_atoms, 3] turned and moved onto others, A."""
    from scipy.spatial.transform import Rotation

    center = onto.mean(axis=0)
    centered = positions - positions.mean(axis=0)
    if len(positions) < 3:
        return centered + center
    rotation, _ = Rotation.align_vectors(onto - center, centered)
    return np.asarray(rotation.apply(centered) + center)


def interpolated(
    numbers: np.ndarray, first: np.ndarray, last: np.ndarray, between: int
) -> np.ndarray:
    """Return structures from one to another [between + 2, n_atoms, 3], A.

    Args:
        numbers: Atomic numbers [n_atoms].
        first: Positions [n_atoms, 3], A.
        last: Positions of the same atoms in the same order; they are turned onto the
            first ones.
        between: Structures between the two.
    """
    from ase import Atoms
    from ase.mep.neb import NEB

    images = [Atoms(numbers, first) for _ in range(between + 1)]
    images.append(Atoms(numbers, aligned(last, first)))
    # MDMin of ASE's interpolation starts at rest: the result is always the same.
    NEB(images, method="improvedtangent").interpolate(method="idpp")
    return np.stack([image.positions for image in images])

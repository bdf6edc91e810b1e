"""Structures between two minima of the same atoms, before any potential is known.

Image-dependent pair potential (Smidstrup, Pedersen, Stokbro, Jonsson 2014,
https://doi.org/10.1063/1.4878664), as ASE has it: all distances change as evenly as the
atoms can.  Where atoms would have to pass through each other, as the hydrogen of HCN on
its way to HNC, the way is bent until they pass beside each other.
"""

from __future__ import annotations

import warnings

import numpy as np

EVEN = 0.01  # 1/A^2, of the objective; molecules that only turn and fold have less
WAYS = 8  # tried: the straight one, and bent ones
BEND = 0.5  # A, of each coordinate in the middle of the way


def aligned(positions: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Return positions [n_atoms, 3] turned and moved onto others, A."""
    from scipy.spatial.transform import Rotation

    center = onto.mean(axis=0)
    centered = positions - positions.mean(axis=0)
    if len(positions) < 3:
        return centered + center
    with warnings.catch_warnings():
        # Of a linear molecule any turn about its axis is as good.
        warnings.filterwarnings("ignore", "Optimal rotation is not uniquely")
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
    shares = np.linspace(0.0, 1.0, between + 2)[:, None, None]
    straight = first + shares * (aligned(last, first) - first)
    best, least = straight, np.inf
    for way in range(WAYS):
        rng = np.random.default_rng(way)
        bend = BEND * rng.normal(size=first.shape) if way else np.zeros_like(first)
        found = _evened(numbers, straight + np.sin(np.pi * shares) * bend)
        uneven = _unevenness(found)
        if uneven < least:
            best, least = found, uneven
        if least < EVEN:
            break
    return best


def _evened(numbers: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Return structures of the image-dependent pair potential, from a guess."""
    from ase import Atoms
    from ase.mep.neb import NEB, idpp_interpolate

    images = [Atoms(numbers, x) for x in guess]
    with np.errstate(divide="ignore", invalid="ignore"):  # atoms on one spot
        # MDMin of ASE's interpolation starts at rest: the result is always the same.
        idpp_interpolate(NEB(images, method="improvedtangent"), traj=None, log=None)
    return np.stack([image.positions for image in images])


def _unevenness(structures: np.ndarray) -> float:
    """Return the objective of the method for the worst structure, 1/A^2."""
    i, j = np.triu_indices(structures.shape[1], 1)
    distances = np.linalg.norm(structures[:, i] - structures[:, j], axis=2)
    shares = np.linspace(0.0, 1.0, len(structures))[:, None]
    wanted = distances[0] + shares * (distances[-1] - distances[0])
    if not np.isfinite(distances).all():
        return np.inf
    return float((0.5 * np.square(distances - wanted) / distances**4).sum(axis=1).max())

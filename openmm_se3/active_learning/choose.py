"""Which frames to label: random ones to test on, and the most useful ones to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

POOL = 5  # frames of highest deviation that compete for one label
SAME = 1e-6  # 1/A, of descriptors of one structure


def random_frames(
    weights: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Return different random frames, in order.

    Args:
        weights: Relative probability of each frame [n_frames]; 0 excludes it.
        count: Frames wanted; fewer where there are not so many.
        rng: Draws them.
    """
    possible = int((weights > 0.0).sum())
    if not possible:
        return np.zeros(0, dtype=int)
    shares = weights / weights.sum()
    drawn = rng.choice(len(weights), min(count, possible), replace=False, p=shares)
    return np.sort(drawn)


def descriptor(positions: np.ndarray) -> np.ndarray:
    """Return what tells structures of the same atoms apart: inverse distances, 1/A.

    Args:
        positions: Positions [n_atoms, 3], A.
    """
    return 1.0 / np.maximum(pdist(positions), 0.1)


def _descriptors(frames: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([descriptor(positions) for positions in frames])


def are_new(positions: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether each frame is none of the known ones [n_frames].

    Args:
        positions: Positions of frames of the same atoms, [n_atoms, 3] each, A.
        known: Positions of frames that have labels.
    """
    if not len(positions) or not known:
        return np.ones(len(positions), dtype=bool)
    distances = cdist(_descriptors(positions), _descriptors(known))
    return np.asarray(distances.min(axis=1) > SAME)


def diverse_frames(
    positions: Sequence[np.ndarray],
    deviation: np.ndarray,
    known: Sequence[np.ndarray],
    count: int,
) -> np.ndarray:
    """Return frames of high deviation that differ from each other and from known ones.

    Of the frames of highest deviation, the next one taken is always that with the
    largest product of its deviation and its distance to the nearest frame that is taken
    or known.

    Args:
        positions: Positions of frames of the same atoms, [n_atoms, 3] each, A.
        deviation: Deviation of each [n_frames], eV/A.
        known: Positions of frames that have labels.
        count: Frames wanted; fewer where there are not so many different ones.
    """
    pool = np.argsort(-deviation, kind="stable")[: POOL * count]
    if not len(pool):
        return np.zeros(0, dtype=int)
    points = _descriptors([positions[int(i)] for i in pool])
    if known:
        nearest = cdist(points, _descriptors(known)).min(axis=1)
    else:
        nearest = np.full(len(pool), float(np.linalg.norm(points.std(axis=0))) + 1.0)
    taken: list[int] = []
    while len(taken) < min(count, len(pool)):
        best = int(np.argmax(deviation[pool] * nearest))
        if not nearest[best] > SAME:
            break  # only copies are left
        taken.append(best)
        nearest = np.minimum(nearest, cdist(points, points[best : best + 1])[:, 0])
    return np.sort(pool[taken])

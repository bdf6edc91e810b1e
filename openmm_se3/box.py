"""Geometry of periodic boxes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from openmm import app, unit


def box_of(topology: app.Topology) -> np.ndarray | None:
    """Return the box vectors of a topology as rows [3, 3], A; None without a box."""
    vectors = topology.getPeriodicBoxVectors()
    return None if vectors is None else rows_of(vectors)


def rows_of(vectors: Iterable[unit.Quantity]) -> np.ndarray:
    """Return OpenMM's box vectors as rows [3, 3], A."""
    return np.array([vector.value_in_unit(unit.angstrom) for vector in vectors])


def minimum_image(vectors: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Return vectors to the nearest image; as they are without a box.

    Right for vectors shorter than a quarter of the box, such as bonds; of longer ones
    in a slanted box another image may be nearer.

    Args:
        vectors: Differences of positions [..., 3], A.
        box: Box vectors as rows [3, 3], A; None without a box.
    """
    if box is None:
        return vectors
    nearest: np.ndarray = vectors - np.round(vectors @ np.linalg.inv(box)) @ box
    return nearest

"""Geometry of periodic boxes."""

from __future__ import annotations

import numpy as np


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

"""Frames on whose forces the ensemble that labeled them disagrees."""

from __future__ import annotations

import numpy as np

from openmm_se3.data.frames import Frames


def forces_std(frames: Frames) -> np.ndarray:
    """Return the uncertainty of the forces of each frame [n_frames], eV/A.

    That is the root mean square of their standard deviations over the components; NaN
    where no ensemble labeled the frame.
    """
    result = np.full(len(frames), np.nan)
    for index, rows in frames.by_block():
        deviation = frames.blocks[frames.block[index[0]]].forces_std
        if deviation is not None:
            squares = np.square(np.asarray(deviation[rows], dtype=float))
            result[index] = np.sqrt(squares.mean(axis=(1, 2)))
    return result

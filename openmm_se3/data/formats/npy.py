"""NumPy files of numbers that others made, looked at before they are read.

A header can claim any size and type.  What it claims is compared with the file, so that
nothing is reserved that is not there.
"""

from __future__ import annotations

import math
import tokenize
from pathlib import Path
from typing import BinaryIO

import numpy as np

KINDS = "biuf"
DAMAGE = (ValueError, TypeError, SyntaxError, OverflowError, tokenize.TokenError)


def read_numbers(path: Path, kinds: str = KINDS) -> np.ndarray:
    """Return an array of numbers.

    Args:
        path: The file.
        kinds: Accepted NumPy kinds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no NumPy file, holds something else than numbers, or is
            shorter or longer than its header says.
    """
    with open(path, "rb") as file:
        shape, fortran, dtype = _header(path, file)
        start = file.tell()
        size = path.stat().st_size - start
        if dtype.kind not in kinds or dtype.subdtype is not None:
            wanted = "integers" if kinds == "iu" else "numbers"
            raise ValueError(f"{path} is of type {dtype}, not an array of {wanted}")
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(
                f"{path} is damaged: its header says {list(shape)} of {dtype}, "
                f"{math.prod(shape) * dtype.itemsize} bytes, but {size} bytes follow"
            )
        values = np.fromfile(file, dtype=dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"unknown version {version}")
        shape, fortran, dtype = readers[version](file)
    except DAMAGE as error:
        raise ValueError(f"{path} is not a NumPy file of numbers: {error}") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"{path} is not a NumPy file of numbers: shape {shape}")
    return shape, fortran, dtype

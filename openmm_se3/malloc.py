"""Memory that the C library keeps for the next step instead of giving it back."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
ONE_GIB = 1 << 30
# By which users set the same for a process; glibc reads them.
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; does nothing with another C library.

    By default blocks of some 100 kB and more go back to the system when they are freed.
    A training step, or a step of dynamics with TorchScript, allocates hundreds of them.
    Thousands of page faults to get them anew took 10 to 20 percent of a training step
    on the CPU, and nearly half of a step of 24 or 48 free atoms.

    This holds for the whole process, which keeps up to 1 GiB that it has freed.  What
    the user has set by an environment variable is left alone.
    """
    if any(name in os.environ for name in VARIABLES):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, ONE_GIB)
        libc.mallopt(M_TRIM_THRESHOLD, ONE_GIB)
    except (OSError, AttributeError):
        return

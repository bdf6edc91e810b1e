"""Memory that the C library keeps for the next step instead of giving it back."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
ONE_GIB = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; does nothing with another C library.

    By default blocks of some 100 kB and more go back to the system when they are freed.
    A training step allocates hundreds of them, and thousands of page faults to get them
    anew took 10 to 20 percent of its time on the CPU.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, ONE_GIB)
        libc.mallopt(M_TRIM_THRESHOLD, ONE_GIB)
    except (OSError, AttributeError):
        return

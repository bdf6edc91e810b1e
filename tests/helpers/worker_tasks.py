"""Functions for worker processes, which find them in this importable module."""

from __future__ import annotations

import os
import signal
import time


def square_or_die(number: int) -> int:
    """Return the square; number 3 kills the process."""
    if number == 3:
        time.sleep(1.0)  # the results before are on their way
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def divide(x: int) -> float:
    """Return 1 / x, or the error of it."""
    return 1 / x

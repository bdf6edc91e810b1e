"""Threads of torch: one for small molecules.

A few atoms give several threads nothing to do but to wait for each other, which takes
ten times as long where other programs use the same cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

ONE_THREAD_ATOMS = 60  # up to here one thread is faster than several


@contextlib.contextmanager
def threads_for(n_atoms: int) -> Iterator[None]:
    """Let torch use one thread for the length of a block if there are few atoms.

    Args:
        n_atoms: Atoms of the largest structure that the block computes.
    """
    import torch

    before = torch.get_num_threads()
    if n_atoms <= ONE_THREAD_ATOMS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Threads of torch: one for small molecules, and one after a fork.

A few atoms give several threads nothing to do but to wait for each other, which takes
ten times as long where other programs use the same cores.

A forked process has no other thread than the one that forked.  OpenMP does not know
that: a child of a process that has computed with several threads would wait for the
others for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
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


def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_one_thread)

"""Several processes that train one network: which one this is, and sums over all.

Processes come from ``--devices``, from ``torchrun`` or from SLURM; Lightning Fabric
connects them.  A batch is divided among them and the loss is that of the whole batch,
so that the number of processes changes nothing but the time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, also before the processes are connected."""
    if _connected():
        return distributed.get_rank()
    return launched_rank()


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number that torchrun, SLURM or Lightning has given this process."""
    if "RANK" in environment:
        return int(environment["RANK"])
    if launched(environment) is not None:
        return int(environment["SLURM_PROCID"])
    # Lightning numbers the processes of a machine; all others are not the first.
    local, node = (int(environment.get(k, 0)) for k in ("LOCAL_RANK", "NODE_RANK"))
    return local or node


def is_first() -> bool:
    """Tell whether this process writes the files and talks to the user."""
    return rank() == 0


def world_size() -> int:
    """Return the number of connected processes."""
    return distributed.get_world_size() if _connected() else 1


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return processes a machine and machines, if a launcher has started this one."""
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    # An interactive shell in an allocation has the variables but is no task of a step.
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in environment:
        nodes = int(environment.get("SLURM_NNODES", 1))
        return int(environment["SLURM_NTASKS"]) // nodes, nodes
    return None


def share(batch: np.ndarray) -> np.ndarray:
    """Return the frames of a batch that this process works on.

    A process for which none is left gets the first one without its labels, marked by
    the bitwise complement of its index: it has to take part in every sum.
    """
    mine = batch[rank() :: world_size()] if world_size() > 1 else batch
    return mine if len(mine) else ~batch[:1]


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world_size() > 1:
        values = values.detach().clone()
        distributed.all_reduce(values)
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """Tell whether a flag is set in any process; all of them must ask."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0)


def from_all(part: T) -> Sequence[T]:
    """Return what each process holds, in the order of their numbers."""
    if world_size() == 1:
        return [part]
    parts: list[T | None] = [None] * world_size()
    distributed.all_gather_object(parts, part)
    return [part for part in parts if part is not None]


def _connected() -> bool:
    return distributed.is_available() and distributed.is_initialized()

"""What CUDA graphs ask of a force: choices, room for neighbors, and limits."""

from __future__ import annotations

import numpy as np

from openmm_se3.force import plugin
from openmm_se3.torchscript.build import CUDAGraphs, takes_all_pairs
from openmm_se3.triton.kernels import problem

# Of more atoms than this the arithmetic takes longer than starting it.
MOST_ATOMS = 1000


def fit_for_cuda_graphs(
    backend: str, implementation: str, neighbors: int | None
) -> tuple[str, str]:
    """Return backend and implementation that work with CUDA graphs.

    Raises:
        ValueError: Others were asked for, or no room for neighbors.
    """
    if neighbors is not None and not (type(neighbors) is int and neighbors > 0):
        raise ValueError(f"neighbors must be at least 1, got {neighbors!r}")
    if implementation == "compiled":
        raise ValueError(
            "cudaGraphs needs implementation 'torchscript', 'triton' or 'auto', got "
            "'compiled'"
        )
    reason = problem()
    if implementation == "auto" and reason is not None:
        implementation = "torchscript"
    if backend == "auto":
        serves = plugin.torchforce_problem() is None or implementation == "torchscript"
        backend = "torchforce" if serves else "pythonforce"
    if backend == "pythonforce" and implementation == "torchscript":
        raise ValueError(
            "cudaGraphs with backend 'pythonforce' needs Triton's kernels: "
            f"{reason or 'leave out implementation'}; or take backend 'torchforce'"
        )
    return backend, implementation


def cuda_graphs_for(
    room: int | None,
    box: np.ndarray | None,
    n_atoms: int,
    periodic: bool,
    implementation: str = "torchscript",
) -> CUDAGraphs | None:
    """Return what a force needs to know for CUDA graphs.

    Args:
        room: For neighbors of an atom; None where no CUDA graph is asked for.
        box: Box vectors of the topology as rows [3, 3], A; None without a box.
        n_atoms: Atoms of the force.
        periodic: The System has a box.
        implementation: What computes the network.

    Raises:
        ValueError: There are too many atoms, or the box is not known.
    """
    if room is None:
        return None
    if n_atoms > MOST_ATOMS and implementation == "torchscript":
        raise ValueError(
            f"cudaGraphs serves up to {MOST_ATOMS} atoms, got {n_atoms}: of more the "
            "arithmetic takes longer than starting it"
        )
    if not periodic or implementation == "triton":
        return CUDAGraphs(room, None)
    if box is None:
        raise ValueError(
            "cudaGraphs needs the box: topology.setPeriodicBoxVectors("
            "system.getDefaultPeriodicBoxVectors())"
        )
    x, y, z = box.tolist()
    return CUDAGraphs(room, (tuple(x), tuple(y), tuple(z)))


def recorded_edges(room: int | None, n_atoms: int, periodic: bool) -> int:
    """Return the edges that there is room for; empty ones cost as much as others.

    Arguments are those of :func:`cuda_graphs_for`.
    """
    if room is None or takes_all_pairs(n_atoms, periodic):
        return 0
    return n_atoms * (room if periodic else min(room, n_atoms - 1))

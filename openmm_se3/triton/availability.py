"""Whether the kernels serve a network on this machine; compiles them beforehand."""

from __future__ import annotations

import torch

from openmm_se3.compiled.cache import CompileError
from openmm_se3.compiled.library import reason_against
from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import default_room
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.triton import kernels
from openmm_se3.triton.force import triton_force


def triton_or_none(config: ModelConfig, required: bool) -> str | None:
    """Return "triton" where it serves a network, else None.

    Args:
        config: Shape of the network.
        required: Nothing else will do.

    Raises:
        CompileError: It is required, and does not work here.
    """
    reason = kernels.problem() or reason_against(config)
    if reason is None:
        return "triton"
    if required:
        raise CompileError(f"implementation 'triton' cannot be used: {reason}")
    return None


def compile_kernels(network: SE3Transformer, precision: str) -> None:
    """Let Triton compile and keep what steps launch, with a box and without.

    Args:
        network: The network, in float64 and evaluation mode.
        precision: "single" or "double".

    Raises:
        CompileError: That does not work here.
    """
    triton_or_none(network.config, required=True)
    one = torch.zeros(1, dtype=torch.int64)
    positions = torch.zeros(1, 3, dtype=torch.float32)  # as OpenMM's GPUs have them
    module = triton_force(network, precision, default_room(network.config.cutoff))
    module.set_atoms(one, one, 0.0)
    module(positions)
    module(positions, 5.0 * torch.eye(3))

"""Whether the kernels serve a network on this machine."""

from __future__ import annotations

from openmm_se3.compiled.library import CompileError, reason_against
from openmm_se3.config import ModelConfig
from openmm_se3.triton import kernels


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
        raise CompileError(f"engine 'triton' cannot be used: {reason}")
    return None

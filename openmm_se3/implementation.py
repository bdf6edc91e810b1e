"""What computes a network: compiled C++, kernels of Triton, or TorchScript."""

from __future__ import annotations

import os
import warnings

import torch

from openmm_se3.compiled.library import (
    compiled_or_none,
    load_library,
    reason_against,
)
from openmm_se3.config import ModelConfig
from openmm_se3.triton.availability import triton_or_none

IMPLEMENTATIONS = ("auto", "compiled", "triton", "torchscript")
VARIABLE = "OPENMM_SE3_IMPLEMENTATION"  # what "auto" means
OLD_VARIABLE = "OPENMM_SE3_ENGINE"  # its name before 0.2, for one release


def asked_implementation(implementation: str = "auto") -> str:
    """Return what is asked for, by the argument or else by the environment."""
    if implementation != "auto":
        return implementation
    if VARIABLE not in os.environ and OLD_VARIABLE in os.environ:
        warnings.warn(
            f"the environment variable {OLD_VARIABLE} is {VARIABLE} now; the old name "
            "goes with the next release",
            FutureWarning,
            stacklevel=2,
        )
        return os.environ[OLD_VARIABLE]
    return os.environ.get(VARIABLE, "auto")


def choose_implementation(implementation: str, config: ModelConfig) -> str:
    """Return the implementation that is to compute a network; nothing is compiled.

    Args:
        implementation: One of :data:`IMPLEMENTATIONS`; "auto" is compiled where the
            network has a compiled form and there is no GPU, Triton where there is one
            that it serves, else TorchScript.
        config: Shape of the network.

    Returns:
        "compiled", "triton" or "torchscript".

    Raises:
        ValueError: There is no such implementation.
    """
    implementation = asked_implementation(implementation)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {list(IMPLEMENTATIONS)}, got "
            f"{implementation!r}"
        )
    if implementation != "auto":
        return implementation
    if torch.cuda.is_available():
        return triton_or_none(config, required=False) or "torchscript"
    return "torchscript" if reason_against(config) is not None else "compiled"


def compile_implementation(
    implementation: str, config: ModelConfig, precision: str
) -> str:
    """Compile a network for the CPU if it is to be; return the implementation in use.

    Args:
        implementation: One of :data:`IMPLEMENTATIONS`.
        config: Shape of the network.
        precision: "single" or "double".

    Returns:
        "compiled", "triton" or "torchscript"; the last where "auto" finds, with a
        warning, that compiling does not work here.

    Raises:
        CompileError: The implementation asked for does not work here.
        ValueError: There is no such implementation.
    """
    chosen = choose_implementation(implementation, config)
    if chosen == "triton":
        triton_or_none(config, required=True)
    if chosen != "compiled":
        return chosen
    library = compiled_or_none(
        lambda: load_library(config, precision),
        config,
        is_required(implementation, "compiled"),
        "TorchScript",
    )
    return "torchscript" if library is None else "compiled"


def is_required(implementation: str, name: str) -> bool:
    """Tell whether an implementation means the one of this name and nothing else."""
    return asked_implementation(implementation) == name

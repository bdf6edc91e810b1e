"""What computes a network: compiled C++, kernels of Triton, or TorchScript."""

from __future__ import annotations

import os

import torch

from openmm_se3.compiled.library import (
    ENGINE_VARIABLE,
    compiled_or_none,
    load_library,
    reason_against,
)
from openmm_se3.config import ModelConfig
from openmm_se3.triton.engine import triton_or_none

ENGINES = ("auto", "compiled", "triton", "torchscript")


def choose_engine(engine: str, config: ModelConfig) -> str:
    """Return the engine that is to compute a network; nothing is compiled.

    Args:
        engine: One of :data:`ENGINES`; "auto" is compiled where the network has a
            compiled form and there is no GPU, Triton where there is one that it
            serves, else TorchScript.
        config: Shape of the network.

    Returns:
        "compiled", "triton" or "torchscript".

    Raises:
        ValueError: There is no such engine.
    """
    engine = _asked(engine)
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {list(ENGINES)}, got {engine!r}")
    if engine != "auto":
        return engine
    if torch.cuda.is_available():
        return triton_or_none(config, required=False) or "torchscript"
    return "torchscript" if reason_against(config) is not None else "compiled"


def compile_engine(engine: str, config: ModelConfig, precision: str) -> str:
    """Compile a network for the CPU if it is to be, and return the engine in use.

    Args:
        engine: One of :data:`ENGINES`.
        config: Shape of the network.
        precision: "single" or "double".

    Returns:
        "compiled", "triton" or "torchscript"; the last where "auto" finds, with a
        warning, that compiling does not work here.

    Raises:
        CompileError: The engine asked for does not work here.
        ValueError: There is no such engine.
    """
    chosen = choose_engine(engine, config)
    if chosen == "triton":
        triton_or_none(config, required=True)
    if chosen != "compiled":
        return chosen
    library = compiled_or_none(
        lambda: load_library(config, precision),
        config,
        is_required(engine, "compiled"),
        "TorchScript",
    )
    return "torchscript" if library is None else "compiled"


def is_required(engine: str, name: str) -> bool:
    """Tell whether an engine means the one of this name and nothing else."""
    return _asked(engine) == name


def _asked(engine: str) -> str:
    """Return the engine asked for, by the argument or the environment variable."""
    return os.environ.get(ENGINE_VARIABLE, engine) if engine == "auto" else engine

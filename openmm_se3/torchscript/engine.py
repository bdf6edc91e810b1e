"""What computes a network: C++ compiled for this machine's CPU, or TorchScript."""

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

ENGINES = ("auto", "compiled", "torchscript")


def choose_engine(engine: str, config: ModelConfig) -> str:
    """Return the engine that is to compute a network; nothing is compiled.

    Args:
        engine: One of :data:`ENGINES`; "auto" is compiled where the network has a
            compiled form and there is no GPU, else TorchScript.
        config: Shape of the network.

    Returns:
        "compiled" or "torchscript".

    Raises:
        ValueError: There is no such engine.
    """
    if engine == "auto":
        engine = os.environ.get(ENGINE_VARIABLE, engine)
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {list(ENGINES)}, got {engine!r}")
    if engine != "auto":
        return engine
    if torch.cuda.is_available() or reason_against(config) is not None:
        return "torchscript"
    return "compiled"


def compile_engine(engine: str, config: ModelConfig, precision: str) -> str:
    """Compile a network if that is the engine to use, and return the engine in use.

    Args:
        engine: One of :data:`ENGINES`.
        config: Shape of the network.
        precision: "single" or "double".

    Returns:
        "compiled", or "torchscript" where "auto" finds, with a warning, that compiling
        does not work here.

    Raises:
        CompileError: It is to be compiled, and that does not work here.
        ValueError: There is no such engine.
    """
    if choose_engine(engine, config) == "torchscript":
        return "torchscript"
    library = compiled_or_none(
        lambda: load_library(config, precision),
        config,
        is_required(engine),
        "TorchScript",
    )
    return "torchscript" if library is None else "compiled"


def is_required(engine: str) -> bool:
    """Tell whether an engine means compiled code and nothing else."""
    if engine == "auto":
        engine = os.environ.get(ENGINE_VARIABLE, engine)
    return engine == "compiled"

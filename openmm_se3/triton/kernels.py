"""Kernels of a network, made from the hand-written source and its shape.

Kernels are Python text that Triton compiles when it first launches them, which takes
seconds a kernel, and keeps in its own cache (``~/.triton/cache``) under a hash of text,
arguments, GPU and version.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import linecache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmm_se3.config import ModelConfig
from openmm_se3.triton.generate import layer_source, network_source, path_source

LEAST_CAPABILITY = (7, 5)
SOURCE = Path(__file__).with_name("source")
# Files of the source that attention consists of.
ATTENTION = ("rows", "columns", "radial", "attention", "attention_back")


def language() -> tuple[Any, Any]:
    """Return the modules that kernels are written in.

    Imported when they are needed: Triton is there on Linux only.
    """
    import triton
    import triton.language as tl

    return triton, tl


class TritonError(RuntimeError):
    """The network's kernels cannot be used here."""


def problem() -> str | None:
    """Return why kernels cannot run on this machine, with the fix, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with torch on Linux"
    if torch.version.hip is not None:
        return "only NVIDIA's GPUs are supported, and torch was built for AMD's"
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU that torch can use"
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        return (
            f"{torch.cuda.get_device_name()} has compute capability "
            f"{capability[0]}.{capability[1]}, and 7.5 is the least"
        )
    return None


def device_for(positions: Tensor) -> torch.device:
    """Return the GPU to compute on: where positions are, or PyTorch's current one.

    Raises:
        TritonError: There is none.
    """
    if positions.is_cuda:
        return positions.device
    reason = problem()
    if reason is not None:
        raise TritonError(f"implementation 'triton' cannot be used: {reason}")
    return torch.device("cuda", torch.cuda.current_device())


def current(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Make a GPU the one that Triton launches on, as a context manager."""
    if device.type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()


class Kernels:
    """Functions that Triton compiles, by name, from one text.

    Args:
        text: Python source.
    """

    def __init__(self, text: str) -> None:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = f"<openmm_se3 kernels {digest}>"
        # Triton reads the source of a function by the name of its file.
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        triton, tl = language()
        self._namespace: dict[str, Any] = {
            "__name__": f"openmm_se3_kernels_{digest}",
            "triton": triton,
            "tl": tl,
        }
        exec(compile(text, name, "exec"), self._namespace)

    def __getattr__(self, name: str) -> Any:
        """Return a kernel."""
        try:
            return self._namespace[name]
        except KeyError:
            raise AttributeError(name) from None


@functools.cache
def shared_kernels(config: ModelConfig) -> Kernels:
    """Return kernels of neighbors and forces."""
    parts = [_read(name) for name in ("lattice", "neighbors", "forces")]
    return Kernels("\n".join([network_source(config), *parts]))


@functools.cache
def layer_kernels(config: ModelConfig, layer: int) -> Kernels:
    """Return kernels of attention and of single atoms for one layer.

    Layers of the same degrees have the same text, and share what Triton compiled.
    """
    attentive = config.self_interaction == "attentive"
    return _kernels_of(
        "\n".join(
            [
                network_source(config),
                layer_source(config, layer),
                *map(_read, ATTENTION),
                _read("atoms"),
                *([_read("self_interaction")] if attentive else []),
            ]
        )
    )


@functools.cache
def table_kernels(config: ModelConfig, layer: int) -> Kernels:
    """Return the kernel of the derivatives by the radial tables of one layer."""
    return _kernels_of(
        "\n".join(
            [
                network_source(config),
                layer_source(config, layer),
                path_source(config, layer),
                *map(_read, ("rows", "columns", "table_back")),
            ]
        )
    )


def forget() -> None:
    """Make all kernels anew where they are needed next: the language is another."""
    for made in (shared_kernels, layer_kernels, table_kernels, _kernels_of):
        made.cache_clear()


@functools.cache
def _kernels_of(text: str) -> Kernels:
    return Kernels(text)


@functools.cache
def _read(name: str) -> str:
    return (SOURCE / f"{name}.py").read_text(encoding="utf-8")

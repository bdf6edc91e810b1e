"""PyTorch's state: what callers may have changed, and what one thread at a time uses.

The modes of PyTorch that a program sets around a call, such as ``no_grad``, are in
force inside it too.  This package computes gradients and makes its own tensors, so that
it puts the usual state back for the length of its calls.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

_recorder = threading.RLock()


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Put the usual modes of PyTorch back for the length of a block, in this thread.

    Gradients can be computed, and new tensors are on the CPU in the precision that is
    asked for, whatever ``inference_mode``, ``no_grad``, ``set_default_device`` or
    ``autocast`` says outside.  The default precision belongs to the whole process and
    stays: code names the precision of every tensor that it makes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # These two slow down every operation, and are hardly ever needed.  PyTorch 2.9
        # cannot name the default device after set_default_device(None).
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        yield


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Record or script a network in a block, in one thread at a time.

    PyTorch changes its own classes for the whole process meanwhile.
    """
    with _recorder:
        try:
            getpass.getuser()
        except (KeyError, OSError):
            # PyTorch names a folder by the user, who may have no name in a container.
            folder = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield


def require_torchscript() -> None:
    """Refuse to work where TorchScript is turned off.

    Raises:
        RuntimeError: Names the cause and the fix.
    """
    if not torch.jit._state._enabled.enabled:
        raise RuntimeError(
            "PYTORCH_JIT=0 turns TorchScript off, in which OpenMM calls a model; fix: "
            "unset PYTORCH_JIT"
        )


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    """Return a module as TorchScript, for evaluation.

    Raises:
        RuntimeError: TorchScript is turned off.
    """
    require_torchscript()
    with recording():
        return torch.jit.script(module.eval())

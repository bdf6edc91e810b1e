"""Modes of PyTorch that a program may have set around a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    """Set the default device for a while."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)
        # PyTorch 2.9 cannot name the default device after this, and Lightning asks.
        del torch._GLOBAL_DEVICE_CONTEXT.device_context

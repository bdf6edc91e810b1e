"""Activation functions by the name that a configuration gives them."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["silu", "relu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU}

"""Matrix products of many edges that can be differentiated twice without copies.

The trilinear form sum_mko A_mk B_ko C_mo has three partial products,

    C = A B,    A' = C B^T,    B' = A^T C,

and the derivatives of each of them are the other two.  Written like this, every
gradient of B, by far the largest array where B holds the radial functions of full
kernels, comes in B's own layout.  PyTorch's ``bmm`` gives some of them transposed, and
adding these up takes a fifth of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Every product gets both of its derivatives, wanted or not: in training most are.


class _AB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return _CB.apply(slope, b), _AC.apply(a, slope)


class _CB(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(c, b)
        return torch.bmm(c, b.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        c, b = ctx.saved_tensors
        return _AB.apply(slope, b), _AC.apply(slope, c)


class _AC(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(a, c)
        return torch.bmm(a.transpose(1, 2), c)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        a, c = ctx.saved_tensors
        return _CB.apply(c, slope), _AB.apply(a, slope)


def edge_products(a: Tensor, b: Tensor) -> Tensor:
    """Return A B [n, m, o] of each edge for A [n, m, k] and B [n, k, o]."""
    if torch.jit.is_scripting():
        return torch.bmm(a, b)
    product: Tensor = _AB.apply(a, b)
    return product

"""Muon: steps of matrices along orthogonalized momentum, of other weights by Adam.

K. Jordan et al., https://kellerjordan.github.io/posts/muon (2024); steps as large as
Adam's, after J. Liu et al., https://doi.org/10.48550/arXiv.2502.16982.
``torch.optim.Muon`` takes single matrices; weights of the network are stacks, one
matrix for each degree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
BETAS, EPS = (0.9, 0.999), 1e-8
# Root mean square of a step of Adam, in learning rates.
ADAM_RMS = 0.2
# x -> a x + b x^3 + c x^5 takes singular values from 0.01..1 to 0.7..1.2 in five turns.
QUINTIC = (3.4445, -4.7750, 2.0315)
TURNS = 5


class Muon(torch.optim.Optimizer):
    """Optimizer of stacks of matrices and, in groups of their own, of other weights.

    Args:
        groups: Parameter groups; ``matrices`` tells whether the last two dimensions of
            its parameters are matrices to orthogonalize the steps of.
        lr: Learning rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "matrices": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Make a step."""
        if closure is not None:
            raise ValueError("Muon takes gradients as they are, not a closure")
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            advance = self._along_matrices if group["matrices"] else self._by_adam
            advance(weights, gradients, group["lr"])

    def _along_matrices(
        self, weights: list[Tensor], gradients: list[Tensor], rate: float
    ) -> None:
        momenta = [self._moments(weight, 1)[0] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1.0 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        alike = defaultdict(list)
        for weight, matrices in zip(weights, ahead, strict=True):
            alike[weight.shape[-2:]].append((weight, matrices))
        for (rows, columns), pairs in alike.items():
            stacks = [matrices.reshape(-1, rows, columns) for _, matrices in pairs]
            steps = orthogonalize(torch.cat(stacks))
            # An orthogonal matrix has a root mean square of 1/sqrt(largest side).
            size = rate * ADAM_RMS * math.sqrt(max(rows, columns))
            parts = steps.split([len(stack) for stack in stacks])
            for (weight, _), part in zip(pairs, parts, strict=True):
                weight.sub_(part.reshape(weight.shape), alpha=size)

    def _by_adam(
        self, weights: list[Tensor], gradients: list[Tensor], rate: float
    ) -> None:
        moments = [self._moments(weight, 2) for weight in weights]
        first, second = map(list, zip(*moments, strict=True))
        made = self.state[weights[0]]["step"] + 1
        for weight in weights:
            self.state[weight]["step"] = made
        torch._foreach_lerp_(first, gradients, 1.0 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - BETAS[1])
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, math.sqrt(1.0 - BETAS[1] ** made))
        torch._foreach_add_(scale, EPS)
        torch._foreach_addcdiv_(weights, first, scale, -rate / (1.0 - BETAS[0] ** made))

    def _moments(self, weight: Tensor, number: int) -> list[Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["moments"] = [torch.zeros_like(weight) for _ in range(number)]
        moments: list[Tensor] = state["moments"]
        return moments


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return the nearest matrices with singular values of about 1 (0.7 to 1.2).

    Args:
        matrices: [n, rows, columns]; of zeros only zeros are made.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / norm.clamp_min(torch.finfo(x.dtype).tiny)
    a, b, c = QUINTIC
    for _ in range(TURNS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x if wide else x.mT

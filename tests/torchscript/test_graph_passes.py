"""Rewriting a recorded graph changes its operations and not its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_se3.torchscript.graph_passes import simplify

WEIGHT = torch.arange(12.0).reshape(3, 4) / 7.0
BIAS = torch.ones(4)


def gradient_of_silu(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.silu(y).sum(), y)
    return slope


def view_of_transposed(x: Tensor) -> Tensor:
    """Chain of reshapes that starts at a tensor no single view can flatten."""
    return x.t().unsqueeze(0).squeeze(0).reshape(-1) * 1.0


# A function of positions [5, 3], the operations it needs, those it must lose.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], int, set[str]]] = {
    "constants": (lambda x: x @ (2.0 * WEIGHT.to(x)).sin().cos(), 1, {"sin", "cos"}),
    "zeros of a shape": (
        lambda x: x.new_zeros(4, 3).index_add(0, torch.tensor([0, 1, 1, 3, 0]), x),
        1,
        {"new_zeros"},
    ),
    "addmm": (lambda x: torch.addmm(BIAS.to(x), x, WEIGHT.to(x)), 2, {"addmm"}),
    "numbers": (lambda x: (2.0 * x + 3.0) / 7.0 - 1.0, 4, set()),
    "expansion": (lambda x: x[:, :1].expand(5, 3) * x, 2, {"expand"}),
    "expansion that shapes": (lambda x: x[:, :1].expand(5, 3) * 2.0, 3, set()),
    "reshapes": (lambda x: x.unsqueeze(0).squeeze(0).reshape(15), 1, {"squeeze"}),
    "reshapes undone": (lambda x: x.view(3, 5).view(5, 3).sin(), 1, {"view"}),
    "transposed": (view_of_transposed, 4, set()),
    "transposed twice": (
        lambda x: x.transpose(0, 1).transpose(-1, -2).sin(),
        1,
        {"transpose"},
    ),
    "other axes": (
        lambda x: x.unsqueeze(0).transpose(0, 1).transpose(1, 2).sin(),
        4,
        set(),
    ),
    "the same twice": (lambda x: x.sin() * x.sin(), 2, set()),
    "whole slices": (lambda x: x[0:5].pow(1).sin(), 1, {"slice", "pow"}),
    "gradient of silu": (gradient_of_silu, 1, {"sigmoid", "detach"}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_fewer_operations_same_numbers(case: str, dtype: torch.dtype) -> None:
    function, most, lost = CASES[case]
    generator = torch.Generator().manual_seed(0)
    example, other = torch.randn(2, 5, 3, generator=generator).to(dtype)
    graph = make_fx(function)(example)
    simplify(graph, example)
    for _ in range(2):  # nothing is left behind in constants
        found, expected = graph(other), function(other)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)
    calls = [n for n in graph.graph.nodes if n.op == "call_function"]
    names = {n.target.__name__.split(".")[0] for n in calls}
    assert len(calls) <= most, graph.code
    assert not names & lost

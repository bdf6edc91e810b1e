"""Fewer operations for the same numbers: rewrites of a recorded graph.

A few atoms need so little arithmetic that the time of a step is the number of tensor
operations times what it costs to start one.  Recording leaves many that change nothing,
or that do not depend on positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp, _extract_tensor_metadata
from torch.fx.subgraph_rewriter import replace_pattern

aten = torch.ops.aten

# fx.Node; the declared type of its arguments allows anything, and so nothing.
Node = Any

COPIES = (aten.detach.default, aten.alias.default)
POINTWISE = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor)
SPLITS = (aten.split.Tensor, aten.split_with_sizes.default)
RESHAPES = (
    aten.view.default,
    aten._unsafe_view.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
)


SHAPE_ONLY = (aten.new_zeros.default, aten.ones_like.default)
# Zeros and ones up to so many are kept in the module and not made at each call: those
# for every edge of many would make it one of hundreds of MB.
LARGEST_CONSTANT = 1_000_000


def simplify(graph: fx.GraphModule, *example: Tensor) -> None:
    """Rewrite a graph of ATen operations in place.

    Args:
        graph: A graph recorded by ``make_fx`` that nobody will differentiate.
        example: Inputs of the shapes and precisions of all later ones.
    """
    # Shapes take long to propagate.  Every pass keeps the shape and the precision of
    # what it leaves, so that it is done twice: at first, and for the strides.
    _restore_silu_backward(graph)
    _split_addmm(graph)
    _drop_devices(graph)
    _drop_identities(graph, *example)
    _fold_constants(graph)
    _scalars_as_tensors(graph)
    _drop_expansions(graph)
    _join_reshapes(graph, *example)
    _cancel_transposes(graph)
    _share_equal_operations(graph)
    _lay_out_weights(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _restore_silu_backward(graph: fx.GraphModule) -> None:
    """Put this operation together again, which recording takes apart into nine."""
    silu_backward = aten.silu_backward.default
    pattern = make_fx(silu_backward)(torch.zeros(2, 2), torch.zeros(2, 2))
    replace_pattern(graph, pattern, lambda slope, x: silu_backward(slope, x))


def _split_addmm(graph: fx.GraphModule) -> None:
    """Write a product and a sum instead of both in one.

    TorchScript decomposes addmm itself and then runs a shape analysis that fails on
    correct graphs; without addmm it does neither.
    """
    for node in _calls(graph, aten.addmm.default):
        bias, left, right = node.args
        with graph.graph.inserting_before(node):
            product = graph.graph.call_function(aten.mm.default, (left, right))
            total = graph.graph.call_function(aten.add.Tensor, (product, bias))
        _replace(node, total)


def _drop_devices(graph: fx.GraphModule) -> None:
    """Let a tensor made by the graph live where the graph's inputs live."""
    for node in _calls(graph):
        if "device" in node.kwargs:
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "device"}


def _drop_identities(graph: fx.GraphModule, *example: Tensor) -> None:
    """Take out what returns its argument: for autograd only, or by its numbers."""
    ShapeProp(graph).propagate(*example)
    for node in _calls(graph, *COPIES):
        _replace(node, node.args[0])
    for node in _calls(graph, aten.pow.Tensor_Scalar):
        if node.args[1] == 1:
            _replace(node, node.args[0])
    for node in _calls(graph, aten.slice.Tensor, aten.slice_backward.default):
        if _shape(node) == _shape(node.args[0]):
            _replace(node, node.args[0])
    for node in _calls(graph, aten.cat.default):
        whole = [x for x in node.args[0] if _shape(x).numel() > 0]
        if len(whole) == 1:
            _replace(node, whole[0])
    for node in _calls(graph, aten.stack.default):
        if len(node.args[0]) == 1:
            node.target, node.args = (
                aten.unsqueeze.default,
                (node.args[0][0], *node.args[1:]),
            )
    for node in _calls(graph, operator.getitem):
        split = node.args[0]
        if split.target in SPLITS and _shape(split.args[0]) == _shape(node):
            _replace(node, split.args[0])  # the only part that has any elements


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute once, here, what does not depend on the input."""
    values: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            values[node] = getattr(graph, node.target)
        elif node.op == "call_function":
            # These depend on their argument's shape and precision only.
            if node.target in SHAPE_ONLY and _shape(node).numel() > LARGEST_CONSTANT:
                continue
            if node.target is aten.new_zeros.default:
                values[node] = torch.zeros(node.args[1], dtype=_dtype(node))
            elif node.target is aten.ones_like.default:
                values[node] = torch.ones(_shape(node), dtype=_dtype(node))
            elif all(source in values for source in node.all_input_nodes):
                arguments = fx.map_arg(node.args, values.__getitem__)
                options = fx.map_arg(node.kwargs, values.__getitem__)
                values[node] = node.target(*arguments, **options)
    for node, value in values.items():
        outside = [user for user in node.users if user not in values]
        if node.op == "get_attr" or not outside or not isinstance(value, Tensor):
            continue
        constant = _constant(graph, node, value)
        for user in outside:
            user.replace_input_with(node, constant)
    graph.graph.eliminate_dead_code()


def _scalars_as_tensors(graph: fx.GraphModule) -> None:
    """Give numbers the precision of what they meet, which else happens at each call."""
    names = {aten.mul.Scalar: aten.mul.Tensor, aten.add.Scalar: aten.add.Tensor}
    for node in _calls(graph, *POINTWISE, *names):
        x, y = node.args[:2]
        if isinstance(y, (int, float)) and _dtype(x) == _dtype(node) and _shape(node):
            # Of one dimension: TorchScript makes tensors of none numbers again.
            scalar = torch.full((1,), y, dtype=_dtype(node))
            node.args = (x, _constant(graph, node, scalar), *node.args[2:])
            node.target = names.get(node.target, node.target)


def _drop_expansions(graph: fx.GraphModule) -> None:
    """Leave it to an operation to stretch its operand, where the result is the same."""
    for node in _calls(graph, aten.expand.default):
        source = node.args[0]
        for user in list(node.users):
            others = [x for x in user.all_input_nodes if x is not node]
            shapes = [_shape(x) for x in (source, *others)]
            if (
                user.target in POINTWISE
                and others
                and torch.broadcast_shapes(*shapes) == _shape(user)
            ):
                user.replace_input_with(node, source)
    graph.graph.eliminate_dead_code()


def _join_reshapes(graph: fx.GraphModule, *example: Tensor) -> None:
    """Replace a chain of reshapes by one, or by none."""
    ShapeProp(graph).propagate(*example)
    for node in _calls(graph, *RESHAPES):
        source = viewed = node.args[0]
        while source.target in RESHAPES and _shape(source) != _shape(node):
            source = source.args[0]
            if _contiguous(source):
                viewed = source
        if _shape(source) == _shape(node):
            # Reshapes keep the order of the elements, so that it is the same tensor.
            _replace(node, source)
        elif viewed is not node.args[0]:
            node.target, node.args = aten.view.default, (viewed, list(_shape(node)))
    graph.graph.eliminate_dead_code()


def _cancel_transposes(graph: fx.GraphModule) -> None:
    """Take out transpositions that undo each other."""
    for node in _calls(graph, aten.transpose.int):
        source = node.args[0]
        if source.target is aten.transpose.int and _axes(source) == _axes(node):
            _replace(node, source.args[0])
    graph.graph.eliminate_dead_code()


def _share_equal_operations(graph: fx.GraphModule) -> None:
    """Compute once what stands in the graph twice."""
    seen: dict[Any, Node] = {}
    for node in _calls(graph):
        key = (node.target, str(node.args), str(node.kwargs))
        if key in seen:
            _replace(node, seen[key])
        else:
            seen[key] = node


def _lay_out_weights(graph: fx.GraphModule) -> None:
    """Store tall matrices by column: products with few rows read them faster so."""
    for node in _calls(graph, aten.mm.default):
        weights = node.args[1]
        if weights.op != "get_attr" or len(weights.users) > 1:
            continue
        value = getattr(graph, weights.target)
        if value.shape[0] > value.shape[1]:
            graph.register_buffer(weights.target, value.T.contiguous().T)


def _calls(graph: fx.GraphModule, *targets: Callable[..., Any]) -> list[Node]:
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [node for node in nodes if not targets or node.target in targets]


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _constant(graph: fx.GraphModule, before: Node, value: Tensor) -> Node:
    name = f"constant_{sum(1 for _ in graph.buffers())}"
    graph.register_buffer(name, value.detach().contiguous())
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(name)
    node.meta["tensor_meta"] = _extract_tensor_metadata(value)
    return node


def _shape(node: Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _dtype(node: Node) -> torch.dtype:
    return node.meta["tensor_meta"].dtype


def _contiguous(node: Node) -> bool:
    """Tell whether any reshape of a node's tensor is a view."""
    strides, expected = node.meta["tensor_meta"].stride, 1
    for size, stride in zip(_shape(node)[::-1], strides[::-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _axes(node: Node) -> set[int]:
    return {axis % len(_shape(node)) for axis in node.args[1:]}

"""Runs the source of Triton kernels as plain Python on NumPy arrays.

Triton's own interpreter takes a tenth of a millisecond an operation; this takes some
microseconds, and refuses to read or write outside of a tensor's memory.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes


class Block(np.ndarray):
    """An array, or a number as an array without dimensions."""

    def __array_wrap__(
        self, array: Any, context: Any = None, return_scalar: bool = False
    ) -> Block:
        return np.asarray(array).view(Block)

    def __iadd__(self, other: Any) -> Any:
        return self + other  # blocks do not change

    def to(self, dtype: Any, bitcast: bool = False) -> Block:
        return self.view(dtype) if bitcast else self.astype(dtype)


def block(values: Any) -> Block:
    return np.asarray(values).view(Block)


class Pointer:
    """Places in the memory of a tensor."""

    def __init__(self, memory: np.ndarray, place: Any) -> None:
        self.memory = memory
        self.place = place

    @property
    def dtype(self) -> Any:
        return types.SimpleNamespace(element_ty=self.memory.dtype)

    def __add__(self, steps: Any) -> Pointer:
        return Pointer(self.memory, self.place + np.asarray(steps, dtype=np.int64))

    def checked(self, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        place, used = np.broadcast_arrays(self.place, True if mask is None else mask)
        chosen = place[used]
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self.memory)):
            raise IndexError("a kernel reads or writes outside of a tensor")
        return place, used


def pointer_to(tensor: torch.Tensor) -> Pointer:
    storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    assert tensor.is_contiguous()
    return Pointer(storage.detach().numpy(), np.int64(tensor.storage_offset()))


class Kernel:
    """A function that is called once for each program of a grid."""

    launched: list[str] = []  # names, in the order of the launches

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            for option in ("num_warps", "num_stages"):
                named.pop(option, None)
            Kernel.launched.append(self.function.__name__)
            if any(isinstance(a, torch.Tensor) and a.is_meta for a in arguments):
                return  # without numbers
            with _disable_current_modes():
                own = [
                    pointer_to(a) if isinstance(a, torch.Tensor) else a
                    for a in arguments
                ]
            with np.errstate(all="ignore"):
                for program in itertools.product(*map(range, grid)):
                    Language.program = program
                    self.function(*own, **named)

        return launch


class Language:
    """What the kernels use of ``triton.language``."""

    program: tuple[int, ...] = ()
    int1, int32, int64 = np.bool_, np.int32, np.int64
    float32, float64 = np.float32, np.float64
    static_range = range

    @staticmethod
    def constexpr(value: Any) -> Any:
        return value

    @staticmethod
    def program_id(axis: int) -> Block:
        return block(np.int32(Language.program[axis]))

    @staticmethod
    def arange(start: int, end: int) -> Block:
        assert (end - start) & (end - start - 1) == 0, "not a power of two"
        return block(np.arange(start, end, dtype=np.int32))

    @staticmethod
    def zeros(shape: tuple[int, ...], dtype: Any) -> Block:
        return block(np.zeros(shape, dtype))

    @staticmethod
    def full(shape: tuple[int, ...], value: Any, dtype: Any) -> Block:
        return block(np.full(shape, value, dtype))

    @staticmethod
    def load(pointer: Pointer, mask: Any = None, other: Any = 0) -> Block:
        place, used = pointer.checked(mask)
        found = pointer.memory[np.where(used, place, 0)] if used.any() else 0
        empty = np.asarray(other, dtype=pointer.memory.dtype)
        return block(np.where(used, found, empty))

    @staticmethod
    def store(pointer: Pointer, value: Any, mask: Any = None) -> None:
        place, used = pointer.checked(mask)
        values = np.broadcast_to(value, place.shape)
        pointer.memory[place[used]] = values[used]

    @staticmethod
    def where(condition: Any, one: Any, other: Any) -> Block:
        return block(np.where(condition, one, other))

    @staticmethod
    def sum(values: Block, axis: int) -> Block:
        return block(np.sum(values, axis=axis, dtype=values.dtype))

    @staticmethod
    def max(values: Block, axis: int) -> Block:
        return block(np.max(values, axis=axis))

    @staticmethod
    def cumsum(values: Block, axis: int) -> Block:
        return block(np.cumsum(values, axis=axis, dtype=values.dtype))

    @staticmethod
    def sort(values: Block) -> Block:
        return block(np.sort(values))

    @staticmethod
    def dot(left: Block, right: Block, input_precision: str, out_dtype: Any) -> Block:
        assert min(*left.shape, *right.shape) >= 16 and input_precision == "ieee"
        return block(np.matmul(left, right).astype(out_dtype))

    @staticmethod
    def debug_barrier() -> None:
        pass

    @staticmethod
    def reshape(values: Block, shape: tuple[int, ...]) -> Block:
        return block(np.reshape(values, shape))

    trans = staticmethod(np.transpose)
    exp = staticmethod(lambda x: block(np.exp(x)))
    sqrt = staticmethod(lambda x: block(np.sqrt(x)))
    floor = staticmethod(lambda x: block(np.floor(x)))
    ceil = staticmethod(lambda x: block(np.ceil(x)))
    abs = staticmethod(lambda x: block(np.abs(x)))
    maximum = staticmethod(lambda a, b: block(np.fmax(a, b)))
    minimum = staticmethod(lambda a, b: block(np.fmin(a, b)))


def language() -> tuple[Any, Any]:
    """Return what stands for ``triton`` and ``triton.language``."""

    def jit(function: Any = None, **_: Any) -> Any:
        return Kernel if function is None else Kernel(function)

    return types.SimpleNamespace(jit=jit), Language

"""What trains the networks: its clock and its memory."""

from __future__ import annotations

import abc
import time

import torch

from openmm_se3.benchmark.machine import peak_memory, reset_peak_memory

BYTES_PER_MIB = 1 << 20


class Device(abc.ABC):
    """A device, as far as budget.py has to know it.

    Attributes:
        name: What it is.
    """

    name: str

    @abc.abstractmethod
    def seconds(self) -> float:
        """Return the time, s, when everything asked for so far is done."""

    @abc.abstractmethod
    def reset_peak_memory(self) -> float:
        """Let the peak of memory start again from what is held now, and return it."""

    @abc.abstractmethod
    def peak_memory(self) -> float:
        """Return the most memory held since, MiB."""


class Processor(Device):
    """One core; its clock is the processor time of this process.

    What else runs on the machine costs wall time, and through shared caches a step may
    take a quarter more: compare runs of one quiet machine.
    """

    name = "one core"

    def seconds(self) -> float:
        """Return the processor time, s."""
        return time.process_time()

    def reset_peak_memory(self) -> float:
        """Start from the memory of the process, MiB."""
        return reset_peak_memory()

    def peak_memory(self) -> float:
        """Return the most memory of the process since, MiB."""
        return peak_memory()


class Gpu(Device):
    """A GPU, the first that CUDA shows; its clock is that of the wall.

    Batches are made on the CPU by one thread, within that time.
    """

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()

    def seconds(self) -> float:
        """Return the time, s."""
        torch.cuda.synchronize()
        return time.monotonic()

    def reset_peak_memory(self) -> float:
        """Start from what tensors take on it now, MiB."""
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / BYTES_PER_MIB

    def peak_memory(self) -> float:
        """Return the most that tensors took on it since, MiB."""
        return torch.cuda.max_memory_allocated() / BYTES_PER_MIB


def device_of(name: str) -> Device:
    """Return a device.

    Args:
        name: "cpu" or "cuda".

    Raises:
        ValueError: PyTorch sees no GPU.
    """
    if name == "cpu":
        return Processor()
    if not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU; take --device cpu")
    return Gpu()

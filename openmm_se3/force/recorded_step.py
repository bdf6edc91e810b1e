"""A step on a GPU, recorded once as a CUDA graph and replayed by hand.

TorchForce has CUDA graphs of its own; a PythonForce has not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_se3.torchscript.build import ForceSettings
from openmm_se3.triton import kernels
from openmm_se3.triton.force import TritonForce, require_numbers

# TorchScript optimizes a module in its first calls, and Triton compiles its kernels.
WARM_UP = 3


class RecordedStep:
    """What a module of Triton's kernels computes, by one launch of a CUDA graph.

    Launches are the same whatever positions and box are, and so is the graph.

    Args:
        module: The module.
        inputs: Positions [n_particles, 3], nm, and in a periodic System box vectors as
            rows [3, 3], nm.
    """

    def __init__(self, module: torch.jit.ScriptModule, *inputs: Tensor) -> None:
        self.room = int(module.room)
        device = kernels.device_for(inputs[0])
        with kernels.current(device):
            # The graph reads and writes these places.
            self.inputs = [given.to(device, copy=True) for given in inputs]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    module(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.energy, self.forces = module(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy [1], kJ/mol, and forces, kJ/mol/nm, where the inputs are.

        Raises:
            RuntimeError: The energy is not finite.
        """
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        device = inputs[0].device
        energy = self.energy.to(device, copy=True)
        require_numbers(energy, self.room)
        return energy, self.forces.to(device, copy=True)


def step_of(
    settings: ForceSettings, module: torch.jit.ScriptModule, inputs: list[Tensor]
) -> torch.jit.ScriptModule | RecordedStep:
    """Return a module, recorded where CUDA graphs are asked for and it has kernels."""
    kind = module.original_name
    if settings.cuda_graphs is None or kind != TritonForce.__name__:
        return module
    return RecordedStep(module, *inputs)

"""The training loop: steps up to the next validation, validation, checkpoint, again.

Lightning Fabric connects the processes, moves the data and adds up gradients; the order
of things is here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from openmm_se3.training.batches import GraphTensors, Interval, loader, take_apart
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.distributed import launched
from openmm_se3.training.session import Session
from openmm_se3.training.step import TrainingModule


class Observer(Protocol):
    """Shows or records a training run."""

    def on_start(self, module: TrainingModule) -> None:
        """Training starts or is resumed."""

    def on_step(self, module: TrainingModule) -> None:
        """A step was made."""

    def on_validation(self, module: TrainingModule) -> None:
        """The last row of the history is new."""

    def on_end(self) -> None:
        """Training ends, also by an error."""


class BatchLoss(nn.Module):
    """The loss of a batch as a module, whose gradients Fabric adds up over processes.

    Args:
        module: What is trained.
    """

    def __init__(self, module: TrainingModule) -> None:
        super().__init__()
        self.network = module.network
        self.loss = module.loss

    def forward(self, tensors: GraphTensors, labels: dict[str, Tensor]) -> Tensor:
        """Return the loss and its parts, as in :class:`LossTerms` [4]."""
        return self.loss(tensors, labels).stacked()


def fit(
    module: TrainingModule,
    observers: Sequence[Observer] = (),
    session: Session | None = None,
) -> None:
    """Train until the run is finished or the session is over.

    Args:
        module: What is trained.
        observers: Told of every step and validation.
        session: Writes checkpoints and ends before the run does; None for neither.
    """
    fabric = connect(module.config)
    module.start(fabric.device)
    # Lightning asks for the default device, which PyTorch 2.9 cannot name after
    # set_default_device(None).
    with torch.device("cpu"):
        loss = fabric.setup_module(BatchLoss(module))
    config = module.config
    interval = Interval(
        module.order, lambda: module.step, config.validate_every, config.steps
    )
    batches = loader(module.train_graphs, interval)
    with contextlib.ExitStack() as stack:
        for observer in observers:
            stack.callback(observer.on_end)
            observer.on_start(module)
        if session is not None:
            session.on_start(module)
        while True:
            for graphs in batches:  # up to the next validation
                batch = fabric.to_device(take_apart(graphs))
                module.training_step(batch, loss, fabric.backward)
                for observer in observers:
                    observer.on_step(module)
                if session is not None and session.ends_after_step(module):
                    return
            module.validate(fabric)
            for observer in observers:
                observer.on_validation(module)
            over = session is not None and session.ends_after_validation(module)
            if module.finished or over:
                return


def connect(config: TrainingConfig) -> Fabric:
    """Return Fabric with its processes started and connected."""
    devices, nodes = processes(config)
    # What Lightning says about devices is of no use here.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=config.device,
        devices=devices,
        num_nodes=nodes,
        strategy=make_strategy(devices * nodes),
    )
    fabric.launch()
    return fabric


def processes(config: TrainingConfig) -> tuple[int, int]:
    """Return the processes of a machine that train, and the machines."""
    return launched() or (config.devices, config.nodes)


def make_strategy(n_processes: int) -> Any:
    """Return how Fabric lets processes work together."""
    if n_processes == 1:
        return "auto"
    # A network without direct forces leaves the weights of that head without gradients.
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)

"""The network of a run, and Lightning's trainer with its processes and loaders."""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from openmm_se3.compiled.library import ENGINE_VARIABLE, compiled_or_none
from openmm_se3.compiled.training import CompiledBatches
from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import (
    BatchOrder,
    GraphTensors,
    Interval,
    loader,
    take_apart,
)
from openmm_se3.training.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from openmm_se3.training.config import RunConfig, TrainingConfig
from openmm_se3.training.distributed import launched, rank, world_size
from openmm_se3.training.metrics import evaluation_batches
from openmm_se3.training.module import TrainingModule
from openmm_se3.training.prepare import (
    frames_without_forces,
    normalized,
    split_graphs,
)
from openmm_se3.training.sitting import SittingOver


def make_module(config: RunConfig, dataset: Dataset) -> TrainingModule:
    """Return the module at step 0.

    Raises:
        ValueError: There are no frames to train on or to validate on, or no forces to
            train on where the settings ask for them.
    """
    training = config.training
    most = {"train": None, "validation": training.evaluated_frames}
    for name in most:
        if not len(dataset.select(name)):
            raise ValueError(
                f"the data hold no {name} frames; training needs both train and "
                "validation: name a split for each frame, or let data.split make them"
            )
    train = dataset.select("train")
    direct = config.model.force_mode != "conservative"
    if frames_without_forces(train) == len(train):
        if direct:
            raise ValueError(
                f"model.force_mode: {config.model.force_mode} trains on forces, but no "
                "frame has any; energies alone train a conservative network"
            )
        if training.force_weight > 0.0:
            raise ValueError(
                "no training frame has forces: if they have a name of their own in the "
                "file, data.files takes {path: ..., forces_key: NAME}; if only some "
                "frames have them, data.split may have put these elsewhere; "
                "training.force_weight: 0 trains on energies alone"
            )
    graphs = {name: split_graphs(config, dataset, name, n) for name, n in most.items()}
    sizes = graphs["train"].n_edges
    if training.batch_unit == "frames":
        sizes = sizes * 0 + 1
    order = BatchOrder(sizes, training.batch_size, training.seed)
    network = SE3Transformer(config.model)
    if training.initial is not None:
        network.load_state_dict(initial_weights(training.initial, config.model))
    network.to(getattr(torch, training.precision))
    if training.normalize:
        training = normalized(training, train, dataset.self_energies)
    return TrainingModule(
        network,
        training,
        order,
        graphs["train"],
        graphs["validation"],
        compiled_batches(network, training),
    )


def compiled_batches(
    network: SE3Transformer, config: TrainingConfig
) -> CompiledBatches | None:
    """Return what computes a network compiled, or None where PyTorch is to do it.

    Raises:
        CompileError: ``config.engine`` is "compiled", and that does not work here.
        ValueError: The same with a GPU.
    """
    engine = config.engine
    if engine == "auto" and os.environ.get(ENGINE_VARIABLE) == "torchscript":
        return None
    if engine == "compiled" and on_gpu(config):
        raise ValueError(
            "training.engine: compiled code runs on the CPU; set training.device to cpu"
        )
    if engine == "pytorch" or on_gpu(config):
        return None
    return compiled_or_none(
        lambda: CompiledBatches(network),
        network.config,
        engine == "compiled",
        "PyTorch",
    )


def on_gpu(config: TrainingConfig) -> bool:
    """Tell whether the network is trained on a GPU."""
    return config.device == "gpu" or (
        config.device == "auto" and torch.cuda.is_available()
    )


def initial_weights(name: str, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Return the weights that a run starts from.

    Args:
        name: A shipped model's name, the path of a model, or a checkpoint.
        config: Shape of the network to train.

    Raises:
        FileNotFoundError: There is no such model or checkpoint.
        ValueError: Its network has another shape; each difference is shown.
    """
    path = Path(name)
    weights: dict[str, torch.Tensor]
    if path.is_file() and path.name in (BEST, LAST, PREVIOUS):
        checkpoint = load_checkpoint(path)
        shape = from_dict(ModelConfig, checkpoint["model"], "model")
        weights = checkpoint["average"]
    else:
        model = load_model(name)
        shape, weights = model.config, model.weights
    before, now = (dataclasses.asdict(each) for each in (shape, config))
    lines = [
        f"{key}: {before[key]} (here {now[key]})"
        for key in now
        if before[key] != now[key]
    ]
    if lines:
        raise ValueError(
            f"training.initial: {name} is another network; put under 'model' what it "
            f"has: {', '.join(lines)}"
        )
    return weights


def fit(
    module: TrainingModule, callbacks: Sequence[lightning.Callback], folder: Path
) -> None:
    """Train until the run is finished or a callback ends the sitting."""
    config = module.config
    devices, nodes = processes(config)
    interval = Interval(
        module.order, lambda: module.step, config.validate_every, config.steps
    )
    # What Lightning says about devices and workers is of no use here.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        accelerator=config.device,
        devices=devices,
        num_nodes=nodes,
        strategy=make_strategy(devices * nodes),
        max_epochs=-1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        inference_mode=False,  # forces are gradients, in validation too
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            # The processes are connected when the loaders are asked for.
            trainer.fit(module, datamodule=Loaders(module, interval))
        except SittingOver:
            pass


def processes(config: TrainingConfig) -> tuple[int, int]:
    """Return the processes of a machine that train, and the machines."""
    return launched() or (config.devices, config.nodes)


def make_strategy(n_processes: int) -> Any:
    """Return how Lightning lets processes work together."""
    if n_processes == 1:
        return "auto"
    # A network without direct forces leaves the weights of that head without gradients.
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


class Loaders(lightning.LightningDataModule):
    """This process's share of the batches.

    Args:
        module: What is trained.
        interval: The batches up to the next validation.
    """

    def __init__(self, module: TrainingModule, interval: Interval) -> None:
        super().__init__()
        self.module = module
        self.interval = interval

    def train_dataloader(self) -> Any:
        """Return the loader of the next batches to train on."""
        return loader(self.module.train_graphs, self.interval)

    def val_dataloader(self) -> Any:
        """Return the loader of every n-th batch to validate on, at least one."""
        graphs = self.module.validation_graphs
        batches = evaluation_batches(graphs)
        return loader(graphs, batches[rank() :: world_size()] or batches[:1])

    def on_before_batch_transfer(
        self, batch: Any, dataloader_idx: int
    ) -> tuple[GraphTensors, dict[str, torch.Tensor]]:
        """Turn a batch of graphs into what Lightning can move to any device."""
        return take_apart(batch)

"""The network of a run, its data and its engine, at step 0."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from openmm_se3.compiled.force_gradient import Batches
from openmm_se3.compiled.library import ENGINE_VARIABLE, compiled_or_none
from openmm_se3.compiled.training import CompiledBatches
from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from openmm_se3.training.config import RunConfig, TrainingConfig
from openmm_se3.training.module import TrainingModule
from openmm_se3.training.prepare import (
    frames_without_forces,
    normalized,
    split_graphs,
)
from openmm_se3.triton.engine import triton_or_none
from openmm_se3.triton.training import TritonBatches


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


def compiled_batches(network: SE3Transformer, config: TrainingConfig) -> Batches | None:
    """Return what computes a network compiled, or None where PyTorch is to do it.

    Raises:
        CompileError: ``config.engine`` is "compiled" or "triton", and that does not
            work here.
        ValueError: It is the one that is not for the device.
    """
    engine = config.engine
    if engine == "auto" and os.environ.get(ENGINE_VARIABLE) == "torchscript":
        return None
    if engine == "compiled" and on_gpu(config):
        raise ValueError(
            "training.engine: compiled code runs on the CPU; set training.device to cpu"
        )
    if engine == "triton" and not on_gpu(config):
        raise ValueError(
            "training.engine: triton's kernels run on an NVIDIA GPU; set "
            "training.device to gpu"
        )
    if engine == "pytorch":
        return None
    if on_gpu(config):
        serves = triton_or_none(network.config, required=engine == "triton")
        return None if serves is None else TritonBatches(network)
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

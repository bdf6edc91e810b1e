"""The network of a run, its data and its implementation, at step 0."""

from __future__ import annotations

import torch

from openmm_se3.compiled.force_gradient import Batches
from openmm_se3.compiled.library import compiled_or_none
from openmm_se3.compiled.training import CompiledBatches
from openmm_se3.data.dataset import Dataset
from openmm_se3.implementation import asked_implementation
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.config import RunConfig, TrainingConfig
from openmm_se3.training.initial import InitialModel
from openmm_se3.training.prepare import (
    frames_without_forces,
    normalized,
    split_graphs,
)
from openmm_se3.training.step import TrainingModule
from openmm_se3.triton.availability import triton_or_none
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
        initial = InitialModel.load(training.initial)
        network.load_state_dict(initial.weights_for(config.model))
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
        CompileError: ``config.implementation`` is "compiled" or "triton", and that
            does not work here.
        ValueError: It is the one that is not for the device.
    """
    implementation = config.implementation
    if implementation == "auto" and asked_implementation() == "torchscript":
        return None
    if implementation == "compiled" and on_gpu(config):
        raise ValueError(
            "training.implementation: compiled code runs on the CPU; set "
            "training.device to cpu"
        )
    if implementation == "triton" and not on_gpu(config):
        raise ValueError(
            "training.implementation: triton's kernels run on an NVIDIA GPU; set "
            "training.device to gpu"
        )
    if implementation == "pytorch":
        return None
    if on_gpu(config):
        serves = triton_or_none(network.config, required=implementation == "triton")
        return None if serves is None else TritonBatches(network)
    return compiled_or_none(
        lambda: CompiledBatches(network),
        network.config,
        implementation == "compiled",
        "PyTorch",
    )


def on_gpu(config: TrainingConfig) -> bool:
    """Tell whether the network is trained on a GPU."""
    return config.device == "gpu" or (
        config.device == "auto" and torch.cuda.is_available()
    )

"""A training run in its folder: from a configuration to a checkpoint and its errors.

Files of a run:

    config.yaml          what was run, paths absolute
    last.pt, previous.pt newest checkpoint and the one before
    best.pt              checkpoint of the best validation, with ``errors`` at the end
    history.csv          one row a validation
    tensorboard/         the same for TensorBoard
    errors.json, report.md, learning-curve.png, parity.png   at the end
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
import yaml
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console

from openmm_se3.config import ModelConfig, to_dict
from openmm_se3.elements import SYMBOLS
from openmm_se3.files import atomic_write
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.modelfile import load_model
from openmm_se3.reference.dataset import Dataset
from openmm_se3.reference.frames import SPLITS
from openmm_se3.reference.sources import hash_source
from openmm_se3.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    load_checkpoint,
    load_last,
    save_checkpoint,
)
from openmm_se3.training.data import (
    BatchOrder,
    Interval,
    loader,
)
from openmm_se3.training.distributed import is_first, launched, rank, world_size
from openmm_se3.training.memory import keep_freed_memory
from openmm_se3.training.metrics import (
    error_table,
    evaluation_batches,
    frame_groups,
    predict,
)
from openmm_se3.training.module import TrainingModule
from openmm_se3.training.prepare import read_data, reference_structure, split_graphs
from openmm_se3.training.progress import TrainingProgress
from openmm_se3.training.report import (
    HISTORY,
    TRAINED,
    error_report,
    plot_history,
    plot_parity,
    write_errors,
    write_history,
)
from openmm_se3.training.settings import RunConfig, differences
from openmm_se3.training.sitting import Signals, Sitting, SittingOver
from openmm_se3.training.tensorboard import FOLDER as TENSORBOARD
from openmm_se3.training.tensorboard import TensorBoard

CONFIG, ERRORS, REPORT = "config.yaml", "errors.json", "report.md"
CURVE, PARITY = "learning-curve.png", "parity.png"
FILES = (CONFIG, LAST, PREVIOUS, BEST, HISTORY, ERRORS, REPORT, CURVE, PARITY)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sitting ended.

    Attributes:
        step: Steps made so far.
        finished: The run is over and its errors are known.
        signal: Number of the signal that stopped it, if one did.
        errors: Errors by split and group; None before the end of the run.
    """

    step: int
    finished: bool
    signal: int | None
    errors: dict[str, dict[str, dict[str, float]]] | None


def train(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    max_epochs: float | None = None,
    console: Console | None = None,
) -> Outcome:
    """Train a model, or go on with a run, until it is finished or the sitting is over.

    Args:
        config: What to run.
        folder: Folder of the run; made if missing.
        resume: Go on from the newest checkpoint in the folder.
        overwrite: Start again in a folder that holds a run.
        max_minutes: Stop after this time, with a checkpoint.
        max_epochs: Stop when the run has seen the data this often, with a checkpoint.
        console: Where to report; by default the terminal.

    Raises:
        FileExistsError: The folder holds a run, and neither ``resume`` nor
            ``overwrite`` is given.
        ValueError: The data do not fit the model, a split is missing, or the run to
            resume had other settings or data.
        DivergedError: Too many steps in a row were not finite.
    """
    started = time.monotonic()
    console = console or Console()
    checkpoint = open_folder(folder, resume, overwrite)
    if not is_first():
        console = Console(quiet=True)
    if resume and checkpoint is None:
        console.print(f"No checkpoint in {folder}: starting at the beginning.")
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    keep_freed_memory()
    dataset = read_data(config.data, console)
    header = make_header(config, dataset)
    if checkpoint is not None:
        refuse_changes(checkpoint, header, folder)
    module = make_module(config, dataset)
    if checkpoint is not None:
        module.restore(checkpoint)
        console.print(f"Going on from step {module.step} of {config.training.steps}.")
        if is_first():
            write_history(folder / HISTORY, module.history)
    if is_first():
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))

    with Signals() as signals:
        if not module.finished or not module.history:
            sitting = Sitting(
                folder,
                header,
                signals,
                config.training.checkpoint_minutes,
                max_minutes,
                max_epochs,
                started,
            )
            callbacks = [TrainingProgress(console), sitting]
            if is_first():
                callbacks.append(TensorBoard(folder))
            fit(module, callbacks, folder)
    if module.history and is_first():
        plot_history(folder / CURVE, module.history)
    if not module.finished or not is_first():
        return Outcome(module.step, module.finished, signals.received, None)
    errors = finish(folder, config, dataset)
    return Outcome(module.step, True, signals.received, errors)


def open_folder(folder: Path, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Make the folder of a run ready and return the checkpoint to go on from.

    Raises:
        FileExistsError: The folder holds a run that nobody asked to go on with.
        ValueError: All checkpoints of the run are damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        return load_last(folder)
    if not is_first():
        return None  # the first process looks after the folder
    present = [folder / name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{folder} holds a run ({', '.join(p.name for p in present)}); "
            "--resume goes on with it, --overwrite starts again, --out names another"
        )
    for path in present:
        path.unlink()
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    return None


def make_header(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says about the run beside its state."""
    paths = [Path(source.path) for source in config.data.files]
    hashes = [hash_source(path) for path in paths]
    choices = config.data.to_dict()
    return {
        "model": to_dict(config.model),
        "training": to_dict(config.training),
        "choices": {key: choices[key] for key in ("split", "self_energies")},
        "data": {
            "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "files": [
                [path.name, digest] for path, digest in zip(paths, hashes, strict=True)
            ],
        },
        "self_energies": {
            SYMBOLS[number - 1]: energy
            for number, energy in dataset.self_energies.items()
        },
        "level_of_theory": json.loads(dataset.level.to_json()),
        "reference": reference_structure(dataset),
    }


def refuse_changes(
    checkpoint: dict[str, Any], header: dict[str, Any], folder: Path
) -> None:
    """Compare a run with the one it wants to go on from.

    Raises:
        ValueError: Settings or data differ; each difference is shown.
    """
    lines = differences(checkpoint, header)
    before, now = checkpoint["data"], header["data"]
    if before["sha256"] != now["sha256"]:
        old, new = dict(before["files"]), dict(now["files"])
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                was, is_now = (d.get(name, "absent")[:12] for d in (old, new))
                lines.append(
                    f"data {name}: sha256 {was} in the checkpoint, {is_now} now"
                )
        if not lines:
            lines.append("data: the same files in another order")
    if lines:
        raise ValueError(
            f"{folder} cannot be resumed, the run has changed: {'; '.join(lines)}. "
            "Undo the change, or start a new run with --out or --overwrite"
        )


def make_module(config: RunConfig, dataset: Dataset) -> TrainingModule:
    """Return the module at step 0.

    Raises:
        ValueError: There are no frames to train on or to validate on.
    """
    training = config.training
    most = {"train": None, "validation": training.evaluated_frames}
    for name in most:
        if not len(dataset.select(name)):
            raise ValueError(
                f"the data hold no {name} frames; training needs both train and "
                "validation: name a split for each frame, or let data.split make them"
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
    return TrainingModule(
        network, training, order, graphs["train"], graphs["validation"]
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
        shape, weights = checkpoint["model"], checkpoint["average"]
    else:
        model = load_model(name)
        shape, weights = to_dict(model.config), model.weights
    now = to_dict(config)
    lines = [
        f"{key} is {shape.get(key)} there, {now[key]} here"
        for key in now
        if shape.get(key) != now[key]
    ]
    if lines:
        raise ValueError(
            f"training.initial: {name} is another network: {'; '.join(lines)}"
        )
    return weights


def fit(
    module: TrainingModule, callbacks: Sequence[lightning.Callback], folder: Path
) -> None:
    """Train until the run is finished or a callback ends the sitting."""
    config = module.config
    devices, nodes = launched() or (config.devices, config.nodes)
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


def make_strategy(processes: int) -> Any:
    """Return how Lightning lets processes work together."""
    if processes == 1:
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


def finish(
    folder: Path, config: RunConfig, dataset: Dataset
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the best weights on every split and write the report."""
    best = load_checkpoint(folder / BEST)
    network = SE3Transformer(config.model)
    network.to(getattr(torch, config.training.precision))
    network.load_state_dict(best["average"])
    network.eval()
    errors = {}
    for split in SPLITS:
        graphs = split_graphs(config, dataset, split, config.training.evaluated_frames)
        if len(graphs):
            predictions = predict(network, graphs)
            groups = frame_groups(graphs.frames)
            errors[split] = error_table(graphs, predictions, groups)
            shown = graphs, predictions
    plot_parity(folder / PARITY, *shown)  # of the test frames, if there are any
    save_checkpoint(folder / BEST, {**best, "errors": errors})
    write_errors(folder / ERRORS, errors)
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(error_report(errors, TRAINED))
    return errors

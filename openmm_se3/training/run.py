"""A training run in its folder: from a configuration to a checkpoint and its errors.

Files of a run:

    config.yaml          what was run, paths absolute
    split.npy            split of each frame, in the order of the files: 0 training,
                         1 validation, 2 test
    last.pt, previous.pt newest checkpoint and the one before
    best.pt              checkpoint of the best validation, with ``errors`` at the end
    history.csv          one row a validation
    tensorboard/         the same for TensorBoard
    errors.json, report.md, learning-curve.png, parity.png, report.html
                         at the end
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from openmm_se3.config import to_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.domain import data_domain
from openmm_se3.data.frames import SPLITS
from openmm_se3.description import DESCRIPTION
from openmm_se3.domain import domain_to_dict
from openmm_se3.elements import symbols_of
from openmm_se3.files import atomic_write, remove_unfinished, run_lock
from openmm_se3.malloc import keep_freed_memory
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.signals import Signals
from openmm_se3.torch_state import usual_torch
from openmm_se3.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    identity,
    load_checkpoint,
    load_last,
    refuse_changes,
    save_checkpoint,
)
from openmm_se3.training.config import RunConfig
from openmm_se3.training.distributed import is_first
from openmm_se3.training.initial import InitialModel
from openmm_se3.training.loop import Observer, fit, processes
from openmm_se3.training.metrics import (
    error_table,
    frame_groups,
    predict,
)
from openmm_se3.training.page import write_page
from openmm_se3.training.prepare import (
    read_data,
    reference_structure,
    split_graphs,
    surroundings,
)
from openmm_se3.training.progress import FOLDER as TENSORBOARD
from openmm_se3.training.progress import TensorBoard, TrainingProgress
from openmm_se3.training.report import (
    CONFIG,
    CURVE,
    HISTORY,
    PARITY,
    plot_history,
    plot_parity,
    run_report,
    write_errors,
    write_history,
)
from openmm_se3.training.session import Session
from openmm_se3.training.speed import choose_threads, fit_to_budget
from openmm_se3.training.start import compiled_batches, make_module, on_gpu
from openmm_se3.training.step import TrainingModule

SPLIT, LOCK = "split.npy", "run.lock"
ERRORS, REPORT, PAGE = "errors.json", "report.md", "report.html"
# Settings that a time budget decides.
BUDGETED = ("steps", "warmup_steps", "validate_every")
FILES = (
    CONFIG,
    SPLIT,
    LAST,
    PREVIOUS,
    BEST,
    HISTORY,
    ERRORS,
    REPORT,
    PAGE,
    CURVE,
    PARITY,
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a session ended.

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


@usual_torch()
def train(
    config: RunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    max_epochs: float | None = None,
    time_budget: float | None = None,
    console: Console | None = None,
) -> Outcome:
    """Train a model, or go on with a run, until it is finished or the session is over.

    Args:
        config: What to run.
        folder: Folder of the run; made if missing.
        resume: Go on from the newest checkpoint in the folder.
        overwrite: Start again in a folder that holds a run.
        max_minutes: Stop after this time, with a checkpoint.
        max_epochs: Stop when the run has seen the data this often, with a checkpoint.
        time_budget: Minutes that the whole run is to take here: it makes as many steps
            as fit, by a measurement, over which the learning rate falls to its end.
            A resumed run keeps its steps.
        console: Where to report; by default the terminal.

    Raises:
        FileExistsError: The folder holds a run, and neither ``resume`` nor
            ``overwrite`` is given.
        ValueError: The data do not fit the model, a split is missing, or the run to
            resume had other settings or data.
        DivergedError: Too many steps in a row were not finite.
        LockedError: Another process trains in this folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder / LOCK) if is_first() else contextlib.nullcontext():
        return _train(
            config,
            folder,
            resume,
            overwrite,
            max_minutes,
            max_epochs,
            time_budget,
            console,
        )


def _train(
    config: RunConfig,
    folder: Path,
    resume: bool,
    overwrite: bool,
    max_minutes: float | None,
    max_epochs: float | None,
    time_budget: float | None,
    console: Console | None,
) -> Outcome:
    started = time.monotonic()
    console = console or Console(markup=False)
    checkpoint = open_folder(folder, resume, overwrite)
    if not is_first():
        console = Console(quiet=True)
    if resume and checkpoint is None:
        console.print(f"No checkpoint in {folder}: starting at the beginning.")
    if checkpoint is not None and "time_budget" in checkpoint:
        config = with_budgeted_steps(config, checkpoint["training"])
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    keep_freed_memory()
    dataset = _read_data(config, checkpoint, console)
    header = make_header(config, dataset)
    if checkpoint is not None:
        refuse_changes(checkpoint, header, folder)
    module = make_module(config, dataset)
    config, header = _set_speed(
        module, config, header, checkpoint, time_budget, started, console
    )
    if checkpoint is not None:
        module.restore(checkpoint)
        console.print(f"Going on from step {module.step} of {config.training.steps}.")
        if is_first():
            write_history(folder / HISTORY, module.history)
    if is_first():
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
        with atomic_write(folder / SPLIT) as temporary:
            np.save(temporary, dataset.frames.column("split"))

    with Signals() as signals:
        if not module.finished or not module.history:
            session = Session(
                folder,
                header,
                signals,
                config.training.checkpoint_minutes,
                max_minutes,
                max_epochs,
                started,
            )
            observers: list[Observer] = [TrainingProgress(console)]
            if is_first():
                observers.append(TensorBoard(folder))
            fit(module, observers, session)
    if module.history and is_first():
        plot_history(folder / CURVE, module.history)
    if not module.finished or not is_first():
        return Outcome(module.step, module.finished, signals.received, None)
    console.print("Measuring the errors of the best weights on all frames.")
    errors = finish(folder, config, dataset)
    return Outcome(module.step, True, signals.received, errors)


def _read_data(
    config: RunConfig, checkpoint: dict[str, Any] | None, console: Console
) -> Dataset:
    """Read the data of a run, with self-energies that match what it starts from."""
    start = config.training.initial
    if start is None:
        return read_data(config.data, console)
    data = config.data
    if checkpoint is not None:  # a resumed run keeps what it fitted, to the last bit
        fitted = dict(checkpoint["self_energies"])
        data = dataclasses.replace(data, self_energies=fitted)
    return read_data(data, console, InitialModel.load(start))


def _set_speed(
    module: TrainingModule,
    config: RunConfig,
    header: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    time_budget: float | None,
    started: float,
    console: Console,
) -> tuple[RunConfig, dict[str, Any]]:
    """Choose threads, and with a time budget the steps of a new run.

    Returns:
        The settings, and what a checkpoint says of the run.

    Raises:
        ValueError: The time budget is too short, or not for this run.
    """
    new = checkpoint is None
    devices, nodes = processes(config.training)
    if on_gpu(config.training) or devices * nodes > 1:
        if time_budget is not None and new:
            raise ValueError(
                "--time-budget is for one process without a GPU; give training.steps"
            )
        return config, header
    before = None if checkpoint is None else checkpoint.get("threads")
    speed = choose_threads(module, before, time_budget is not None and new)
    if speed is not None and len(speed.seconds) > 1:
        console.print(str(speed), highlight=False)
    told: dict[str, Any] = {"threads": torch.get_num_threads()}
    if checkpoint is not None and "time_budget" in checkpoint:
        told["time_budget"] = checkpoint["time_budget"]
    if time_budget is not None and new:
        assert speed is not None
        left = 60.0 * time_budget - (time.monotonic() - started)
        module.config = fit_to_budget(module, speed, left)
        config = dataclasses.replace(config, training=module.config)
        header = {**header, "training": to_dict(module.config)}
        told["time_budget"] = time_budget
        text = f"{module.config.steps:,} steps fit into {time_budget:g} minutes"
        console.print(text, highlight=False)
    return config, {**header, **told}


def with_budgeted_steps(config: RunConfig, before: dict[str, Any]) -> RunConfig:
    """Return the settings with the steps that a time budget allowed the run.

    Args:
        config: The settings of the file.
        before: The training settings of the run that goes on.
    """
    steps = {key: before[key] for key in BUDGETED}
    training = dataclasses.replace(config.training, **steps)
    return dataclasses.replace(config, training=training)


def open_folder(folder: Path, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Tidy the folder of a run and return the checkpoint to go on from.

    Raises:
        FileExistsError: The folder holds a run that nobody asked to go on with, or a
            model.
        ValueError: All checkpoints of the run are damaged.
    """
    if is_first():
        for name in FILES:
            remove_unfinished(folder / name)
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
    if (folder / DESCRIPTION).exists():
        raise FileExistsError(
            f"{folder} holds a model ({DESCRIPTION}), beside which the files of a run "
            "would be taken for its own: give another --out"
        )
    for path in present:
        path.unlink()
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    return None


def make_header(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what a checkpoint says about the run beside its state."""
    header = identity(config)
    header["data"]["surroundings"] = surroundings(dataset)
    return {
        **header,
        "self_energies": dict(
            zip(
                symbols_of(dataset.self_energies),
                dataset.self_energies.values(),
                strict=True,
            )
        ),
        "level_of_theory": json.loads(dataset.level.to_json()),
        "reference": reference_structure(dataset),
        "domain": domain_to_dict(data_domain(dataset.select("train"))),
    }


def finish(
    folder: Path, config: RunConfig, dataset: Dataset
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the best weights on every split and write the report."""
    best = load_checkpoint(folder / BEST)
    network = SE3Transformer(config.model)
    network.to(getattr(torch, config.training.precision))
    network.load_state_dict(best["average"])
    network.eval()
    compiled = compiled_batches(network, config.training)
    if on_gpu(config.training):
        network.to("cuda")
    errors = {}
    for split in SPLITS:
        graphs = split_graphs(config, dataset, split, config.training.evaluated_frames)
        if len(graphs):
            predictions = predict(network, graphs, compiled)
            groups = frame_groups(graphs.frames)
            errors[split] = error_table(graphs, predictions, groups)
            shown = graphs, predictions, f"{split} frames"
    plot_parity(folder / PARITY, *shown)  # of the test frames, if there are any
    save_checkpoint(folder / BEST, {**best, "errors": errors})
    write_errors(folder / ERRORS, errors)
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(run_report(config, dataset, errors))
    write_page(folder / PAGE, config, dataset, best, errors, shown)
    return errors

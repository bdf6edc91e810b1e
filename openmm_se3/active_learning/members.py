"""Training runs of the members of a committee."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.committee import evaluator
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.labeling.executors import LocalExecutor
from openmm_se3.elements import symbols_of
from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.checkpoint import BEST
from openmm_se3.training.speed import TimeBudgetError

VALIDATION = 0.12  # share of the frames that a member holds back
FIRST_STEPS = 6000  # of the first round; later rounds make half as many
# Of a model that is fine-tuned: more passes over few frames fit these closer and others
# worse (44 labels of ethanol, validation: 0.54 kcal/mol/A after 100, 0.81 after 1,000).
FINE_TUNING_PASSES, FEWEST_STEPS = 100, 400
# A small network for one molecule.
NETWORK: dict[str, Any] = {
    "cutoff": 5.0,
    "layers": 2,
    "channels": 16,
    "key_channels": 8,
    "heads": 4,
    "jmax": 2,
}
TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "energy_per": "sqrt-atom",
    "energy_weight": 0.2,
    "energy_cap": 0.5,  # eV an atom: frames far above this count little
    "optimizer": "muon",
    "learning_rate": 1e-2,
    "ema_decay": 0.995,
    "clip_ratio": 3.0,
    "threads": 1,
    "device": "cpu",
}
FINE_TUNING_RATE = 0.25  # of the learning rate, where a run starts from trained weights
TIME_SHARE = 0.5  # of the minutes of a campaign, for training


def network_config(settings: Settings, systems: Sequence[System]) -> dict[str, Any]:
    """Return the network's settings, as ``model`` of a training configuration.

    Raises:
        ValueError: The start is a model that lacks an element.
    """
    elements = symbols_of(sorted({int(z) for s in systems for z in s.numbers}))
    if is_model(settings.start):
        config = load_model(settings.start).config
        lacking = [symbol for symbol in elements if symbol not in config.elements]
        if lacking:
            raise ValueError(
                f"the model {settings.start} does not know {', '.join(lacking)}; "
                "start from another one, or from scratch"
            )
        return to_dict(config)
    values = {**NETWORK, "elements": elements, **settings.network}
    if settings.with_water and "cutoff" not in settings.network:
        values["cutoff"] = 6.0
    return to_dict(from_dict(ModelConfig, values, "network"))


def is_model(start: str) -> bool:
    """Tell whether a start is a model of ours, by name or path."""
    from openmm_se3.data.labeling.labelers import is_labeler

    return start not in ("auto", "scratch") and not is_labeler(start)


def fold(name: str, member: int) -> bool:
    """Tell whether a member holds a frame back for validation; always the same."""
    digest = hashlib.sha256(f"{member} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64 < VALIDATION


def train_members(
    campaign: Campaign,
    settings: Settings,
    number: int,
    data: Sequence[Dataset],
    model: dict[str, Any],
    self_energies: dict[int, float],
    initial: Callable[[int], str | None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Train the members of one round, or finish what a kill left.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        number: The round; -1 is the pretraining.
        data: All labels.
        model: The network's settings.
        self_energies: Energies of isolated atoms by atomic number, eV.
        initial: Model or checkpoint that a member starts from; None for random weights.
        progress: Called with the number of finished members, and of all.

    Returns:
        Steps and validation errors of the members.
    """
    tasks = []
    for member in range(settings.members):
        folder = campaign.member_folder(number, member)
        folder.mkdir(parents=True, exist_ok=True)
        _write_data(folder / "labels.h5", data, member)
        start = initial(member)
        training = dict(TRAINING, seed=settings.seed + 1000 * member)
        if start is not None:
            training["learning_rate"] *= FINE_TUNING_RATE
            training["initial"] = start
            training["initial_decay"] = settings.keep
        steps = settings.steps or _default_steps(settings, data)
        steps = steps if number <= 0 else -(-steps // 2)
        training |= {
            "steps": steps,
            "warmup_steps": min(200, steps // 10),
            "validate_every": max(1, min(250, steps // 10)),
        }
        energies = zip(symbols_of(self_energies), self_energies.values(), strict=True)
        values = {
            "model": model,
            "training": training,
            "data": {
                "files": [{"path": "labels.h5", "charged": "keep"}],
                "self_energies": dict(energies),
                "check_units": False,  # they are ours
            },
        }
        tasks.append((values, folder, _minutes(settings, number)))
    executor = LocalExecutor(settings.workers)
    # Here, once, and not in every worker at the same time.
    evaluator(SE3Transformer(from_dict(ModelConfig, model, "model")).float())
    todo = [task for task in tasks if not _finished(task[1])]
    done = len(tasks) - len(todo)
    progress(done, len(tasks))
    try:
        for _ in executor.run(_train, todo) if todo else ():
            done += 1
            progress(done, len(tasks))
    except TimeBudgetError as error:
        assert settings.minutes is not None
        needed = settings.minutes + error.lacking / _share(settings, number)
        raise ValueError(
            f"minutes is {settings.minutes:g}: too few to train {settings.members} "
            f"networks in rounds of {settings.per_round} labels, which takes about "
            f"{math.ceil(1.2 * needed)}; resume the campaign with more, nothing is "
            "lost, or begin one with fewer labels or members"
        ) from error
    return _summary([folder for _, folder, _ in tasks])


def fine_tuning_steps(frames: int) -> int:
    """Return the training steps of a model that is fine-tuned on so many frames."""
    steps = FINE_TUNING_PASSES * frames // int(TRAINING["batch_size"])
    return min(FIRST_STEPS, max(FEWEST_STEPS, steps))


def _default_steps(settings: Settings, data: Sequence[Dataset]) -> int:
    """Return the steps of the first round, were it of as many labels as there are."""
    if not is_model(settings.start):
        return FIRST_STEPS
    return fine_tuning_steps(sum(len(dataset.frames) for dataset in data))


def _minutes(settings: Settings, number: int) -> float | None:
    """Return the time budget of one training run, min; None without any."""
    if settings.minutes is None or settings.steps is not None:
        return None
    return settings.minutes * _share(settings, number)


def _share(settings: Settings, number: int) -> float:
    """Return the share of a campaign's minutes that one training run may take."""
    workers = LocalExecutor(settings.workers).workers
    turns = -(-settings.members // workers)
    rounds = settings.labels / settings.per_round + 1.0  # the first one counts twice
    return TIME_SHARE / turns / rounds * (2.0 if number <= 0 else 1.0)


def _write_data(path: Path, data: Sequence[Dataset], member: int) -> None:
    """Write all labels with the splits of a member."""
    if path.exists():
        return
    frames: list[Frame] = []
    for dataset in data:
        for frame in dataset.frames:
            name = frame.trajectory.rpartition("/")[2]
            split = "validation" if fold(name, member) else "train"
            frames.append(dataclasses.replace(frame, trajectory=name, split=split))
    if not any(frame.split == "validation" for frame in frames):
        frames[0] = dataclasses.replace(frames[0], split="validation")
    write_hdf5(path, dataclasses.replace(data[0], frames=Frames.of(frames)))


def _finished(folder: Path) -> bool:
    return (folder / "errors.json").exists()


def _train(task: tuple[dict[str, Any], Path, float | None]) -> None:
    """Train one member in a worker process."""
    from openmm_se3.training.config_file import run_config
    from openmm_se3.training.run import train

    values, folder, minutes = task
    with warnings.catch_warnings():
        # One composition does not tell the self-energies apart, and need not.
        warnings.simplefilter("ignore")
        with open(folder / "train.log", "a") as log:
            train(
                run_config(values, folder),
                folder,
                resume=True,
                time_budget=minutes,
                console=Console(file=log, width=100, markup=False),
            )


def _summary(folders: Sequence[Path]) -> dict[str, Any]:
    from openmm_se3.training.checkpoint import load_checkpoint

    steps, errors = [], []
    for folder in folders:
        content = load_checkpoint(folder / BEST)
        steps.append(int(content["training"]["steps"]))
        table = json.loads((folder / "errors.json").read_text())
        errors.append(float(np.round(table["validation"]["all"]["force_mae"], 4)))
    return {"steps": steps, "validation_force_mae": errors}

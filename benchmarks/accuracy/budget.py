"""Training for a given time, the same for every network.

A network is trained in an environment of its own, by a script that says how the package
reads frames, makes one step and predicts (:class:`Trainee`).  What could favor one of
them is here and the same for all: the frames of every batch and their order, the
learning rate's course, the clock and the moments at which errors are measured.

The clock (devices.py) counts the steps alone, batches included; reading files,
compiling in the first steps and validating are free.

The learning rate grows over the first twentieth of that time and falls along a cosine
to a hundredth.  Tested is what the package itself would use at the end: averaged
weights where it averages them.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from devices import Device, device_of
from labels import Labels

from openmm_se3.files import atomic_write
from openmm_se3.malloc import keep_freed_memory
from openmm_se3.training.batches import BatchOrder, fill_batches

SPLITS = ("train", "validation", "test")
WARM_UP = 0.05  # of the time
FINAL_RATE = 0.01  # of the highest learning rate
FIRST_STEPS = 2  # steps that change no weights, in which packages compile
CURVE_ATOMS = 2000  # atoms of the validation frames of the learning curve, at most
RUN, PREDICTIONS = "run.json", "predictions.npz"

Predictions = tuple[np.ndarray, np.ndarray]  # energies, eV; forces, eV/A


@dataclasses.dataclass(frozen=True)
class Job:
    """One network to be trained on one set of frames.

    Attributes:
        data: Folder with the files of the set.
        out: Folder for ``RUN`` and ``PREDICTIONS``.
        elements: Chemical symbols of the set.
        cutoff: Cutoff of the network, A.
        batch_atoms: Atoms of a batch, at most.
        seconds: Time of all steps.
        curve_points: Validations on the way, evenly spaced in time.
        test_atoms: Atoms of the test frames, at most; None tests on all.
        seed: Seed of weights and batches.
        source: Folder of a program that is not installed.
        device: "cpu" or "cuda".
    """

    data: Path
    out: Path
    elements: tuple[str, ...]
    cutoff: float
    batch_atoms: int
    seconds: float
    curve_points: int
    test_atoms: int | None
    seed: int
    source: Path | None
    device: str

    def write(self, path: Path) -> None:
        """Write the job for :meth:`read`."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(vars(self), default=str, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job."""
        values = json.loads(path.read_text())
        for name in ("data", "out", "source"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**{**values, "elements": tuple(values["elements"])})


class Trainee(abc.ABC):
    """A network that is trained by its own package.

    Attributes:
        name: Package and shape of the network in a few words.
        packages: Distributions whose versions matter.
        network: The network, for its number of weights.
    """

    name: str
    packages: tuple[str, ...]
    network: torch.nn.Module

    @abc.abstractmethod
    def labels(self, split: str) -> Labels:
        """Return the frames of a split as the package has read them."""

    @abc.abstractmethod
    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one optimization step.

        Args:
            frames: Training frames of the batch, by index.
            rate: Learning rate as a fraction of the highest.
            progress: Share of the time that is over.
        """

    @abc.abstractmethod
    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Return the final network's predictions for one batch of frames."""


class Descent:
    """Optimizer, clipping and averaged weights of a network trained in plain PyTorch.

    Args:
        network: The network.
        optimizer: Optimizer with the highest learning rate of each group.
        clip_norm: Largest gradient norm; None does not clip.
        average_decay: Decay of the moving average of the weights; 0 keeps the last.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        average_decay: float = 0.0,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.clip_norm = clip_norm
        self.average_decay = average_decay
        self.average = [p.detach().clone() for p in network.parameters()]
        self.steps = 0

    def step(self, loss: Callable[[], torch.Tensor], rate: float) -> None:
        """Make one step down the gradient of a loss."""
        for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * highest
        self.optimizer.zero_grad()
        loss().backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        self.steps += 1
        decay = min(self.average_decay, (1.0 + self.steps) / (10.0 + self.steps))
        with torch.no_grad():
            weights = list(self.network.parameters())
            torch._foreach_lerp_(self.average, weights, 1.0 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network have the averaged weights in the block."""
        parameters = list(self.network.parameters())
        weights = [parameter.data for parameter in parameters]
        for parameter, mean in zip(parameters, self.average, strict=True):
            parameter.data = mean
        try:
            yield
        finally:
            for parameter, own in zip(parameters, weights, strict=True):
                parameter.data = own


def learning_rate(progress: float) -> float:
    """Return the learning rate of a step as a fraction of the highest.

    It depends on the time alone: a number of steps to warm up would be most of the run
    of a network that makes few of them.

    Args:
        progress: Share of the time that is over.
    """
    growth = min(1.0, progress / WARM_UP)
    wave = 0.5 * (1.0 + math.cos(math.pi * progress))
    return growth * (FINAL_RATE + (1.0 - FINAL_RATE) * wave)


def predict(
    trainee: Trainee, split: str, frames: np.ndarray, n_atoms: np.ndarray, batch: int
) -> Predictions:
    """Return predictions for any number of frames, in their order.

    Args:
        trainee: The network.
        split: The frames' split.
        frames: The frames, by index.
        n_atoms: Atoms of every frame of the split.
        batch: Atoms of a batch, at most.
    """
    parts = [trainee.predict(split, f) for f in fill_batches(frames, n_atoms, batch)]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def train(
    trainee: Trainee, job: Job, labels: dict[str, Labels], device: Device
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train until the time is over; return what happened, and all predictions."""
    sizes = {split: labels[split].n_atoms for split in labels}
    order = BatchOrder(sizes["train"], job.batch_atoms, job.seed)
    curve_frames = labels["validation"].first(CURVE_ATOMS)
    curve: list[tuple[float, Predictions]] = []

    def validate(seconds: float) -> None:
        predicted = predict(
            trainee, "validation", curve_frames, sizes["validation"], job.batch_atoms
        )
        curve.append((seconds, predicted))

    held = device.reset_peak_memory()
    for frames in order.steps(0, FIRST_STEPS):
        trainee.step(frames, 0.0, 0.0)
    validate(0.0)
    spent, start = 0.0, time.monotonic()
    steps, n_frames, n_atoms = 0, 0, 0
    for frames in order.steps(0, sys.maxsize):
        before, progress = device.seconds(), spent / job.seconds
        trainee.step(frames, learning_rate(progress), progress)
        spent += device.seconds() - before
        steps, n_frames = steps + 1, n_frames + len(frames)
        n_atoms += int(sizes["train"][frames].sum())
        over = spent >= job.seconds
        if over or spent * job.curve_points >= len(curve) * job.seconds:
            validate(spent)
        if over:
            break
    memory, wall = device.peak_memory() - held, time.monotonic() - start
    tested = np.arange(len(labels["test"]))
    if job.test_atoms is not None:
        tested = labels["test"].first(job.test_atoms)
    energies, forces = predict(trainee, "test", tested, sizes["test"], job.batch_atoms)
    facts = {
        "network": trainee.name,
        "parameters": sum(
            p.numel() for p in trainee.network.parameters() if p.requires_grad
        ),
        "steps": steps,
        "frames": n_frames,
        "atoms": n_atoms,
        "device": device.name,
        "training_seconds": spent,
        "wall_seconds": wall,
        "peak_memory_mib": memory,
        "versions": {
            name: importlib.metadata.version(name)
            for name in (*trainee.packages, "torch")
        },
    }
    return facts, {
        "curve_seconds": np.array([seconds for seconds, _ in curve]),
        "curve_frames": curve_frames,
        "curve_energies": np.array([energies for _, (energies, _) in curve]),
        "curve_forces": np.array([forces for _, (_, forces) in curve]),
        "test_frames": tested,
        "test_energies": energies,
        "test_forces": forces,
    }


def main(make: Callable[[Job], Trainee]) -> None:
    """Train the network of the job named on the command line and write the outcome.

    Raises:
        ValueError: The package has read other frames than were written for it.
    """
    job = Job.read(Path(sys.argv[1]))
    device = device_of(job.device)
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    keep_freed_memory()
    labels = {split: Labels.load(job.data / f"{split}.npz") for split in SPLITS}
    trainee = make(job)
    for split in SPLITS:
        labels[split].require_equal(trainee.labels(split), f"{trainee.name}, {split}")
    facts, predictions = train(trainee, job, labels, device)
    with atomic_write(job.out / PREDICTIONS) as temporary:
        np.savez(temporary, **predictions)
    with atomic_write(job.out / RUN) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")

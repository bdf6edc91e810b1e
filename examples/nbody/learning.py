"""Training of the particle network, and its errors on trajectories of their own.

A sample is a pair of saved points 500 steps apart, from any place of a trajectory.  The
error is the mean square over both targets, all particles and all components, as in the
thesis.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from nbody.network import ParticleTransformer
from nbody.particles import SAVED_EVERY, TIME_STEP, Trajectories
from openmm_se3.config import ModelConfig, to_dict
from openmm_se3.files import atomic_write
from openmm_se3.signals import Signals

AHEAD = 500 // SAVED_EVERY  # saved points
AHEAD_TIME = AHEAD * SAVED_EVERY * TIME_STEP
TEST_SAMPLES = 20_000
CONFIG, LAST, HISTORY = "config.json", "last.ckpt", "history.csv"
VALIDATE_EVERY = 500  # steps; and a checkpoint


@dataclasses.dataclass(frozen=True)
class NBodyConfig:
    """Settings of a run.

    Attributes:
        trajectories: Trajectories simulated; a tenth tests, a twentieth validates.
        steps: Optimizer steps.
        batch_size: Samples a batch.
        learning_rate: Highest learning rate.
        seed: Seed of the data, the weights and the order of the batches.
        layers: Shape of the network's layers.
    """

    trajectories: int
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    layers: ModelConfig


class Samples(Dataset[dict[str, Tensor]]):
    """Every saved point of some trajectories that has one 500 steps later."""

    def __init__(self, trajectories: Trajectories, chosen: slice) -> None:
        self.positions = torch.from_numpy(trajectories.positions[chosen])
        self.velocities = torch.from_numpy(trajectories.velocities[chosen])
        self.charges = torch.from_numpy(trajectories.charges[chosen])
        self.starts = self.positions.shape[1] - AHEAD

    def __len__(self) -> int:
        return len(self.positions) * self.starts

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one sample; the target is [n_particles, 2, 3]."""
        run, start = divmod(index, self.starts)
        x, v = self.positions[run], self.velocities[run]
        later = start + AHEAD
        return {
            "positions": x[start],
            "velocities": v[start],
            "charges": self.charges[run],
            "target": torch.stack([x[later] - x[start], v[later] - v[start]], dim=1),
        }


def split(trajectories: Trajectories) -> dict[str, Samples]:
    """Return samples for training, validation and test, from different trajectories."""
    n = len(trajectories.charges)
    test, validation = max(n // 10, 1), max(n // 20, 1)
    return {
        "test": Samples(trajectories, slice(0, test)),
        "validation": Samples(trajectories, slice(test, test + validation)),
        "train": Samples(trajectories, slice(test + validation, None)),
    }


class Batches(Sampler[list[int]]):
    """The batch of every step, which is decided by the seed and the step alone.

    Args:
        n_samples: Samples to draw from.
        config: Settings of the run.
        made: Steps that were made before.
    """

    def __init__(self, n_samples: int, config: NBodyConfig, made: int) -> None:
        self.n_samples = n_samples
        self.config = config
        self.made = made

    def __len__(self) -> int:
        return self.config.steps - self.made

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches from the next step on."""
        size = min(self.config.batch_size, self.n_samples)
        in_epoch, order, epoch = self.n_samples // size, np.array([]), -1
        for step in range(self.made, self.config.steps):
            if step // in_epoch != epoch:
                epoch = step // in_epoch
                rng = np.random.default_rng([self.config.seed, epoch])
                order = rng.permutation(self.n_samples)
            start = size * (step % in_epoch)
            yield order[start : start + size].tolist()


class NBodyModule(nn.Module):
    """The network, trained with Adam and a cosine schedule, and how far that is.

    Attributes:
        step: Optimizer steps made.
        history: One row per validation.
    """

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.network = ParticleTransformer(config.layers).float()
        self.step = 0
        self.history: list[dict[str, float]] = []

    def start(self, device: torch.device) -> None:
        """Move to a device and make Adam, and the schedule by step."""
        self.to(device)
        self.optimizer = torch.optim.Adam(
            self.parameters(), lr=self.config.learning_rate, fused=True
        )

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / 200)
            share = min(step / self.config.steps, 1.0)
            return warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * share)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def training_step(self, batch: dict[str, Tensor]) -> None:
        """Follow the gradient of a batch by one step."""
        self.train()
        self.optimizer.zero_grad()
        self.error(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1

    @torch.no_grad()
    def validate(self, batches: DataLoader[dict[str, Tensor]]) -> None:
        """Add a row to the history."""
        self.eval()
        total, count = 0.0, 0
        for batch in batches:
            n = len(batch["charges"])
            total += n * float(self.error(batch))
            count += n
        self.history.append({"step": self.step, "validation_mse": total / count})

    def error(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean square error of a batch."""
        device = next(self.parameters()).device
        positions, velocities, charges, target = (
            batch[key].to(device)
            for key in ("positions", "velocities", "charges", "target")
        )
        predicted = self.network(positions, velocities, charges)
        return torch.nn.functional.mse_loss(predicted, target)

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        content = {
            "weights": self.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": self.history,
        }
        with atomic_write(folder / LAST) as temporary:
            torch.save(content, temporary)

    def resume(self, folder: Path) -> None:
        """Take the state of the run that goes on."""
        content = torch.load(folder / LAST, weights_only=True)
        self.load_state_dict(content["weights"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.step, self.history = content["step"], content["history"]


def validation_interval(steps: int) -> int:
    """Return after how many steps of a run its errors are measured."""
    return min(VALIDATE_EVERY, steps)


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Write the errors measured so far as a table."""
    with (
        atomic_write(folder / HISTORY) as temporary,
        open(temporary, "w", newline="") as file,
    ):
        writer = csv.DictWriter(file, ["step", "validation_mse"])
        writer.writeheader()
        writer.writerows(history)


def open_folder(folder: Path, config: NBodyConfig, resume: bool) -> None:
    """Make the folder of a run, or see that it holds this run.

    Raises:
        FileExistsError: It holds a run that nobody asked to go on with.
        ValueError: The run there has other settings; each difference is shown.
    """
    if not resume and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds a run; --resume goes on with it")
    wanted = {**vars(config), "layers": to_dict(config.layers)}
    path = folder / CONFIG
    if path.exists():
        kept = json.loads(path.read_text())
        lines = [
            f"{key} is {kept.get(key)} there, {value} now"
            for key, value in json.loads(json.dumps(wanted)).items()
            if kept.get(key) != value
        ]
        if lines:
            raise ValueError(f"{folder} holds another run: {'; '.join(lines)}")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1) + "\n")


def train(
    config: NBodyConfig,
    data: dict[str, Samples],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NBodyModule:
    """Train the network; a run that was stopped goes on from its last checkpoint.

    A signal such as Ctrl-C or SIGTERM ends it with a checkpoint.

    Args:
        config: Settings.
        data: Samples by split.
        folder: Folder of the run.
        progress: Called with the steps made and all steps.

    Raises:
        KeyboardInterrupt: A signal stopped it.
    """
    module = NBodyModule(config)
    module.start(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if (folder / LAST).exists():
        module.resume(folder)
    batches = Batches(len(data["train"]), config, module.step)
    some = torch.utils.data.Subset(
        data["validation"], range(0, len(data["validation"]), 7)
    )
    with Signals() as signals:
        progress(module.step, config.steps)
        for batch in DataLoader(data["train"], batch_sampler=batches):
            module.training_step(batch)
            progress(module.step, config.steps)
            validates = module.step % validation_interval(config.steps) == 0
            if validates:
                module.validate(DataLoader(some, 512))
            stopped = signals.received is not None
            if validates or stopped or module.step == config.steps:
                module.save(folder)
            if validates:
                write_history(folder, module.history)
            if stopped and module.step < config.steps:
                raise signals.interrupt()
    return module.eval().cpu()


@torch.no_grad()
def errors_on(module: NBodyModule, samples: Samples) -> dict[str, float]:
    """Return mean square errors on test trajectories.

    Args:
        module: The trained network.
        samples: Test samples; a random part of very many.

    Returns:
        Errors of the network, of predicting no change, and of constant velocity.
    """
    chosen = np.random.default_rng(0).permutation(len(samples))[:TEST_SAMPLES]
    part = torch.utils.data.Subset(samples, chosen.tolist())
    sums = {"network": 0.0, "nothing moves": 0.0, "constant velocity": 0.0}
    for batch in DataLoader(part, 512):
        straight = torch.zeros_like(batch["target"])
        straight[:, :, 0] = AHEAD_TIME * batch["velocities"]
        n = len(batch["charges"])
        sums["network"] += n * float(module.error(batch))
        for name, guess in (
            ("nothing moves", 0.0 * straight),
            ("constant velocity", straight),
        ):
            sums[name] += n * float((guess - batch["target"]).square().mean())
    return {name: total / len(part) for name, total in sums.items()}

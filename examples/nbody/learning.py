"""Training of the particle network, and its errors on trajectories of their own.

A sample is a pair of saved points 500 steps apart, from any place of a trajectory.  The
error is the mean square over both targets, all particles and all components, as in the
thesis.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor
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
        step: Tells the steps made.
    """

    def __init__(
        self, n_samples: int, config: NBodyConfig, step: Callable[[], int]
    ) -> None:
        self.n_samples = n_samples
        self.config = config
        self.step = step

    def __len__(self) -> int:
        return self.config.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches from the next step on."""
        size = min(self.config.batch_size, self.n_samples)
        in_epoch, order, epoch = self.n_samples // size, np.array([]), -1
        for step in range(self.step(), self.config.steps):
            if step // in_epoch != epoch:
                epoch = step // in_epoch
                rng = np.random.default_rng([self.config.seed, epoch])
                order = rng.permutation(self.n_samples)
            start = size * (step % in_epoch)
            yield order[start : start + size].tolist()


class NBodyModule(lightning.LightningModule):
    """Trains the network with Adam and a cosine schedule."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.network = ParticleTransformer(config.layers).float()
        self.history: list[dict[str, float]] = []

    def configure_optimizers(self) -> Any:
        """Return Adam, and the schedule by step."""
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.config.learning_rate, fused=True
        )

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / 200)
            share = min(step / self.config.steps, 1.0)
            return warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * share)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the mean square error of a batch."""
        return self.error(batch)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Log the mean square error of a batch."""
        self.log("validation_mse", self.error(batch), batch_size=len(batch["charges"]))

    def on_validation_epoch_end(self) -> None:
        """Add a row to the history."""
        mse = float(self.trainer.callback_metrics["validation_mse"])
        self.history.append({"step": self.global_step, "validation_mse": mse})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history of the run that goes on."""
        self.history = checkpoint["history"]

    def error(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean square error of a batch."""
        predicted = self.network(
            batch["positions"], batch["velocities"], batch["charges"]
        )
        return torch.nn.functional.mse_loss(predicted, batch["target"])


def validation_interval(steps: int) -> int:
    """Return after how many steps of a run its errors are measured."""
    return min(VALIDATE_EVERY, steps)


class Sitting(lightning.Callback):
    """Tells how many steps were made, saves, and stops when the user wants to.

    Args:
        folder: Folder of the run.
        progress: Called with the steps made and all steps.
        total: All steps.
        signals: Tells whether the user wants to stop.
    """

    def __init__(
        self,
        folder: Path,
        progress: Callable[[int, int], None],
        total: int,
        signals: Signals,
    ) -> None:
        self.folder = folder
        self.progress = progress
        self.total = total
        self.signals = signals

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Tell where this sitting starts."""
        self.signals.install()
        self.progress(trainer.global_step, self.total)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, *rest: Any
    ) -> None:
        """Tell of one more step, and save where a sitting may end."""
        step = trainer.global_step
        self.progress(step, self.total)
        trainer.should_stop = self.signals.received is not None
        if trainer.should_stop or step == self.total:
            self._save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save with the errors just measured, and write the history."""
        if trainer.global_step % validation_interval(self.total):
            return  # Lightning validates where a run is stopped, too
        self._save(trainer)
        with (
            atomic_write(self.folder / HISTORY) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, ["step", "validation_mse"])
            writer.writeheader()
            writer.writerows(module.history)

    def _save(self, trainer: lightning.Trainer) -> None:
        with atomic_write(self.folder / LAST) as temporary:
            trainer.save_checkpoint(temporary)


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
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = NBodyModule(config)
    with Signals() as signals:
        trainer = lightning.Trainer(
            max_steps=config.steps,
            accelerator="auto",
            devices=1,
            gradient_clip_val=1.0,
            val_check_interval=validation_interval(config.steps),
            check_val_every_n_epoch=None,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            callbacks=[Sitting(folder, progress, config.steps, signals)],
        )
        batches = Batches(len(data["train"]), config, lambda: trainer.global_step)
        some = torch.utils.data.Subset(
            data["validation"], range(0, len(data["validation"]), 7)
        )
        trainer.fit(
            module,
            DataLoader(data["train"], batch_sampler=batches),
            DataLoader(some, 512),
            ckpt_path=folder / LAST if (folder / LAST).exists() else None,
            weights_only=True,
        )
    if trainer.global_step < config.steps:
        raise signals.interrupt()
    return module.eval()


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

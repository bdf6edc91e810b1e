"""Training of the particle network, and its errors on trajectories of their own.

A sample is a pair of saved points 500 steps apart, from any place of a trajectory.  The
error is the mean square over both targets, all particles and all components, as in the
thesis.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openmm_se3.config import ModelConfig
from openmm_se3.nbody.network import ParticleTransformer
from openmm_se3.nbody.particles import SAVED_EVERY, TIME_STEP, Trajectories

AHEAD = 500 // SAVED_EVERY  # saved points
AHEAD_TIME = AHEAD * SAVED_EVERY * TIME_STEP
TEST_SAMPLES = 20_000
LAST = "last.ckpt"


@dataclasses.dataclass(frozen=True)
class NBodyConfig:
    """Settings of a run.

    Attributes:
        trajectories: Trajectories simulated; a tenth tests, a twentieth validates.
        steps: Optimiser steps.
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


class NBodyModule(lightning.LightningModule):
    """Trains the network with Adam and a cosine schedule."""

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        self.config = config
        self.network = ParticleTransformer(config.layers).float()

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

    def error(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean square error of a batch."""
        predicted = self.network(
            batch["positions"], batch["velocities"], batch["charges"]
        )
        return torch.nn.functional.mse_loss(predicted, batch["target"])


class Steps(lightning.Callback):
    """Tells how many steps were made.

    Args:
        progress: Called with the steps made and all steps.
        total: All steps.
    """

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self.progress = progress
        self.total = total

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Tell where this sitting starts."""
        self.progress(trainer.global_step, self.total)

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        """Tell of one more step."""
        self.progress(trainer.global_step, self.total)


def train(
    config: NBodyConfig,
    data: dict[str, Samples],
    folder: Path,
    resume: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NBodyModule:
    """Train the network; a run that was stopped goes on from its last checkpoint.

    Args:
        config: Settings.
        data: Samples by split.
        folder: Where the checkpoint is kept.
        resume: Go on.
        progress: Called with the steps made and all steps.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    module = NBodyModule(config)
    generator = torch.Generator().manual_seed(config.seed)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator="auto",
        devices=1,
        gradient_clip_val=1.0,
        val_check_interval=min(500, max(config.steps // 4, 1)),
        check_val_every_n_epoch=None,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        callbacks=[
            Steps(progress, config.steps),
            ModelCheckpoint(
                dirpath=folder,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=min(500, config.steps),
            ),
        ],
    )
    train_loader = DataLoader(
        data["train"], config.batch_size, shuffle=True, generator=generator
    )
    some = torch.utils.data.Subset(
        data["validation"], range(0, len(data["validation"]), 7)
    )
    trainer.fit(
        module,
        train_loader,
        DataLoader(some, 512),
        ckpt_path=folder / LAST if resume and (folder / LAST).exists() else None,
        weights_only=True,
    )
    return module.eval()


@torch.no_grad()
def errors_on(module: NBodyModule, samples: Samples, seed: int = 0) -> dict[str, float]:
    """Return mean square errors on test trajectories.

    Args:
        module: The trained network.
        samples: Test samples; a random part of very many.
        seed: Seed of that choice.

    Returns:
        Errors of the network, of predicting no change, and of constant velocity.
    """
    chosen = np.random.default_rng(seed).permutation(len(samples))[:TEST_SAMPLES]
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

"""Our network, preset "default", trained by the steps of our own trainer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from budget import Job, Predictions, Trainee, main
from graphs import batch, labels_of, read_graphs
from labels import Labels

from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import BatchOrder, GraphTensors, take_apart
from openmm_se3.training.config_file import run_config
from openmm_se3.training.metrics import predict_batch
from openmm_se3.training.start import compiled_batches
from openmm_se3.training.step import TrainingModule

LOWEST_RATE = 1e-9  # a learning rate of zero is refused


class Ours(Trainee):
    """Our network and trainer."""

    packages = ("e3nn", "dgl")

    def __init__(self, job: Job) -> None:
        values = {
            "preset": "default",
            "model": {"elements": list(job.elements), "cutoff": job.cutoff},
            "training": {
                "seed": job.seed,
                "schedule": "constant",
                "warmup_steps": 0,
                "device": "gpu" if job.device == "cuda" else job.device,
            },
            "data": {"files": [str(job.data / "train.xyz")]},
        }
        config = run_config(values, Path())
        model = config.model
        self.name = (
            f"openmm_se3, {model.kernel}, {model.layers} layers, {model.channels} "
            f"channels, {model.heads} heads, degrees 0 to {model.lmax}"
        )
        self.settings = config.training
        self.graphs = read_graphs(job)
        self.network = SE3Transformer(model).float()
        order = BatchOrder(self.graphs["train"].n_atoms, job.batch_atoms, job.seed)
        self.module = TrainingModule(
            self.network,
            self.settings,
            order,
            self.graphs["train"],
            self.graphs["validation"],
            compiled_batches(self.network, self.settings),
        )
        self.module.start(torch.device(job.device))

    def labels(self, split: str) -> Labels:
        """Return what was read."""
        return labels_of(self.graphs[split])

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one step of our trainer."""
        self.module.config = dataclasses.replace(
            self.settings,
            learning_rate=self.settings.learning_rate * max(rate, LOWEST_RATE),
        )
        self.module.training_step(
            self._batch("train", frames),
            lambda *batch: self.module.loss(*batch).stacked(),
            torch.Tensor.backward,
        )

    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Predict with the averaged weights."""
        self.module.average.eval()
        tensors, _ = self._batch(split, frames)
        predicted = predict_batch(self.module.average, tensors, self.module.compiled)
        return predicted.energies, predicted.forces

    def _batch(
        self, split: str, frames: np.ndarray
    ) -> tuple[GraphTensors, dict[str, torch.Tensor]]:
        tensors, labels = take_apart(batch(self.graphs[split], frames))
        device = self.module.device
        return tensors.to(device), {k: v.to(device) for k, v in labels.items()}


if __name__ == "__main__":
    main(Ours)

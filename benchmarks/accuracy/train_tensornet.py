"""TensorNet (torchmd-net), 64 channels, 1 layer, with its settings for small data.

Those of its example TensorNet-rMD17.yaml but for the size: AdamW from a learning rate
of 1e-3, gradients clipped at 40, the energy's loss damped by a hundred, kcal/mol and A,
the last weights.
"""

from __future__ import annotations

import numpy as np
import torch
from budget import SPLITS, Descent, Job, Predictions, Trainee, main
from labels import Labels
from torch_geometric.data import Batch, Data
from torchmdnet.datasets import HDF5
from torchmdnet.module import LNNP

from openmm_se3.units import EV_TO_KCAL_PER_MOL

SETTINGS = {
    "model": "tensornet",
    "embedding_dimension": 64,
    "num_layers": 1,
    "num_rbf": 32,
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "activation": "silu",
    "equivariance_invariance_group": "O(3)",
    "output_model": "Scalar",
    "reduce_op": "add",
    "cutoff_lower": 0.0,
    "max_num_neighbors": 64,  # none of the sets has more
    "max_z": 100,
    "derivative": True,
    "precision": 32,
    "static_shapes": False,
    "prior_model": None,
    "atom_filter": -1,
    "load_model": None,
    "remove_ref_energy": False,
    "train_loss": "mse_loss",
    "y_weight": 0.5,
    "neg_dy_weight": 0.5,
    "ema_alpha_y": 0.01,
    "ema_alpha_neg_dy": 1.0,
}
LEARNING_RATE, CLIP_NORM = 1e-3, 40.0


class TensorNet(Trainee):
    """TensorNet."""

    name = "TensorNet, 1 layer, 64 channels"
    packages = ("torchmd-net", "warp-lang")

    def __init__(self, job: Job) -> None:
        self.frames = {split: self._read(job, split) for split in SPLITS}
        energies = torch.cat([frame.y for frame in self.frames["train"]])
        # Its option "standardize".
        self.module = LNNP(
            {**SETTINGS, "cutoff_upper": job.cutoff},
            mean=energies.mean(),
            std=energies.std(),
        )
        self.device = job.device
        self.module.to(self.device)
        self.network = self.module.model
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
        )
        self.descent = Descent(self.network, optimizer, CLIP_NORM)

    def _read(self, job: Job, split: str) -> list[Data]:
        dataset = HDF5(str(job.data / f"{split}.h5"))
        frames = [dataset.get(index) for index in range(len(dataset))]
        boxes = Labels.load(job.data / f"{split}.npz").boxes
        if boxes.any():
            for frame, box in zip(frames, boxes, strict=True):
                frame.box = torch.tensor(box[None], dtype=torch.float32)
        return frames

    def labels(self, split: str) -> Labels:
        """Return what was read, in eV."""
        batch = Batch.from_data_list(self.frames[split])
        n_atoms = batch.ptr.diff().numpy()
        boxes = batch.box if "box" in batch else torch.zeros(len(n_atoms), 3, 3)
        return Labels(
            n_atoms,
            batch.z.numpy(),
            batch.pos.double().numpy(),
            boxes.double().numpy(),
            batch.y.double().numpy() / EV_TO_KCAL_PER_MOL,
            batch.neg_dy.double().numpy() / EV_TO_KCAL_PER_MOL,
        )

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one step."""
        batch = self._batch("train", frames)
        self.descent.step(lambda: self.module.training_step(batch, 0), rate)

    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Predict with the last weights, in eV."""
        self.module.eval()
        energies, forces = self.module.predict_step(self._batch(split, frames), 0)
        self.module.train()
        energies = energies.detach().double().flatten().cpu().numpy()
        forces = forces.detach().double().cpu().numpy()
        return energies / EV_TO_KCAL_PER_MOL, forces / EV_TO_KCAL_PER_MOL

    def _batch(self, split: str, frames: np.ndarray) -> Batch:
        batch = Batch.from_data_list(
            [self.frames[split][int(index)] for index in frames]
        )
        return batch.to(self.device)


if __name__ == "__main__":
    main(TensorNet)

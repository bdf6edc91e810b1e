"""NequIP, 4 layers, 32 channels, lmax 1, with the settings of its tutorial.

The shape is that of the tutorial, with its repulsion of atoms in contact.  Adam from a
learning rate of 0.01, equal weights of forces and energies per atom, averaged weights
with a decay of 0.999, energies in units of the forces of each element.
"""

from __future__ import annotations

import numpy as np
import torch
from budget import SPLITS, Descent, Job, Predictions, Trainee, main
from labels import Labels
from nequip.data import AtomicDataDict, CommonDataStatisticsManager
from nequip.data.dataset import ASEDataset
from nequip.data.transforms import (
    ChemicalSpeciesToAtomTypeMapper,
    NeighborListTransform,
)
from nequip.model import NequIPGNNModel
from nequip.train import EnergyForceLoss
from nequip.utils.global_state import set_global_state

LEARNING_RATE, AVERAGE_DECAY = 0.01, 0.999
SHAPE = {
    "num_layers": 4,
    "l_max": 1,
    "num_features": 32,
    "parity": True,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 64,
}


class NequIP(Trainee):
    """NequIP."""

    name = "NequIP, 4 layers, 32 channels, lmax 1, both parities"
    packages = ("nequip", "e3nn")

    def __init__(self, job: Job) -> None:
        set_global_state()
        types = list(job.elements)
        self.transforms = [
            ChemicalSpeciesToAtomTypeMapper(types),
            NeighborListTransform(job.cutoff),
        ]
        self.frames = {split: self._read(job, split) for split in SPLITS}
        statistics = CommonDataStatisticsManager({}, types).get_statistics(
            [AtomicDataDict.batched_from_list(self.frames["train"])]
        )
        self.network = NequIPGNNModel(
            seed=job.seed,
            model_dtype="float32",
            type_names=types,
            r_max=job.cutoff,
            avg_num_neighbors=statistics["num_neighbors_mean"],
            per_type_energy_scales=statistics["per_type_forces_rms"],
            per_type_energy_shifts=statistics["per_atom_energy_mean"],
            pair_potential={
                "_target_": "nequip.nn.pair_potential.ZBL",
                "units": "metal",
                "chemical_species": types,
            },
            **SHAPE,
        )
        self.device = job.device
        self.network.to(self.device)
        self.loss = EnergyForceLoss().to(self.device)
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=LEARNING_RATE, fused=True
        )
        self.descent = Descent(self.network, optimizer, average_decay=AVERAGE_DECAY)

    def _read(self, job: Job, split: str) -> list[AtomicDataDict.Type]:
        names = {
            "REF_energy": AtomicDataDict.TOTAL_ENERGY_KEY,
            "REF_forces": AtomicDataDict.FORCE_KEY,
        }
        dataset = ASEDataset(
            str(job.data / f"{split}.xyz"), self.transforms, key_mapping=names
        )
        return [dataset[index] for index in range(len(dataset))]

    def labels(self, split: str) -> Labels:
        """Return what was read."""
        batch = AtomicDataDict.batched_from_list(self.frames[split])
        n_atoms = batch[AtomicDataDict.NUM_NODES_KEY].numpy()
        none = torch.zeros(len(n_atoms), 3, 3)
        return Labels(
            n_atoms,
            batch[AtomicDataDict.ATOMIC_NUMBERS_KEY].flatten().numpy(),
            batch[AtomicDataDict.POSITIONS_KEY].numpy(),
            batch.get(AtomicDataDict.CELL_KEY, none).numpy(),
            batch[AtomicDataDict.TOTAL_ENERGY_KEY].flatten().numpy(),
            batch[AtomicDataDict.FORCE_KEY].numpy(),
        )

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one step."""
        batch = self._batch("train", frames)

        def loss() -> torch.Tensor:
            losses = self.loss(self.network(batch.copy()), batch)
            return losses["weighted_sum"]

        self.descent.step(loss, rate)

    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Predict with the averaged weights."""
        self.network.eval()
        with self.descent.averaged():
            output = self.network(self._batch(split, frames))
        self.network.train()
        energies = output[AtomicDataDict.TOTAL_ENERGY_KEY].flatten()
        forces = output[AtomicDataDict.FORCE_KEY]
        return (
            energies.detach().double().cpu().numpy(),
            forces.detach().double().cpu().numpy(),
        )

    def _batch(self, split: str, frames: np.ndarray) -> AtomicDataDict.Type:
        batch = AtomicDataDict.batched_from_list(
            [self.frames[split][int(index)] for index in frames]
        )
        return AtomicDataDict.to_(batch, self.device)


if __name__ == "__main__":
    main(NequIP)

"""MACE (mace-torch), 2 layers, 32 channels, L = 1, with the settings of its script.

Everything that is not named here is a default of ``mace_run_train``, whose own parser,
model, losses, groups of weights and optimizer are used.  As its documentation
recommends, weights are averaged, and a second stage, the last quarter, gives energies
more weight; its learning rate is that of all networks here, which is lower then.
"""

from __future__ import annotations

import os

# e3nn 0.4.4, which MACE needs, keeps its constants in a file that torch refuses.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import numpy as np
import torch
from budget import SPLITS, Descent, Job, Predictions, Trainee, main
from labels import Labels
from mace import data, modules, tools
from mace.tools import scripts_utils, torch_geometric
from mace.tools.model_script_utils import configure_model

from openmm_se3.elements import ATOMIC_NUMBERS

SECOND_STAGE = 0.75  # share of the training that is over by then
ARGUMENTS = ["--name=benchmark", "--num_channels=32", "--max_L=1", "--amsgrad", "--ema"]


class Mace(Trainee):
    """MACE."""

    packages = ("mace-torch", "e3nn")

    def __init__(self, job: Job) -> None:
        torch.set_default_dtype(torch.float32)
        parser = tools.build_default_arg_parser()
        arguments = [*ARGUMENTS, f"--r_max={job.cutoff}", "--default_dtype=float32"]
        args, _ = tools.check_args(parser.parse_args(arguments))
        args.compute_energy, args.compute_dipole = True, False
        self.name = (
            f"MACE, {args.num_interactions} layers, {args.num_channels} channels, "
            f"L = {args.max_L}, correlation {args.correlation}"
        )
        self.table = tools.AtomicNumberTable(
            sorted(ATOMIC_NUMBERS[symbol] for symbol in job.elements)
        )
        self.frames = {split: self._read(job, split) for split in SPLITS}
        self.collate = torch_geometric.dataloader.Collater([None], [None])
        loader = torch_geometric.dataloader.DataLoader(self.frames["train"], 16)
        args.avg_num_neighbors = modules.compute_avg_num_neighbors(loader)
        atomic_energies = np.zeros((1, len(self.table)))
        self.network, _ = configure_model(
            args, loader, atomic_energies, heads=["Default"], z_table=self.table
        )
        self.device = job.device
        self.network.to(self.device)
        self.loss = scripts_utils.get_loss_fn(args, False, False)
        self.second_loss = modules.WeightedEnergyForcesLoss(
            args.swa_energy_weight, args.swa_forces_weight
        )
        options = scripts_utils.get_params_options(args, self.network)
        optimizer = scripts_utils.get_optimizer(args, {**options, "fused": True})
        self.descent = Descent(self.network, optimizer, args.clip_grad, args.ema_decay)

    def _read(self, job: Job, split: str) -> list[data.AtomicData]:
        _, configurations = data.load_from_xyz(
            str(job.data / f"{split}.xyz"), data.KeySpecification.from_defaults()
        )
        return [
            data.AtomicData.from_config(c, self.table, job.cutoff)
            for c in configurations
        ]

    def labels(self, split: str) -> Labels:
        """Return what was read."""
        batch = self.collate(self.frames[split])
        numbers = np.array(self.table.zs)[batch.node_attrs.argmax(1)]
        # Without a box MACE makes one that holds the molecule.
        periodic = batch.pbc.all(1)[:, None, None]
        return Labels(
            batch.ptr.diff().numpy(),
            numbers,
            batch.positions.double().numpy(),
            torch.where(periodic, batch.cell.view(-1, 3, 3), 0.0).double().numpy(),
            batch.energy.double().numpy(),
            batch.forces.double().numpy(),
        )

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one step."""
        batch = self._batch("train", frames)
        criterion = self.loss if progress < SECOND_STAGE else self.second_loss

        def loss() -> torch.Tensor:
            output = self.network(batch.to_dict(), training=True, compute_force=True)
            return criterion(pred=output, ref=batch)

        self.descent.step(loss, rate)

    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Predict with the averaged weights."""
        with self.descent.averaged():
            output = self.network(self._batch(split, frames).to_dict())
        energies, forces = output["energy"], output["forces"]
        return (
            energies.detach().double().cpu().numpy(),
            forces.detach().double().cpu().numpy(),
        )

    def _batch(self, split: str, frames: np.ndarray) -> torch_geometric.Batch:
        batch = self.collate([self.frames[split][int(index)] for index in frames])
        return batch.to(self.device)


if __name__ == "__main__":
    main(Mace)

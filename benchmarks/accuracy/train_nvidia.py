"""NVIDIA's SE(3)-Transformer (nvidia_network.py), optimized as by its own script.

AdamW from a learning rate of 2e-3 with a weight decay of 0.1 and the last weights.  It
has no loss for energies and forces: it gets ours (equation 3.2), and atomic energies in
units of the training forces' root mean square, as MACE and NequIP have them.
"""

from __future__ import annotations

import numpy as np
import torch
from budget import Descent, Job, Predictions, Trainee, main
from graphs import batch, labels_of, read_graphs
from labels import Labels
from nvidia_network import ForceField

from openmm_se3.training.batches import import_dgl
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.loss import loss_terms
from openmm_se3.training.presets import PRESETS

LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.1


class Nvidia(Trainee):
    """NVIDIA's network as a force field."""

    name = "SE3Transformer, 3 layers, 32 channels, 8 heads, degrees 0 to 2"
    packages = ("e3nn", "dgl")

    def __init__(self, job: Job) -> None:
        if job.source is None:
            raise ValueError("the job names no folder with NVIDIA's files")
        self.device = job.device
        require_dgl_on(self.device)
        self.graphs = read_graphs(job)
        forces = self.labels("train").forces
        self.network = ForceField(
            job.source,
            len(job.elements),
            energy_scale=float(np.sqrt(np.square(forces).mean())),
        ).to(self.device)
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self.descent = Descent(self.network, optimizer)
        ours = PRESETS["default"]["training"]
        self.settings = TrainingConfig(
            energy_per=ours["energy_per"], energy_weight=ours["energy_weight"]
        )

    def labels(self, split: str) -> Labels:
        """Return what was read."""
        return labels_of(self.graphs[split])

    def step(self, frames: np.ndarray, rate: float, progress: float) -> None:
        """Make one step."""
        graph, labels = batch(self.graphs["train"], frames, self.device)
        counts = graph.batch_num_nodes()
        molecule = torch.arange(len(counts), device=counts.device)

        def loss() -> torch.Tensor:
            energies, forces = self.network.energy_and_forces(graph, create_graph=True)
            return loss_terms(
                energies,
                forces,
                labels["energy"],
                graph.ndata["forces"],
                labels["weight"],
                torch.repeat_interleave(molecule, counts),
                self.settings,
            ).total

        self.descent.step(loss, rate)

    def predict(self, split: str, frames: np.ndarray) -> Predictions:
        """Predict with the last weights."""
        graph, _ = batch(self.graphs[split], frames, self.device)
        energies, forces = self.network.energy_and_forces(graph)
        return energies.detach().cpu().numpy(), forces.double().cpu().numpy()


def require_dgl_on(device: str) -> None:
    """Put a small graph on a device.

    Raises:
        ValueError: DGL cannot; that of PyPI is built for CPUs.
    """
    dgl = import_dgl()
    try:
        dgl.graph(([0], [0])).to(device)
    except dgl.DGLError as error:
        raise ValueError(
            f"DGL {dgl.__version__} cannot put a graph on {device}: NVIDIA's network "
            "needs one that is built for it, see www.dgl.ai/pages/start.html"
        ) from error


if __name__ == "__main__":
    main(Nvidia)

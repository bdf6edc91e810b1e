"""What a run starts from: a trained model's weights, and self-energies to match them.

The interaction energies of a model belong to its own self-energies.  Labels of another
level of theory, or with self-energies of another kind (isolated atoms instead of a
fit), are hundreds of kcal/mol away from it, which the first steps would spend on
unlearning what the model knows.  So self-energies are fitted to what it leaves.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from openmm_se3.compiled.library import compiled_or_none
from openmm_se3.compiled.training import CompiledBatches
from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.data.dataset import SELF_ENERGY_TOLERANCE, Dataset
from openmm_se3.data.frames import Frames
from openmm_se3.data.self_energies import SelfEnergies, left_by, self_energies
from openmm_se3.elements import numbers_of
from openmm_se3.implementation import asked_implementation
from openmm_se3.model_file import load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import FrameGraphs
from openmm_se3.training.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from openmm_se3.training.config import DataConfig
from openmm_se3.training.metrics import predict

FITTED_ATOMS = 50_000  # of the frames that self-energies are fitted to, about


@dataclasses.dataclass(frozen=True)
class InitialModel:
    """A trained model that a run starts from.

    Attributes:
        name: How it was named.
        config: Shape of its network.
        weights: Its weights.
        self_energies: Its energies of isolated atoms by atomic number, eV.
    """

    name: str
    config: ModelConfig
    weights: dict[str, torch.Tensor]
    self_energies: dict[int, float]

    @classmethod
    def load(cls, name: str) -> InitialModel:
        """Read a model or a checkpoint; of a committee the first member.

        Args:
            name: A shipped model's name, the path of a model, or a checkpoint.

        Raises:
            FileNotFoundError: There is no such model or checkpoint.
        """
        path = Path(name)
        if path.is_file() and path.name in (BEST, LAST, PREVIOUS):
            checkpoint = load_checkpoint(path)
            config = from_dict(ModelConfig, checkpoint["model"], "model")
            kept = checkpoint["self_energies"]
            values = map(float, kept.values())
            energies = dict(zip(numbers_of(list(kept)), values, strict=True))
            return cls(name, config, checkpoint["average"], energies)
        model = load_model(name)
        if model.n_members > 1:
            model = model.member(0)
        return cls(name, model.config, model.weights, model.self_energies)

    def weights_for(self, config: ModelConfig) -> dict[str, torch.Tensor]:
        """Return the weights for a network of the same shape.

        Args:
            config: Shape of the network to train.

        Raises:
            ValueError: Its network has another shape; each difference is shown.
        """
        before, now = (dataclasses.asdict(each) for each in (self.config, config))
        lines = [
            f"{key}: {before[key]} (here {now[key]})"
            for key in now
            if before[key] != now[key]
        ]
        if lines:
            raise ValueError(
                f"training.initial: {self.name} is another network; put under 'model' "
                f"what it has: {', '.join(lines)}"
            )
        return self.weights

    def interaction_energies(self, frames: Frames) -> np.ndarray:
        """Return the model's interaction energies of frames [n_frames], eV.

        Raises:
            ValueError: A frame holds an element that the model lacks.
        """
        network = SE3Transformer(self.config)
        network.load_state_dict(self.weights)
        network.float().eval()
        compiled = None
        if asked_implementation() != "torchscript":
            compiled = compiled_or_none(
                lambda: CompiledBatches(network), self.config, False, "PyTorch"
            )
        graphs = FrameGraphs(
            frames,
            self.config.elements,
            self.config.cutoff,
            self.self_energies,
            np.ones(len(frames)),
        )
        return predict(network, graphs, compiled).energies


def matched_self_energies(
    dataset: Dataset, config: DataConfig, initial: InitialModel
) -> SelfEnergies:
    """Return the self-energies of a run that starts from a model.

    Those that the user gives, or asks DFT for, are taken.  Those of the data are taken
    if the model has the same.  Others are fitted to what the model leaves of the
    energies of the training frames.

    Args:
        dataset: The data, divided.
        config: Where they come from.
        initial: The model.

    Raises:
        ValueError: The data hold an element that the model lacks.
    """
    before = initial.self_energies
    if isinstance(config.self_energies, dict) or config.self_energies == "isolated":
        chosen = self_energies(dataset, cast(Any, config.self_energies))
        return dataclasses.replace(chosen, energies={**before, **chosen.energies})
    elements = {int(z) for block in dataset.frames.blocks for z in block.numbers}
    known = dataset.self_energies if config.self_energies == "auto" else {}
    if known.keys() >= elements and all(
        abs(known[z] - before.get(z, np.inf)) < SELF_ENERGY_TOLERANCE for z in elements
    ):
        return SelfEnergies({**before, **known}, "data")
    train = dataset.select("train")
    frames = _some(train if len(train) else dataset.frames)
    interaction = initial.interaction_energies(frames) if len(frames) else np.zeros(0)
    return left_by(frames, interaction, before, Path(initial.name).name)


def _some(frames: Frames) -> Frames:
    """Return frames with an energy of all blocks, no more than the fit needs."""
    finite = np.isfinite(frames.column("energy"))
    rng = np.random.default_rng(0)
    rank = np.zeros(len(frames))
    for index, _ in frames.by_block():
        known = index[finite[index]]
        rank[known] = rng.permutation(len(known))
    # The first frame of every block, then the second, ...
    order = np.lexsort((rng.permutation(len(frames)), rank))
    order = order[finite[order]]
    atoms = np.cumsum(frames.n_atoms[order])
    first = (rank[order] == 0.0) | (atoms <= FITTED_ATOMS)
    return frames[np.sort(order[first])]

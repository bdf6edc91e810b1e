"""The exported frames as our own package reads them: DGL graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from budget import SPLITS, Job
from frames import labels
from labels import Labels

from openmm_se3.data.load import Source, read_source
from openmm_se3.elements import ATOMIC_NUMBERS
from openmm_se3.training.batches import FrameGraphs, import_dgl


def read_graphs(job: Job) -> dict[str, FrameGraphs]:
    """Read the extended XYZ files of all splits; atoms have no energy in them."""
    none = {ATOMIC_NUMBERS[symbol]: 0.0 for symbol in job.elements}
    graphs = {}
    for split in SPLITS:
        path = str(job.data / f"{split}.xyz")
        source = Source(path, energy_key="REF_energy", forces_key="REF_forces")
        frames = read_source(source).frames
        weights = np.ones(len(frames))
        graphs[split] = FrameGraphs(frames, job.elements, job.cutoff, none, weights)
    return graphs


def labels_of(graphs: FrameGraphs) -> Labels:
    """Return what was read as arrays."""
    return labels(graphs.frames, dict.fromkeys(graphs.species, 0.0))


def batch(
    graphs: FrameGraphs, frames: np.ndarray, device: str = "cpu"
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return some frames as one graph, and their labels."""
    parts, rest = zip(*(graphs[int(index)] for index in frames), strict=True)
    labels = torch.utils.data.default_collate(rest)
    graph = import_dgl().batch(parts)
    if device == "cpu":  # DGL would copy it
        return graph, labels
    return graph.to(device), {name: label.to(device) for name, label in labels.items()}

"""Errors of a model on labelled frames, by group, in the units of the literature.

Force errors are over Cartesian components; the worst frame is the one whose mean
absolute force error is largest.  ``energy_mae_centred`` is the energy error after
removing the mean error of the group, which says how well energy differences come out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.reference.dataset import Frame, formula
from openmm_se3.training.data import FrameGraphs, fill_batches, graph_tensors, loader
from openmm_se3.units import EV_TO_KCAL_PER_MOL

EVALUATION_EDGES = 4000  # enough to hide the cost of many small operations

UNITS = {
    "energy_mae": "kcal/mol",
    "energy_mae_centred": "kcal/mol",
    "energy_mae_per_atom": "kcal/mol",
    "energy_rmse": "kcal/mol",
    "force_mae": "kcal/mol/A",
    "force_rmse": "kcal/mol/A",
    "force_mae_worst": "kcal/mol/A",
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says about frames, in their order.

    Attributes:
        energies: Interaction energies [n_frames], eV.
        forces: Forces of all frames one after another [n_atoms, 3], eV/A.
    """

    energies: np.ndarray
    forces: np.ndarray


def evaluation_loader(graphs: FrameGraphs) -> Any:
    """Return the loader that gives all frames once, in their order."""
    batches = fill_batches(range(len(graphs)), graphs.n_edges, EVALUATION_EDGES)
    return loader(graphs, batches)


def predict_batch(network: SE3Transformer, graph: Any) -> Predictions:
    """Return the predictions for one batch."""
    tensors = graph_tensors(graph)
    energies, forces = network.energy_and_forces(**vars(tensors))
    return Predictions(energies.cpu().numpy(), forces.double().cpu().numpy())


def join(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of consecutive batches as one."""
    return Predictions(
        np.concatenate([part.energies for part in parts]),
        np.concatenate([part.forces for part in parts]),
    )


def predict(network: SE3Transformer, graphs: FrameGraphs) -> Predictions:
    """Return the predictions for all frames."""
    device = network.embedding.weight.device
    batches = evaluation_loader(graphs)
    return join([predict_batch(network, graph.to(device)) for graph, _ in batches])


def reference_forces(graphs: FrameGraphs) -> np.ndarray:
    """Return the labelled forces of all frames [n_atoms, 3], eV/A."""
    return np.concatenate([graph.ndata["forces"].numpy() for graph in graphs.graphs])


def error_table(
    graphs: FrameGraphs, predictions: Predictions, groups: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return errors by group and, under "all", of everything.

    Args:
        graphs: The labels.
        predictions: Predictions for the same frames.
        groups: Group of each frame.

    Returns:
        For each group the number of ``frames`` and the quantities of ``UNITS``.
    """
    energy_errors = predictions.energies - graphs.energies.numpy()
    force_errors = predictions.forces - reference_forces(graphs)
    owner = np.repeat(np.arange(len(graphs)), graphs.n_atoms)
    tables = {}
    for name in sorted(set(groups)) + ["all"]:
        chosen = np.array([name in (group, "all") for group in groups])
        tables[name] = _errors(
            energy_errors[chosen],
            force_errors[chosen[owner]],
            graphs.n_atoms[chosen],
        )
    return tables


def _errors(
    energy: np.ndarray, forces: np.ndarray, n_atoms: np.ndarray
) -> dict[str, float]:
    ends = np.cumsum(n_atoms)
    sums = np.add.reduceat(np.abs(forces).sum(1), ends - n_atoms)
    errors = {
        "energy_mae": np.abs(energy).mean(),
        "energy_mae_centred": np.abs(energy - energy.mean()).mean(),
        "energy_mae_per_atom": np.abs(energy / n_atoms).mean(),
        "energy_rmse": math.sqrt(np.square(energy).mean()),
        "force_mae": np.abs(forces).mean(),
        "force_rmse": math.sqrt(np.square(forces).mean()),
        "force_mae_worst": (sums / (3 * n_atoms)).max(),
    }
    scaled = {key: float(value) * EV_TO_KCAL_PER_MOL for key, value in errors.items()}
    return {"frames": float(len(energy)), **scaled}


def group_names(frames: Iterable[Frame]) -> list[str]:
    """Return the group of each frame: its formula, kind and temperature."""
    formulas: dict[tuple[int, ...], str] = {}
    names = []
    for frame in frames:
        key = tuple(int(number) for number in frame.numbers)
        if key not in formulas:
            formulas[key] = formula(frame.numbers)
        name = f"{formulas[key]} {frame.kind}".strip()
        if math.isfinite(frame.temperature):
            name += f" {frame.temperature:.0f} K"
        names.append(name)
    return names


def evaluate(
    network: SE3Transformer, graphs: FrameGraphs
) -> dict[str, dict[str, float]]:
    """Return the errors of a network by group of frames."""
    predictions = predict(network, graphs)
    return error_table(graphs, predictions, group_names(graphs.frames))


def as_tensors(
    graphs: FrameGraphs, predictions: Predictions
) -> dict[str, torch.Tensor]:
    """Return predictions and labels as the loss takes them."""
    n_atoms = torch.as_tensor(graphs.n_atoms)
    return {
        "energies": torch.as_tensor(predictions.energies),
        "forces": torch.as_tensor(predictions.forces),
        "reference_energies": graphs.energies,
        "reference_forces": torch.as_tensor(reference_forces(graphs)),
        "weights": graphs.weights,
        "molecule": torch.repeat_interleave(torch.arange(len(graphs)), n_atoms),
    }

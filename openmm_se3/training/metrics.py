"""Errors of a model on labeled frames, by group, in the units of the literature.

Force errors are over Cartesian components; the worst frame is the one whose mean
absolute force error is largest.  ``energy_mae_centered`` is the energy error after
removing the mean error of the group, which says how well energy differences come out.

Where a network has direct forces beside the conservative ones, their difference is an
estimate of the force error.  ``estimate_correlation`` says what it is worth: the rank
correlation, over atoms, of the lengths of this difference and of the true force error;
1 if the estimate puts atoms in the order of their errors, 0 if it says nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from openmm_se3.compiled.force_gradient import Batches
from openmm_se3.data.dataset import formula
from openmm_se3.data.frames import Frames
from openmm_se3.elements import symbols_of
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import (
    FrameGraphs,
    GraphTensors,
    fill_batches,
    loader,
    take_apart,
)
from openmm_se3.units import EV_TO_KCAL_PER_MOL

EVALUATION_EDGES = 4000  # enough to hide the cost of many small operations
MOST_GROUPS = 60  # more lines than that by formula, size or source tell nobody anything

UNITS = {
    "energy_mae": "kcal/mol",
    "energy_mae_centered": "kcal/mol",
    "energy_mae_per_atom": "kcal/mol",
    "energy_rmse": "kcal/mol",
    "force_mae": "kcal/mol/A",
    "force_rmse": "kcal/mol/A",
    "force_mae_worst": "kcal/mol/A",
}
DIRECT_UNITS = {
    "direct_force_mae": "kcal/mol/A",
    "direct_force_rmse": "kcal/mol/A",
    "estimate_correlation": "1",
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says about frames, in their order.

    Attributes:
        energies: Interaction energies [n_frames], eV.
        forces: Forces of all frames one after another [n_atoms, 3], eV/A.
        direct_forces: Direct forces beside them [n_atoms, 3], eV/A; None without any.
    """

    energies: np.ndarray
    forces: np.ndarray
    direct_forces: np.ndarray | None = None


def evaluation_batches(graphs: FrameGraphs) -> list[np.ndarray]:
    """Return batches that hold all frames once, in their order."""
    return fill_batches(np.arange(len(graphs)), graphs.n_edges, EVALUATION_EDGES)


def predict_batch(
    network: SE3Transformer,
    tensors: GraphTensors,
    compiled: Batches | None = None,
) -> Predictions:
    """Return the predictions for one batch, of the compiled network if there is one."""
    if compiled is not None:
        with torch.no_grad():
            energies, forces = compiled.energy_and_forces(network, **vars(tensors))
        return Predictions(energies.numpy(), forces.numpy(), None)
    energies, forces, direct = ForceField(network).with_direct_forces(**vars(tensors))
    return Predictions(
        energies.cpu().numpy(),
        forces.double().cpu().numpy(),
        direct.double().cpu().numpy() if network.both else None,
    )


def join(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of consecutive batches as one."""
    direct = [p.direct_forces for p in parts if p.direct_forces is not None]
    return Predictions(
        np.concatenate([part.energies for part in parts]),
        np.concatenate([part.forces for part in parts]),
        np.concatenate(direct) if direct else None,
    )


def predict(
    network: SE3Transformer,
    graphs: FrameGraphs,
    compiled: Batches | None = None,
) -> Predictions:
    """Return the predictions for all frames."""
    device = network.embedding.weight.device
    batches = loader(graphs, evaluation_batches(graphs))
    return join(
        [
            predict_batch(network, take_apart(batch)[0].to(device), compiled)
            for batch in batches
        ]
    )


def reference_forces(graphs: FrameGraphs) -> np.ndarray:
    """Return the labeled forces of all frames [n_atoms, 3], eV/A; NaN if unknown."""
    return np.concatenate(
        [
            np.full_like(frame.positions, np.nan)
            if frame.forces is None
            else frame.forces
            for frame in graphs.frames
        ]
    )


def error_table(
    graphs: FrameGraphs, predictions: Predictions, groups: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return errors by group and, under "all", of everything.

    Args:
        graphs: The labels.
        predictions: Predictions for the same frames.
        groups: Atoms of each group, as a mask [n_atoms of all frames].

    Returns:
        For each group the number of ``frames`` and the quantities of ``UNITS`` and,
        with direct forces, of ``DIRECT_UNITS``, without those that no label tells.
        Energies are those of frames that are whole in the group.  Predictions that are
        not finite make the errors so.
    """
    energies, forces = graphs.energies.numpy(), reference_forces(graphs)
    energy_errors = predictions.energies - energies
    force_errors = predictions.forces - forces
    known = np.isfinite(energies), np.isfinite(forces).all(1)
    everything = np.ones(len(force_errors), dtype=bool)
    table = {}
    for name, mask in {"all": everything, **groups}.items():
        table[name] = _errors(energy_errors, force_errors, graphs.n_atoms, known, mask)
        if predictions.direct_forces is not None:
            difference = predictions.direct_forces - predictions.forces
            seen = mask & known[1]
            table[name] |= _direct_errors(force_errors[seen], difference[seen])
    return table


def _errors(
    energy: np.ndarray,
    forces: np.ndarray,
    n_atoms: np.ndarray,
    has_label: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
) -> dict[str, float]:
    starts = np.cumsum(n_atoms) - n_atoms
    inside = np.add.reduceat(mask, starts, dtype=int)
    known = has_label[1] & mask
    errors: dict[str, float] = {}
    whole = (inside == n_atoms) & has_label[0]
    if whole.any():
        e, n = energy[whole], n_atoms[whole]
        if len(e) > 1:  # of one frame it would be zero whatever the model says
            with np.errstate(invalid="ignore"):  # infinity less infinity
                errors["energy_mae_centered"] = np.abs(e - e.mean()).mean()
        errors |= {
            "energy_mae": np.abs(e).mean(),
            "energy_mae_per_atom": np.abs(e / n).mean(),
            "energy_rmse": math.sqrt(np.square(e).mean()),
        }
    if known.any():
        sizes = np.where(known, np.abs(forces).mean(1), 0.0)
        counts = np.add.reduceat(known, starts, dtype=int)
        by_frame = np.add.reduceat(sizes, starts)[counts > 0] / counts[counts > 0]
        errors |= {
            "force_mae": np.abs(forces[known]).mean(),
            "force_rmse": math.sqrt(np.square(forces[known]).mean()),
            "force_mae_worst": by_frame.max(),
        }
    scaled = {key: float(value) * EV_TO_KCAL_PER_MOL for key, value in errors.items()}
    return {"frames": float((inside > 0).sum()), **scaled}


def _direct_errors(errors: np.ndarray, difference: np.ndarray) -> dict[str, float]:
    """Return the errors of direct forces and what they tell of the conservative ones.

    Args:
        errors: Conservative forces less the labels [n_atoms, 3], eV/A.
        difference: Direct forces less the conservative ones [n_atoms, 3], eV/A.
    """
    if not len(errors):
        return {}
    direct = EV_TO_KCAL_PER_MOL * (errors + difference)
    found = {
        "direct_force_mae": float(np.abs(direct).mean()),
        "direct_force_rmse": math.sqrt(np.square(direct).mean()),
    }
    if len(errors) > 1:
        estimated, true = (np.linalg.norm(x, axis=1) for x in (difference, errors))
        ranks = [lengths.argsort().argsort() for lengths in (estimated, true)]
        found["estimate_correlation"] = float(np.corrcoef(*ranks)[0, 1])
    return found


def frame_groups(frames: Frames) -> dict[str, np.ndarray]:
    """Return the groups whose errors are of interest, as masks [n_atoms].

    By formula, kind and temperature, and where there is more than one of them by
    element, by size and by source.
    """
    n_atoms = frames.n_atoms
    numbers = np.concatenate([frames.blocks[i].numbers for i in frames.block])
    names = {"formula": group_names(frames)}
    names["size"] = [f"{n} atoms" for n in n_atoms]
    names["source"] = [f"from {frames.blocks[i].source}" for i in frames.block]
    groups: dict[str, np.ndarray] = {}
    seen: set[bytes] = set()
    for axis, texts in names.items():
        distinct, codes = np.unique(texts, return_inverse=True)
        if axis != "formula" and len(distinct) == 1:
            continue
        if len(distinct) > MOST_GROUPS:
            continue
        for code, name in enumerate(distinct.tolist()):
            members = codes == code
            # Where each file holds one formula, say, there is no need to say it twice.
            if (key := members.tobytes()) not in seen:
                seen.add(key)
                groups[name] = np.repeat(members, n_atoms)
    elements = np.unique(numbers)
    if len(elements) > 1:
        for number, symbol in zip(elements, symbols_of(elements), strict=True):
            groups[f"element {symbol}"] = numbers == number
    return groups


def group_names(frames: Frames) -> list[str]:
    """Return the formula, kind and temperature of each frame as a name."""
    formulas = [formula(block.numbers) for block in frames.blocks]
    names = []
    for block, row in zip(frames.block, frames.row, strict=True):
        source = frames.blocks[block]
        name, kind = formulas[block], source.kind[row]
        if kind and kind != name:
            name += f" {kind}"
        temperature = source.temperature[row]
        if math.isfinite(temperature):
            name += f" {temperature:.0f} K"
        names.append(name)
    return names


def as_tensors(graphs: FrameGraphs, predictions: Predictions) -> dict[str, Any]:
    """Return predictions and labels as the loss takes them."""
    n_atoms = torch.as_tensor(graphs.n_atoms)
    direct = predictions.direct_forces
    return {
        "energies": torch.as_tensor(predictions.energies),
        "forces": torch.as_tensor(predictions.forces),
        "reference_energies": graphs.energies,
        "reference_forces": torch.as_tensor(reference_forces(graphs)),
        "weights": graphs.weights,
        "molecule": torch.repeat_interleave(torch.arange(len(graphs)), n_atoms),
        "direct_forces": None if direct is None else torch.as_tensor(direct),
    }

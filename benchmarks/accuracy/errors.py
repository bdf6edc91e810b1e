"""Errors of predictions, the same arithmetic for every network."""

from __future__ import annotations

import dataclasses

import numpy as np
from labels import Labels

from openmm_se3.training.batches import composition
from openmm_se3.units import EV_TO_KCAL_PER_MOL


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors over all frames.

    Attributes:
        force_mae: Mean absolute error of force components, kcal/mol/A.
        force_rmse: Root mean square error of force components, kcal/mol/A.
        energy_mae: Mean absolute error of the energy per molecule after the mean error
            of each composition is taken off, kcal/mol.
    """

    force_mae: float
    force_rmse: float
    energy_mae: float


def errors(
    energies: np.ndarray,
    forces: np.ndarray,
    labels: Labels,
    molecule_atoms: int | None,
) -> Errors:
    """Return the errors of predictions.

    Args:
        energies: Predicted energies [n_frames], eV.
        forces: Predicted forces [n_atoms_total, 3], eV/A.
        labels: The frames.
        molecule_atoms: Atoms of a molecule; None where a frame is one molecule.

    Raises:
        ValueError: There is not one prediction for each frame and atom.
    """
    for what, predicted, reference in (
        ("energies", energies, labels.energies),
        ("forces", forces, labels.forces),
    ):
        if predicted.shape != reference.shape:
            raise ValueError(
                f"predicted {what} have shape {predicted.shape}, labels "
                f"{reference.shape}"
            )
    difference = EV_TO_KCAL_PER_MOL * (energies - labels.energies)
    members: dict[tuple[int, ...], list[int]] = {}
    for index, numbers in enumerate(
        np.split(labels.numbers, np.cumsum(labels.n_atoms)[:-1])
    ):
        members.setdefault(composition(numbers), []).append(index)
    for group in members.values():
        difference[group] -= difference[group].mean()
    molecules = labels.n_atoms / (molecule_atoms or labels.n_atoms)
    force_difference = EV_TO_KCAL_PER_MOL * (forces - labels.forces)
    return Errors(
        force_mae=float(np.abs(force_difference).mean()),
        force_rmse=float(np.sqrt(np.square(force_difference).mean())),
        energy_mae=float(np.abs(difference / molecules).mean()),
    )

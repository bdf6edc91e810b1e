"""The loss of equation (3.2), with weights for frames and Huber's bound as options.

    loss =   1/M  sum over molecules m  of  w_m W_e ((E_m - E_m^ref) / n_m^p)^2
           + 1/N  sum over atoms a      of  w_m(a) W_f |f_a - f_a^ref|^2
           + 1/N  sum over atoms a      of  w_m(a) W_d |d_a - f_a^ref|^2

The last line is that of a network whose forces are both conservative, f, and direct, d.
With ``forces_per: frame``, as in the thesis, the mean over the N atoms of a batch is
that over the atoms of each molecule, and then over the molecules.

| symbol   | variable        | shape        | unit  |
|----------|-----------------|--------------|-------|
| E        | energies        | [n_molecules]| eV    |
| f        | forces          | [n_atoms, 3] | eV/A  |
| d        | direct_forces   | [n_atoms, 3] | eV/A  |
| w        | weights         | [n_molecules]|       |
| W_e      | energy_weight   |              | 1/A^2 |
| W_f      | force_weight    |              |       |
| W_d      | direct_weight   |              |       |
| m(a)     | molecule        | [n_atoms]    |       |

Labels that are NaN are left out, of the sums and of M and N.  The thesis has w = 1 and
W_f = 1.  "Molecule" is one frame, of n_m atoms: here it may be a cluster.  p is 0 in
the thesis; ``energy_per`` makes it 1/2 or 1, without which the energies of large frames
drown their forces.  With ``huber_delta`` d the square x^2 of an error beyond d becomes
d (2 |x| - d), x being the divided error of an energy; for forces it is the length of
the error vector, so that the axes do not matter.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from openmm_se3.training.config import TrainingConfig

# Energy errors are divided by the number of atoms to this power.
POWER_OF_SIZE = {"frame": 0.0, "sqrt-atom": 0.5, "atom": 1.0}


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """The loss of a batch and its parts, all scalars."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    direct: Tensor

    def stacked(self) -> Tensor:
        """Return all of them in this order [4]."""
        return torch.stack([self.total, self.energy, self.forces, self.direct])


def loss_terms(
    energies: Tensor,
    forces: Tensor,
    reference_energies: Tensor,
    reference_forces: Tensor,
    weights: Tensor,
    molecule: Tensor,
    config: TrainingConfig,
    counts: Tensor | None = None,
    direct_forces: Tensor | None = None,
) -> LossTerms:
    """Return the loss of a batch, in float64.

    Args:
        energies: Predicted energies [n_molecules], eV.
        forces: Predicted forces [n_atoms, 3], eV/A.
        reference_energies: Labels [n_molecules], eV; NaN where unknown.
        reference_forces: Labels [n_atoms, 3], eV/A; NaN where unknown.
        weights: Weight of each frame [n_molecules].
        molecule: Frame of each atom [n_atoms].
        config: Holds the weights, the energy's scaling and Huber's bound.
        counts: What :func:`label_counts` returns [3]; by default of these labels.
            Where several processes share a batch, of the whole batch: their losses then
            add up to its.
        direct_forces: Predicted direct forces [n_atoms, 3], eV/A; None without any.
    """
    if counts is None:
        counts = label_counts(reference_energies, reference_forces, molecule)
    n_energies, n_forces, n_frames = counts.clamp(min=1).unbind()
    error = known_errors(energies, reference_energies)
    power = POWER_OF_SIZE[config.energy_per]
    # torch.bincount would wait for a GPU.
    ones = torch.ones_like(molecule, dtype=error.dtype)
    n_atoms = torch.zeros_like(error).index_add(0, molecule, ones)
    error = error / n_atoms**power
    energy_squares = bounded(error.square(), config.huber_delta)
    energy = config.energy_weight * (weights * energy_squares).sum() / n_energies

    if config.forces_per == "frame":
        known = atoms_with_forces(reference_forces, molecule, len(energies))
        share = weights / (known.clamp(min=1) * n_frames)
    else:
        share = weights / n_forces

    def mean_square(predicted: Tensor) -> Tensor:
        errors = known_errors(predicted, reference_forces)
        squares = bounded(errors.square().sum(-1), config.huber_delta)
        return (share[molecule] * squares).sum()

    force = config.force_weight * mean_square(forces)
    direct = torch.zeros_like(force)
    if direct_forces is not None:
        direct = config.direct_weight * mean_square(direct_forces)
    return LossTerms(energy + force + direct, energy, force, direct)


def label_counts(
    reference_energies: Tensor, reference_forces: Tensor, molecule: Tensor
) -> Tensor:
    """Return how many energies, atoms' forces and frames with forces are known [3]."""
    energies = (~reference_energies.isnan()).sum()
    atoms = atoms_with_forces(reference_forces, molecule, len(reference_energies))
    return torch.stack([energies, atoms.sum(), (atoms > 0).sum()])


def atoms_with_forces(
    reference_forces: Tensor, molecule: Tensor, n_molecules: int
) -> Tensor:
    """Return how many atoms of each molecule have a known force [n_molecules]."""
    known = (~reference_forces.isnan().any(-1)).long()
    return known.new_zeros(n_molecules).index_add(0, molecule, known)


def known_errors(predicted: Tensor, reference: Tensor) -> Tensor:
    """Return predicted - reference in float64, and 0 where the label is NaN."""
    known = ~reference.isnan()
    return torch.where(known, predicted.double() - reference.nan_to_num(), 0.0)


def bounded(squares: Tensor, delta: float | None) -> Tensor:
    """Return Huber's function of errors x, given x^2; x^2 itself for None."""
    if delta is None:
        return squares
    # The clamp keeps the derivative of the root finite where the branch is not taken.
    length = squares.clamp(min=delta * delta).sqrt()
    return torch.where(squares > delta * delta, delta * (2.0 * length - delta), squares)

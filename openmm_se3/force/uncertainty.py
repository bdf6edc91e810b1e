"""The deviation of a committee's members for the atoms of a System."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import openmm
import torch

from openmm_se3.committee import self_energy_shifts
from openmm_se3.deviation import Deviation
from openmm_se3.force.evaluator import require_committee
from openmm_se3.geometry import in_angstrom
from openmm_se3.torch_state import usual_torch
from openmm_se3.torchscript.build import ForceSettings, build_module
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)


class CommitteeEvaluator:
    """Computes the members of a committee one by one, as OpenMM computes their mean.

    Each member has the module that a force of it alone would have, so that one
    evaluation costs about as much as a step of the committee.

    Examples:
        >>> evaluator = potential.committeeEvaluator(topology)
        >>> state = context.getState(positions=True)
        >>> evaluator.of_state(state).forces_std  # of each atom, eV/A

    Args:
        settings: What a force of the committee computes.

    Attributes:
        atoms: The model's atoms, in the order of the deviations [n_atoms].
        periodic: Whether it needs box vectors.
        threshold: Deviation above which frames are not trusted, eV/A, as the model
            says it; None where it does not.

    Raises:
        ValueError: The model is no committee.
    """

    def __init__(self, settings: ForceSettings) -> None:
        model = settings.model
        require_committee(model)
        self.atoms = np.array(settings.atoms)
        self.periodic = settings.periodic
        self.threshold: float | None = model.metadata.get("uncertainty_threshold")
        elements = model.config.elements
        shifts = self_energy_shifts(model, [elements[s] for s in settings.species])
        self._modules = [
            build_module(
                dataclasses.replace(
                    settings,
                    model=model.member(number),
                    offset=shift,
                    scale=None,
                    cuda_graphs=None,
                )
            )
            for number, shift in enumerate(shifts)
        ]

    def __call__(self, positions: Any, box: Any = None) -> Deviation:
        """Return the deviation for the positions of all particles.

        Args:
            positions: Positions [n_particles, 3], A, or a Quantity.
            box: Box vectors as rows [3, 3], A, or a Quantity; of a periodic System.

        Raises:
            ValueError: The System is periodic and there is no box, or the other way
                around.
        """
        if (box is not None) != self.periodic:
            raise ValueError(
                "a periodic System needs its box vectors"
                if self.periodic
                else "the System is not periodic: leave out the box"
            )
        inputs = [positions] if box is None else [positions, box]
        return self._evaluate([in_angstrom(x) / NM_TO_ANGSTROM for x in inputs])

    def of_state(self, state: openmm.State) -> Deviation:
        """Return the deviation for a State that has positions."""
        # In OpenMM's own nm: for few atoms, conversions take as long as a member.
        inputs = [state.getPositions(asNumpy=True)._value]
        if self.periodic:
            inputs.append(state.getPeriodicBoxVectors(asNumpy=True)._value)
        return self._evaluate(inputs)

    def _evaluate(self, inputs: list[np.ndarray]) -> Deviation:
        """Return the deviation for positions, and box vectors if periodic, nm."""
        with usual_torch():
            tensors = [torch.tensor(x, dtype=torch.float64) for x in inputs]
            results = [module(*tensors) for module in self._modules]
        energies = [energy.item() / EV_TO_KJ_PER_MOL for energy, _ in results]
        forces = np.array([f.numpy()[self.atoms] for _, f in results])
        return Deviation.of(energies, forces / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM)

"""Checks of energies and forces pass what is right and see what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_model import random_network
from torch import Tensor
from wrong_potentials import ELEMENTS, MOLECULE, cluster, failed

from openmm_se3 import single_point
from openmm_se3.elements import numbers_of
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation import energies
from openmm_se3.validation.structures import (
    Structure,
    evaluate,
)


class WrongForces(ForceField):
    """Forces that are one part in a thousand off."""

    def forward(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        energies, forces = super().forward(*args, **options)
        return energies, 1.001 * forces


def test_energy_checks_pass(networks: dict[str, SE3Transformer]) -> None:
    found = energies.energy_checks(networks, cluster(), MOLECULE)
    assert not failed(found)
    _, forces = evaluate(networks["double"], cluster())
    assert np.abs(forces).max() > 1e-2  # the comparison has something to compare


def test_wrong_forces_are_seen(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert energies.gradient_check(networks["double"], cluster()).status == "pass"
    monkeypatch.setattr(single_point, "ForceField", WrongForces)
    check = energies.gradient_check(networks["double"], cluster())
    assert check.status == "fail"


@pytest.mark.parametrize("number", numbers_of(ELEMENTS))
def test_an_isolated_atom_of_any_element_is_looked_at(
    number: int, networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_energy(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy + 1e-3 * (structure.numbers.tolist() == [number]), forces

    monkeypatch.setattr(energies, "evaluate", with_energy)
    found = energies.isolated_atom_checks({"double": networks["double"]})
    assert [check.name for check in found if check.status == "fail"] == ["H, O, double"]


def test_forces_that_depend_on_a_far_copy_are_seen(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_many(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy, forces * (1.0 + 1e-4 * (len(forces) > 3))

    assert energies.additivity_check(networks["double"], MOLECULE).status == "pass"
    monkeypatch.setattr(energies, "evaluate", of_many)
    assert energies.additivity_check(networks["double"], MOLECULE).status == "fail"


def test_direct_forces_are_reported_but_not_judged_as_a_gradient() -> None:
    network = random_network(force_mode="direct")
    check = energies.gradient_check(network, cluster())
    assert check.measured is not None and check.measured > energies.FORCE_LIMIT
    assert check.status == "pass"
    assert check.limit == "none"


def test_a_sharp_cutoff_is_seen(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sharp(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        distance = np.linalg.norm(structure.positions[1] - structure.positions[0])
        inside = 1e-3 if distance < network.config.cutoff else 0.0
        return inside, np.zeros((2, 3))

    assert energies.cutoff_check(networks["double"]).status == "pass"
    monkeypatch.setattr(energies, "evaluate", sharp)
    assert energies.cutoff_check(networks["double"]).status == "fail"

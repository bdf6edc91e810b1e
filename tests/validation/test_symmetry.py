"""Checks of symmetry pass what is right and see what is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from random_model import random_network
from wrong_potentials import cluster, failed

from openmm_se3.nn.layers import Gate
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation import symmetry
from openmm_se3.validation.structures import (
    Structure,
    evaluate,
)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_representations_are_those_of_the_rotation(degree: int, sign: float) -> None:
    rng = np.random.default_rng(degree)
    first, second = sign * symmetry.random_rotation(rng), symmetry.random_rotation(rng)
    matrices = [symmetry.representation(degree, r) for r in (first, second)]
    both = symmetry.representation(degree, first @ second)
    assert (matrices[0] @ matrices[1] - both).abs().max() < 1e-13
    unit = torch.eye(2 * degree + 1, dtype=torch.float64)
    assert (both @ both.T - unit).abs().max() < 1e-13
    if degree == 1:
        np.testing.assert_allclose(matrices[0], first, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [{}, {"kernel": "full", "symmetry": "SO(3)"}, {"force_mode": "direct"}],
    ids=["depthwise", "full, chiral", "direct"],
)
def test_symmetry_checks_pass(changes: dict[str, object]) -> None:
    found = symmetry.symmetry_checks(
        {
            "double": random_network(**changes),
            "single": random_network(torch.float32, **changes),
        },
        cluster(),
        np.random.default_rng(0),
    )
    assert not failed(found)
    layers = [c for c in found if c.name.startswith(("attention", "nonlin"))]
    assert len(layers) == 2 * 3 * 3  # precisions; attention and its two companions
    # Numbers, not zeros: the layers do something.
    assert max(c.measured for c in layers if "single" in c.name) > 1e-8


def test_symmetry_checks_see_a_broken_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    forward = Gate.forward

    def broken(self: Gate, features: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(len(features), 1, 1, dtype=features.dtype)
        weights[1:2] = 1.0 + 1e-5  # the x of every vector grows
        return forward(self, features) * weights

    monkeypatch.setattr(Gate, "forward", broken)
    found = symmetry.symmetry_checks(
        {"double": network}, cluster(), np.random.default_rng(0)
    )
    wrong = " ".join(failed(found))
    assert "nonlinearities.0" in wrong
    assert "nonlinearities.1" in wrong
    assert "forces, double" in wrong
    assert "attention.0" not in wrong  # only what is broken


def test_symmetry_checks_see_what_depends_on_the_numbering(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_atom_is_special(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        forces[0] *= 1.0 + 1e-5
        return energy, forces

    monkeypatch.setattr(symmetry, "evaluate", first_atom_is_special)
    order = np.arange(8)[::-1]
    _, error = symmetry.permutation_errors(networks["double"], cluster(), order)
    assert error > symmetry.FORCE_LIMIT["double"]


def test_the_battery_numbers_atoms_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order that is given to the check is another one, and the check is judged."""
    orders = []
    real = symmetry.permutation_errors

    def errors(*arguments: Any) -> tuple[float, float]:
        orders.append(arguments[2])
        real(*arguments)
        return 0.0, 1.0

    monkeypatch.setattr(symmetry, "permutation_errors", errors)
    structure = cluster()
    found = symmetry.symmetry_checks(
        {"double": random_network()}, structure, np.random.default_rng(0)
    )
    assert failed(found) == ["permutation: forces, double: 1.0"]
    n_atoms = len(structure.numbers)
    assert sorted(orders[0]) == list(range(n_atoms))
    moved = structure.numbers[orders[0]] != structure.numbers
    assert moved.any(), "nothing was permuted"


def test_a_numbering_that_matters_fails_the_battery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first_atom_is_special(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        forces[0] *= 1.0 + 1e-5
        return energy, forces

    monkeypatch.setattr(symmetry, "evaluate", first_atom_is_special)
    found = symmetry.symmetry_checks(
        {"double": random_network()}, cluster(), np.random.default_rng(0)
    )
    assert "permutation: forces, double" in " ".join(failed(found))


def test_reflections_are_tried_where_the_model_claims_them() -> None:
    """Rotations alone do not tell a network that knows left from right."""
    network = random_network(seed=1, symmetry="SO(3)")
    for claimed in (False, True):
        group = "O(3)" if claimed else "SO(3)"
        network.config = dataclasses.replace(network.config, symmetry=group)
        found = symmetry.symmetry_checks(
            {"double": network}, cluster(), np.random.default_rng(0)
        )
        wrong = " ".join(failed(found))
        for name in ("attention.1", "energy", "forces"):
            assert (f"equivariance: {name}, double" in wrong) is claimed

"""Equivariance error (3.1) of every layer and of the whole network, and permutation.

    error = || D Phi(f) - Phi(D f) || / || D Phi(f) ||                       (3.1)

Each layer is tested on its own: its inputs are recorded from a run of the network,
rotated in float64, cast to the network's precision and given to the layer again.
Hidden features of degree l rotate with D^l, which is found here from Y_l(R x) = D^l
Y_l(x) for e3nn's spherical harmonics: exact to rounding, for improper rotations too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn

from openmm_se3.geometry import random_rotation
from openmm_se3.nn.attention import AttentionLayer
from openmm_se3.nn.layers import AttentiveSelfInteraction, Gate, NormNonlinearity
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.validation.check import Check
from openmm_se3.validation.structures import Structure, edges_of, evaluate

LAYER_LIMIT = {"double": 1e-12, "single": 1e-6}
FORCE_LIMIT = {"double": 1e-12, "single": 5e-6}
ROTATIONS = 5
SHIFT = 30.0  # A, spread of random translations
LAYERS = (AttentionLayer, AttentiveSelfInteraction, Gate, NormNonlinearity)


def representation(degree: int, rotation: np.ndarray) -> Tensor:
    """Return D^l [2l+1, 2l+1], float64, of a rotation with or without reflection."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    turned = points @ torch.from_numpy(rotation).T
    before, after = (
        o3.spherical_harmonics(degree, x, normalize=True, normalization="component")
        for x in (points, turned)
    )
    return torch.linalg.lstsq(before, after).solution.T


def rotate_components(features: Tensor, rotation: np.ndarray, axis: int) -> Tensor:
    """Rotate features whose ``axis`` runs over the components of degrees 0, 1, ...

    The product is formed in float64 and cast back.
    """
    count = features.shape[axis]
    degrees = range(int(round(count**0.5)))
    matrix = torch.block_diag(*[representation(degree, rotation) for degree in degrees])
    moved = features.double().movedim(axis, 0)
    turned = (matrix @ moved.flatten(1)).view(moved.shape).movedim(0, axis)
    return turned.to(features.dtype)


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Return || expected - found || / || expected ||, zero where both vanish."""
    difference = float((expected.double() - found.double()).norm())
    scale = float(expected.double().norm())
    return difference / scale if scale > 0.0 else difference


def recorded_inputs(
    network: SE3Transformer, structure: Structure
) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Return (name, layer, its inputs) of every layer in a run of the network."""
    records: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):

            def record(
                layer: nn.Module, inputs: tuple[Any, ...], name: str = name
            ) -> None:
                records.append((name, layer, inputs))

            hooks.append(module.register_forward_pre_hook(record))
    try:
        with torch.no_grad():
            network(*edges_of(network, structure))
    finally:
        for hook in hooks:
            hook.remove()
    return records


def layer_errors(
    network: SE3Transformer, structure: Structure, rotation: np.ndarray
) -> dict[str, float]:
    """Return the largest error (3.1) over the hidden degrees, by layer."""
    errors: dict[str, float] = {}
    with torch.no_grad():
        for name, layer, inputs in recorded_inputs(network, structure):
            turned = [rotate_components(inputs[0], rotation, axis=0), *inputs[1:]]
            if isinstance(layer, AttentionLayer):
                turned[1] = rotate_components(inputs[1], rotation, axis=1)
            found = layer(*turned)
            expected = rotate_components(layer(*inputs).double(), rotation, axis=0)
            for degree in range(int(round(len(found) ** 0.5))):
                rows = slice(degree**2, (degree + 1) ** 2)
                error = relative_error(expected[rows], found[rows])
                errors[name] = max(errors.get(name, 0.0), error)
    return errors


def network_errors(
    network: SE3Transformer,
    structure: Structure,
    rotation: np.ndarray,
    shift: np.ndarray,
) -> tuple[float, float]:
    """Return the errors (3.1) of energy and forces under a rotation and translation.

    The energy's error is taken relative to the sum of the atoms' absolute energies, as
    the total may happen to be near zero.
    """
    energy, forces = evaluate(network, structure)
    moved = structure.moved(structure.positions @ rotation.T + shift)
    found_energy, found_forces = evaluate(network, moved)
    expected = torch.from_numpy(forces @ rotation.T)
    force_error = relative_error(expected, torch.from_numpy(found_forces))
    return abs(found_energy - energy) / energy_scale(network, structure), force_error


def permutation_errors(
    network: SE3Transformer, structure: Structure, order: np.ndarray
) -> tuple[float, float]:
    """Return the errors of energy and forces when atoms are numbered differently."""
    energy, forces = evaluate(network, structure)
    permuted = Structure(
        structure.name, structure.numbers[order], structure.positions[order]
    )
    found_energy, found_forces = evaluate(network, permuted)
    force_error = relative_error(
        torch.from_numpy(forces[order]), torch.from_numpy(found_forces)
    )
    return abs(found_energy - energy) / energy_scale(network, structure), force_error


def energy_scale(network: SE3Transformer, structure: Structure) -> float:
    """Return the sum of the absolute atomic energies, eV.

    What isolated atoms have is counted in: it is taken off after the rounding.
    """
    species, vectors, edges = edges_of(network, structure)
    with torch.no_grad():
        atomic, _ = network(species, vectors, edges)
    return float(atomic.abs().sum() + network.isolated[species].abs().sum())


def symmetry_checks(
    networks: dict[str, SE3Transformer], structure: Structure, rng: np.random.Generator
) -> list[Check]:
    """Return equivariance and permutation checks in both precisions."""
    claimed = next(iter(networks.values())).config.symmetry == "O(3)"
    rotations = [random_rotation(rng) for _ in range(ROTATIONS)]
    if claimed:
        # The model claims mirror images too.
        rotations = [sign * r for r in rotations for sign in (1.0, -1.0)]
    shifts = rng.normal(scale=SHIFT, size=(len(rotations), 3))
    moves = "rotations, reflections" if claimed else "rotations"
    checks = []
    for precision, network in networks.items():
        layers: dict[str, float] = {}
        for rotation in rotations:
            for name, error in layer_errors(network, structure, rotation).items():
                layers[name] = max(layers.get(name, 0.0), error)
        checks += [
            Check(
                "equivariance",
                f"{name}, {precision}",
                error,
                high=LAYER_LIMIT[precision],
                note=f"every degree, {moves}",
            )
            for name, error in layers.items()
        ]
        errors = np.array(
            [
                network_errors(network, structure, rotation, shift)
                for rotation, shift in zip(rotations, shifts, strict=True)
            ]
        ).max(axis=0)
        permuted = permutation_errors(
            network, structure, rng.permutation(len(structure.numbers))
        )
        limit = FORCE_LIMIT[precision]
        note = f"{moves}, translations by {SHIFT:g} A"
        checks += [
            Check(
                "equivariance", f"energy, {precision}", errors[0], "", None, limit, note
            ),
            Check(
                "equivariance", f"forces, {precision}", errors[1], "", None, limit, note
            ),
            Check("permutation", f"energy, {precision}", permuted[0], "", None, limit),
            Check("permutation", f"forces, {precision}", permuted[1], "", None, limit),
        ]
    return checks

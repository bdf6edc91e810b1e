"""The thesis presets are the thesis's networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from random_model import random_network, small_config, water_cluster
from torch import nn

from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import all_pairs
from openmm_se3.nn.attention import AttentionLayer
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.presets import PRESETS


def test_models_of_the_thesis_can_be_made() -> None:
    presets = [(8, 16, 2), (8, 32, 2), (8, 32, 3)]  # heads, channels over heads, lmax
    species, positions = water_cluster(1)
    for heads, channels, lmax in presets:
        config = small_config(
            heads=heads,
            channels=channels,
            key_channels=channels,
            lmax=lmax,
            kernel="full",
            nonlinearity="norm",
            embedding="one-hot",
            force_mode="direct",
        )
        network = SE3Transformer(config).eval()
        energy, forces = ForceField(network)(positions, species, all_pairs(3))
        assert torch.isfinite(energy).all()
        assert forces.abs().max() > 0.0


def preset_of_the_thesis(**changes: Any) -> ModelConfig:
    """Return the basic network of the thesis, with channels for a test."""
    small = {"channels": 4, "key_channels": 4, "heads": 2, "radial_width": 4}
    settings = {**PRESETS["thesis-basic"]["model"], **small, **changes}
    return ModelConfig(elements=("H", "O"), cutoff=3.0, **settings)


@pytest.mark.parametrize("layout", ["list", "dense"])
def test_attention_of_the_thesis_is_a_plain_softmax(layout: str) -> None:
    """Equation (2.5), atom by atom and head by head, with logits far beyond 10.

    Atom 3 is alone and atom 2 sees only some of its edges.
    """
    torch.manual_seed(1)
    config = preset_of_the_thesis()
    layer = AttentionLayer(config, k_max=2, l_max=2, channels_in=4).double()
    with torch.no_grad():
        layer.query.weight.mul_(100.0)
    n_atoms = 4
    pairs = all_pairs(n_atoms)._replace(layout=layout)
    center, neighbor = pairs.center, pairs.neighbor
    features = torch.randn(9, n_atoms, 4).double()
    harmonics = torch.randn(len(center), layer.basis.coupling.shape[0]).double()
    distance = torch.rand(len(center), 1).double()
    seen = (center != 3) & (neighbor != 3)
    seen &= ~((center == 2) & (neighbor == 0))
    envelope = seen.double()
    found = layer(features, harmonics, distance, envelope, pairs)

    radial = layer.radial(distance, torch.ones_like(envelope))
    neighbor_features = features[:, neighbor].transpose(0, 1)
    messages = layer.kernel(layer.basis(harmonics), radial, neighbor_features)
    keys, values = messages[..., :4], messages[..., 4:]
    queries = layer.query(features).transpose(0, 1)
    heads = torch.zeros(9, n_atoms, 4).double()
    logits = []
    for atom in range(n_atoms):
        own = [e for e in range(len(center)) if center[e] == atom and seen[e]]
        for channels in (slice(0, 2), slice(2, 4)):
            a = [(queries[atom][:, channels] * keys[e][:, channels]).sum() for e in own]
            alpha = torch.softmax(torch.stack(a), 0) if own else []
            for e, share in zip(own, alpha, strict=True):
                heads[:, atom, channels] += share * values[e][:, channels]
            logits += a
    assert max(map(abs, logits)) > 20.0
    expected = layer.output(heads) + layer.self_interaction(features)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_queries_of_the_thesis_are_divided_by_the_root_of_the_dimension() -> None:
    """q . k / sqrt(d): weights of order one, and d = 9 components of 2 channels."""
    layer = AttentionLayer(preset_of_the_thesis(), k_max=2, l_max=2, channels_in=4)
    assert layer.query.scale == pytest.approx(1.0 / math.sqrt(9 * 2) / math.sqrt(4))


def test_preset_of_the_thesis_has_relu_only_and_no_energy_network() -> None:
    network = random_network(**vars(preset_of_the_thesis()))
    kinds = {type(module) for module in network.modules()}
    assert nn.ReLU in kinds and not {nn.SiLU, nn.Sigmoid, nn.Sequential} & kinds
    # Twice the outputs of the last layer are twice the energies and forces.
    last = network.attention[-1]
    species, positions = water_cluster(2)
    edges = all_pairs(6)
    energy, forces = ForceField(network)(positions, species, edges)
    assert energy.abs() > 1e-3 and forces.abs().max() > 1e-3
    last.register_forward_hook(lambda module, inputs, output: 2.0 * output)
    doubled = ForceField(network)(positions, species, edges)
    torch.testing.assert_close(doubled, (2.0 * energy, 2.0 * forces))


def test_isolated_atoms_of_the_thesis_keep_what_the_network_gives_them() -> None:
    energies = []
    for isolated in ("zero", "learned"):
        config = preset_of_the_thesis(isolated_atoms=isolated)
        network = random_network(**vars(config))
        lone = [
            ForceField(network)(
                torch.zeros(1, 3).double(), torch.tensor([s]), all_pairs(1)
            )[0].item()
            for s in range(2)
        ]
        energies.append(lone)
    assert energies[0] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert abs(energies[1][0] - energies[1][1]) > 1e-3


def test_a_softmax_does_not_go_with_a_smooth_envelope() -> None:
    with pytest.raises(ValueError, match="envelope"):
        preset_of_the_thesis(envelope="smooth")


def test_other_elements() -> None:
    """Order and number of elements are the configuration's, not water's."""
    torch.manual_seed(0)
    config = ModelConfig(
        elements=("C", "H", "N", "O", "I"), channels=4, key_channels=4, cutoff=4.0
    )
    network = SE3Transformer(config).eval()
    positions = 1.5 * torch.arange(15).double().view(5, 3).sin()
    energies = [
        ForceField(network)(positions, torch.tensor(s), all_pairs(5))[0].item()
        for s in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 1, 2, 4, 3])
    ]
    assert len(set(energies)) == 3

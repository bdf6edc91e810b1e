"""The loss is equation (3.2), and its variants."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from rich.console import Console
from springs import SELF_ENERGIES, WARNINGS, analytic_frames, changed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import prepare
    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.training.batches import (
    frame_weights,
)
from openmm_se3.training.config import (
    TrainingConfig,
)
from openmm_se3.training.loss import loss_terms
from openmm_se3.training.prepare import normalized, read_data

pytestmark = WARNINGS


@pytest.mark.parametrize("delta", [None, 0.3])
@pytest.mark.parametrize(
    ("per", "divisors"),
    [("frame", (1.0, 1.0)), ("sqrt-atom", (2**0.5, 3**0.5)), ("atom", (2.0, 3.0))],
)
@pytest.mark.parametrize("both", [False, True])
def test_loss_is_equation_3_2(both, per, divisors, delta):
    rng = np.random.default_rng(3)
    sizes, weights, w_e, w_d = [2, 3], np.array([1.0, 0.4]), 2.5, 0.7
    energy, reference = rng.normal(size=(2, 2))
    force, force_reference, direct = rng.normal(size=(3, 5, 3))

    def square(x):
        return x * x if delta is None or x <= delta else delta * (2 * x - delta)

    expected, atom = 0.0, 0
    for m, size in enumerate(sizes):
        error = abs(energy[m] - reference[m]) / divisors[m]
        expected += weights[m] * w_e * square(error) / 2
        for _ in range(size):
            for predicted, weight in ((force, 1.0), (direct, w_d * both)):
                length = np.linalg.norm(predicted[atom] - force_reference[atom])
                expected += weight * weights[m] * square(length) / 5
            atom += 1
    terms = loss_terms(
        *map(torch.tensor, (energy, force, reference, force_reference, weights)),
        molecule=torch.tensor([0, 0, 1, 1, 1]),
        config=TrainingConfig(
            energy_weight=w_e,
            direct_weight=w_d,
            energy_per=per,
            huber_delta=delta,
        ),
        direct_forces=torch.tensor(direct) if both else None,
    )
    assert terms.total.item() == pytest.approx(expected, rel=1e-12)


def test_missing_labels_are_left_out_of_the_means():
    """Of one frame the energy is not known, of another frame's atom the force."""
    energies, forces = torch.tensor([1.0, 2.0, 4.0]), torch.ones(5, 3)
    known_energies = torch.tensor([math.nan, 1.0, 1.0])
    known_forces = torch.zeros(5, 3)
    known_forces[2] = math.nan
    terms = loss_terms(
        *(energies, forces, known_energies, known_forces, torch.ones(3)),
        molecule=torch.tensor([0, 0, 1, 2, 2]),
        config=TrainingConfig(energy_weight=1.0, energy_per="frame", huber_delta=None),
    )
    assert terms.energy.item() == pytest.approx((1.0 + 9.0) / 2)
    assert terms.forces.item() == pytest.approx(4 * 3.0 / 4)


def test_huber_has_a_gradient_for_perfect_forces():
    forces = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    terms = loss_terms(
        zero,
        forces,
        zero,
        torch.zeros(2, 3, dtype=torch.float64),
        zero + 1,
        torch.zeros(2, dtype=torch.int64),
        TrainingConfig(huber_delta=0.1),
    )
    terms.total.backward()
    assert forces.grad.abs().max() == 0.0


def test_forces_averaged_by_frame_as_in_equation_3_2():
    """The atoms of each frame first, then the frames; unknown forces are left out."""
    rng = np.random.default_rng(3)
    sizes, weights = (2, 3, 1), np.array([1.0, 0.5, 1.0])
    force, reference = rng.standard_normal((2, 6, 3))
    reference[2:3] = np.nan  # one atom of the second frame
    reference[5:] = np.nan  # the whole third frame
    energy = np.zeros(3)
    expected, atom = 0.0, 0
    for size, weight in zip(sizes, weights, strict=True):
        own = slice(atom, atom + size)
        squares = ((force[own] - reference[own]) ** 2).sum(1)
        known = squares[~np.isnan(squares)]
        if len(known):
            expected += weight * known.mean() / 2
        atom += size
    terms = loss_terms(
        *map(torch.tensor, (energy, force, energy, reference, weights)),
        molecule=torch.tensor([0, 0, 1, 1, 1, 2]),
        config=TrainingConfig(forces_per="frame"),
    )
    assert terms.forces.item() == pytest.approx(expected, rel=1e-12)


def test_normalized_errors_are_in_deviations_of_the_training_labels(config):
    dataset = read_data(config.data, Console(quiet=True))
    config = changed(config, normalize=True, energy_weight=2.0, force_weight=0.5)
    train = dataset.select("train")
    module = training_run.make_module(config, dataset)
    energies, forces = [], []
    for i in range(len(train)):
        own = sum(dataset.self_energies[int(z)] for z in train[i].numbers)
        energies.append(train[i].energy - own)
        forces.append(train[i].forces)
    assert module.config.energy_weight == pytest.approx(2.0 / np.var(energies))
    deviation = np.concatenate(forces).std()
    assert module.config.force_weight == pytest.approx(0.5 / deviation**2)
    frames = [train[i] for i in range(len(train))]
    same_energies = [
        dataclasses.replace(f, energy=0.0, numbers=f.numbers * 0 + 1) for f in frames
    ]
    with pytest.raises(ValueError, match="training.energy_weight"):
        normalized(config.training, Frames.of(same_energies), {1: 0.0})


def test_settings_of_older_versions_are_not_changed_by_newer_ones(config):
    """What has the defaults is written without the fields, as before there were any."""
    for part, section in ((config.model, "model"), (config.training, "training")):
        added = {f.name for f in dataclasses.fields(part) if f.metadata.get("added")}
        assert added and not added & to_dict(part).keys()
        assert from_dict(type(part), to_dict(part), section) == part
    other = dataclasses.replace(config.model, activation="relu")
    assert to_dict(other)["activation"] == "relu"
    assert from_dict(ModelConfig, to_dict(other), "model") == other


def test_weights_fall_with_the_energy_above_the_lowest_frame():
    frames = analytic_frames()[:3]
    energies = [-2036.0, -2036.0 + 3 * 0.2, -2036.0 + 3 * 0.6]
    frames = [
        dataclasses.replace(f, energy=e) for f, e in zip(frames, energies, strict=True)
    ]
    np.testing.assert_allclose(frame_weights(Frames.of(frames), 0.2), [1.0, 0.5, 0.1])
    np.testing.assert_allclose(frame_weights(Frames.of(frames), None), 1.0)
    # Each composition has its own lowest frame, in whatever order its atoms are.
    dimer = analytic_frames()[12]
    order = np.array([1, 0, 2, 3, 4, 5])
    others = [
        dataclasses.replace(dimer, energy=-4072.0 + 6 * 0.2),
        dataclasses.replace(
            dimer,
            numbers=dimer.numbers[order],
            positions=dimer.positions[order],
            energy=-4072.0,
        ),
    ]
    weights = frame_weights(Frames.of(frames + others), 0.2)
    np.testing.assert_allclose(weights, [1.0, 0.5, 0.1, 0.5, 1.0])


def test_weights_of_other_splits_are_from_the_lowest_training_frame(config):
    first, second, third = analytic_frames()[:3]
    frames = [
        dataclasses.replace(first, energy=-2036.0, split="train"),
        dataclasses.replace(second, energy=-2036.0 + 3 * 0.5, split="validation"),
        dataclasses.replace(third, energy=-2036.0 + 3 * 1.5, split="validation"),
    ]
    data = Dataset(Frames.of(frames), LevelOfTheory(), SELF_ENERGIES)
    assert config.training.energy_cap == 0.5
    weights = prepare.split_graphs(config, data, "validation").weights
    assert weights.tolist() == pytest.approx([0.5, 0.1])

from __future__ import annotations

import copy
import csv
import dataclasses
import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from click.testing import CliRunner
from matplotlib.figure import Figure
from rich.console import Console

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported
    from lightning.fabric.utilities import move_data_to_device

    from openmm_se3.training import prepare
    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3 import plot_style
from openmm_se3.cli import main
from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source
from openmm_se3.export import export_model, model_of_checkpoint
from openmm_se3.files import LockedError, run_lock
from openmm_se3.neighbors import neighbour_pairs
from openmm_se3.signals import Signals
from openmm_se3.training.batches import (
    BatchOrder,
    FrameGraphs,
    frame_weights,
    graph_tensors,
    loader,
    take_apart,
)
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint, load_last
from openmm_se3.training.config import (
    DataConfig,
    RunConfig,
    TrainingConfig,
)
from openmm_se3.training.config_file import read_config
from openmm_se3.training.distributed import launched_rank
from openmm_se3.training.loss import label_counts, loss_terms
from openmm_se3.training.metrics import (
    UNITS,
    Predictions,
    error_table,
    frame_groups,
    predict,
    reference_forces,
)
from openmm_se3.training.module import (
    DivergedError,
    TrainingModule,
    make_optimizer,
)
from openmm_se3.training.prepare import normalized, read_data
from openmm_se3.training.presets import PRESETS
from openmm_se3.training.progress import CHARTS, TensorBoard
from openmm_se3.training.progress import FOLDER as TENSORBOARD
from openmm_se3.training.report import PANELS, error_report, plot_history, plot_parity
from openmm_se3.training.schedule import (
    count_plateaus,
    learning_rate,
    validations_since_best,
)
from openmm_se3.training.sitting import Sitting
from openmm_se3.training.sweep import parse_settings, run_variants, variants
from openmm_se3.training.trainer import make_module

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]

SELF_ENERGIES = {1: -13.0, 8: -2000.0}
TINY = ModelConfig(
    elements=("H", "O"),
    cutoff=4.0,
    layers=2,
    channels=8,
    key_channels=4,
    heads=2,
    lmax=1,
    radial_functions=4,
    radial_width=8,
    self_interaction_width=8,
)
SHORT = TrainingConfig(
    steps=24,
    validate_every=8,
    batch_size=5,
    learning_rate=5e-3,
    product_rate=1.0,  # so few steps have to get somewhere
    warmup_steps=4,
    average_decay=0.9,
    energy_cap=0.5,
    precision="float64",
    device="cpu",
    threads=1,
)


def spring(x: torch.Tensor, i: int, j: int, length: float) -> torch.Tensor:
    return 10.0 * ((x[i] - x[j]).norm() - length) ** 2


def analytic_frame(
    n_molecules: int, rng: np.random.Generator, split: str, index: int
) -> Frame:
    """Water of springs, 1 eV below its atoms, with a Morse well between oxygens."""
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    x = np.concatenate([molecule + [0.0, 0.0, 2.9 * m] for m in range(n_molecules)])
    x = torch.tensor(x + rng.normal(scale=0.05, size=x.shape), requires_grad=True)
    energy = torch.tensor(-1.0 * n_molecules, dtype=torch.float64)
    for o in range(0, len(x), 3):
        energy = energy + spring(x, o, o + 1, 0.96) + spring(x, o, o + 2, 0.96)
        energy = energy + spring(x, o + 1, o + 2, 1.52)
        for other in range(0, o, 3):
            decay = torch.exp(-((x[o] - x[other]).norm() - 2.9))
            energy = energy + 0.2 * (decay * decay - 2.0 * decay)
    energy.backward()
    return Frame(
        numbers=np.array([8, 1, 1] * n_molecules),
        positions=x.detach().numpy(),
        energy=energy.item() + n_molecules * (-2000.0 - 2 * 13.0),
        forces=-x.grad.numpy(),
        trajectory=f"t{index}",
        kind="md",
        split=split,
        temperature=300.0,
    )


def analytic_frames() -> list[Frame]:
    rng = np.random.default_rng(1)
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    return [
        analytic_frame(n, rng, split, index)
        for n in (1, 2)
        for index, split in enumerate(splits)
    ]


def make_graphs(frames: list[Frame]) -> FrameGraphs:
    weights = np.ones(len(frames))
    return FrameGraphs(
        Frames.of(frames), TINY.elements, TINY.cutoff, SELF_ENERGIES, weights
    )


def evaluate(network, graphs) -> dict[str, dict[str, float]]:
    predictions = predict(network, graphs)
    return error_table(graphs, predictions, frame_groups(graphs.frames))


def write_springs(path, frames) -> None:
    level = LevelOfTheory(method="springs")
    write_hdf5(path, Dataset(Frames.of(frames), level, SELF_ENERGIES))


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "springs.h5"
    frames = tuple(analytic_frames())
    write_hdf5(
        path, Dataset(Frames.of(frames), LevelOfTheory(method="springs"), SELF_ENERGIES)
    )
    return path


@pytest.fixture(scope="module")
def config(data_file):
    return RunConfig(TINY, SHORT, DataConfig((Source(str(data_file)),)))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run from start to end without a stop."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = training_run.train(config, folder)
    assert outcome.finished and outcome.step == SHORT.steps
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take longer than these runs; one test looks at them."""
    for name in ("plot_history", "plot_parity"):
        monkeypatch.setattr(training_run, name, lambda *args: None)


def changed(config: RunConfig, **settings) -> RunConfig:
    training = dataclasses.replace(config.training, **settings)
    return dataclasses.replace(config, training=training)


def assert_same_run(first, second) -> None:
    a, b = load_checkpoint(first / LAST), load_checkpoint(second / LAST)
    assert a["step"] == b["step"]
    for key in ("network", "average"):
        for name, value in a[key].items():
            torch.testing.assert_close(b[key][name], value, rtol=1e-12, atol=1e-14)
    assert len(a["history"]) == len(b["history"])
    for row, other in zip(a["history"], b["history"], strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - {"seconds"}:
            assert other[key] == pytest.approx(row[key], rel=1e-9), key


# Parts.


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


def test_surroundings_of_the_data():
    free = analytic_frames()[0]
    boxed = dataclasses.replace(free, box=20.0 * np.eye(3))
    for frames, expected in (
        ([free], "free"),
        ([boxed], "periodic"),
        ([boxed, free], "both"),
    ):
        data = Dataset(Frames.of(frames), LevelOfTheory(), SELF_ENERGIES)
        assert prepare.surroundings(data) == expected


def test_graphs_of_boxes_have_all_their_images():
    """Slanted, and narrower than the cutoff; energies are against isolated atoms."""
    cell = np.array([[3.3, 0.0, 0.0], [1.0, 3.5, 0.0], [-1.2, 0.4, 3.1]])
    frame = dataclasses.replace(analytic_frames()[0], box=cell)
    graphs = make_graphs([frame, dataclasses.replace(frame, box=3.0 * cell)])
    expected = frame.energy - (2 * SELF_ENERGIES[1] + SELF_ENERGIES[8])
    assert graphs.energies.tolist() == pytest.approx([expected] * 2)
    torch.manual_seed(0)
    network = training_run.SE3Transformer(TINY).eval()
    x, species = torch.tensor(frame.positions), torch.tensor([1, 0, 0])
    for index, size in enumerate((1.0, 3.0)):
        found = network.energy_and_forces(**vars(graph_tensors(graphs[index][0])))
        edges = neighbour_pairs(x, TINY.cutoff, torch.tensor(size * cell))
        wanted = network.energy_and_forces(x, species, *edges)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_batch_of_graphs_equals_single_graphs():
    graphs = make_graphs(analytic_frames())
    torch.manual_seed(0)
    network = training_run.SE3Transformer(TINY).eval()
    (batch, labels), *_ = loader(graphs, [[0, 12, 1, 23]])
    energies, forces = network.energy_and_forces(
        **vars(graph_tensors(batch)), paired=True
    )
    assert labels["frame"].tolist() == [0, 12, 1, 23]
    single = [
        network.energy_and_forces(**vars(graph_tensors(graphs[i][0])))
        for i in (0, 12, 1, 23)
    ]
    assert max(f.abs().max() for _, f in single) > 1e-3
    torch.testing.assert_close(
        energies, torch.cat([e for e, _ in single]), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        forces, torch.cat([f for _, f in single]), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        batch.ndata["forces"],
        torch.tensor(np.concatenate([graphs.frames[i].forces for i in (0, 12, 1, 23)])),
    )


NETWORKS = {
    "default": {},
    "full kernels": {"kernel": "full", "mirror": False},
    "direct forces": {"force_mode": "both"},
    "norm": {"nonlinearity": "norm", "self_interaction": "linear"},
    "thesis": {"radial_basis": "distance", "envelope": "none", "embedding": "one-hot"},
    "softmax": {"envelope": "none", "attention": "softmax", "readout": "linear"},
}


@pytest.mark.parametrize(
    ("network", "left_behind"),
    [*((name, None) for name in NETWORKS)]
    + [("default", label) for label in ("energy", "forces", "shifts")],
)
def test_step_happens_on_the_device_of_the_batch(config, network, left_behind):
    """On PyTorch's device without numbers, which cannot mix with the CPU either.

    Nor can anything be read from it, so that nothing here waits for a GPU.
    """
    changed_model = dataclasses.replace(TINY, **NETWORKS[network])
    network = training_run.SE3Transformer(changed_model).train().to("meta")
    graphs = make_graphs(analytic_frames())
    batch, *_ = loader(graphs, [[0, 12, 1, 23]])
    here = take_apart(batch)
    tensors, labels = move_data_to_device(here, torch.device("meta"))
    assert labels.keys() == {"energy", "weight", "frame", "forces"}
    if left_behind == "shifts":
        tensors = dataclasses.replace(tensors, shifts=here[0].shifts)
    elif left_behind is not None:
        labels[left_behind] = here[1][left_behind]

    def loss() -> torch.Tensor:
        energies, forces, direct = network.energy_and_both_forces(
            **vars(tensors), create_graph=True, paired=True
        )
        expected = labels["energy"], labels["forces"]
        return loss_terms(
            energies,
            forces,
            *expected,
            labels["weight"],
            tensors.molecule,
            config.training,
            label_counts(*expected, tensors.molecule),
            direct if network.both else None,
        ).total

    if left_behind is None:
        loss().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert {gradient.device.type for gradient in gradients} == {"meta"}
    else:
        with pytest.raises(RuntimeError, match="device"):
            loss()


def test_data_without_forces_are_refused_unless_they_are_meant(config):
    frames = analytic_frames()
    bare = [dataclasses.replace(frame, forces=None) for frame in frames]
    whole, without = (
        Dataset(Frames.of(part), LevelOfTheory(), SELF_ENERGIES)
        for part in (frames, bare)
    )
    make_module(config, whole)
    make_module(changed(config, force_weight=0.0), without)
    with pytest.raises(ValueError, match="no training frame has forces: if they have"):
        make_module(config, without)


def test_graphs_are_taken_apart_before_they_are_moved(
    config, tmp_path, monkeypatch, no_figures
):
    graph_class = import_dgl().DGLGraph
    real = graph_class.to

    def refuse(graph, device, **options):
        if device is None:  # a new graph stays where it is
            return real(graph, device, **options)
        raise AssertionError("a graph is moved; PyPI's DGL cannot put it on a GPU")

    monkeypatch.setattr(graph_class, "to", refuse)
    batch, *_ = loader(make_graphs(analytic_frames()), [[0, 1]])
    with pytest.raises(AssertionError, match="is moved"):
        move_data_to_device(batch, torch.device("cpu"))
    short = changed(config, steps=8, validate_every=8)
    assert training_run.train(short, tmp_path).finished


def test_batches_depend_on_seed_and_step_only():
    sizes = np.array([6, 30, 6, 72, 6, 30, 0])
    order = BatchOrder(sizes, 40, seed=5)
    for epoch in range(3):
        batches = order.epoch(epoch)
        assert sorted(np.concatenate(batches)) == list(range(7))
        assert all(sizes[b].sum() <= 40 or len(b) == 1 for b in batches)
    first, second = (np.concatenate(order.epoch(epoch)) for epoch in (0, 1))
    assert (first != second).any()
    everything = [batch.tolist() for batch in order.steps(0, 30)]
    assert len(everything) == 30
    again = BatchOrder(sizes, 40, seed=5).steps(11, 23)
    assert [batch.tolist() for batch in again] == everything[11:23]
    assert order.epochs_at(len(order.epoch(0))) == 1.0


def test_learning_rate_is_a_function_of_the_step():
    cosine = TrainingConfig(steps=1000, warmup_steps=100, learning_rate=1.0)
    assert learning_rate(cosine, 0) == pytest.approx(0.01)
    assert learning_rate(cosine, 99) == learning_rate(cosine, 100) == 1.0
    assert learning_rate(cosine, 550) == pytest.approx(0.505)
    assert learning_rate(cosine, 1000) == pytest.approx(0.01)
    assert count_plateaus([5, 4, 4, 4, 4, 3, 3, 3], patience=2) == 2
    plateau = dataclasses.replace(cosine, schedule="plateau", plateau_patience=2)
    assert learning_rate(plateau, 500, [5, 4, 4, 4, 4]) == 0.5
    cuts = dataclasses.replace(
        cosine, schedule="steps", milestones=(0.43, 0.88), milestone_factor=0.01
    )
    rates = [learning_rate(cuts, step) for step in (429, 430, 879, 880)]
    assert rates == pytest.approx([1.0, 1e-2, 1e-2, 1e-4])


# Configuration and data.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: {elements: [H]}, data: {files: [a]}, trainning: {}}", "'training'"),
        (
            "{model: {elements: [H]}, data: {files: [a]}, training: {lerning_rate: 1}}",
            "did you mean 'learning_rate'",
        ),
        ("{model: {elements: [H]}, data: {files: []}}", "at least one"),
        ("{model: {elements: [H]}, data: &d {files: [a]}, training: *d}", "aliases"),
        ("{model: {elements: [H]}, data: {files: [a]}, training: {steps: 0}}", "steps"),
        ("[1, 2]", "model, data and training"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("{preset: [default], model: {}, data: {files: [a]}}", "preset must be one of"),
        ("{model: {elements: [H], 1: 2}, data: {files: [a]}}", "unknown key 1"),
        (
            "{model: {elements: [H]}, data: {files: [a], self_energies: {1: 2, H: 3}}}",
            "self_energies",
        ),
        (
            "{model: {elements: [H]}, data: {files: [a], split: {fractions: "
            "[.nan, 0.5, 0.5]}}}",
            "add up to 1",
        ),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path)


def test_configuration_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "model: {elements: [H, O], channels: 8}\n"
        "data: {files: [data/a.h5]}\n"
        "training: {learning_rate: 2e-3, clip_norm: null}\n"
    )
    config = read_config(path)
    assert config.training.learning_rate == 2e-3
    assert config.training.clip_norm is None
    assert config.data.files == (Source(str(tmp_path / "data/a.h5")),)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.to_dict()))
    assert read_config(again) == config


def test_data_that_do_not_fit_are_refused(config, tmp_path):
    other = dataclasses.replace(TINY, elements=("H", "C"))
    with pytest.raises(ValueError, match=r"\['O'\], which the model lack"):
        training_run.train(dataclasses.replace(config, model=other), tmp_path)
    frames = tuple(f for f in analytic_frames() if f.split == "train")
    path = tmp_path / "no-validation.h5"
    write_hdf5(path, Dataset(Frames.of(frames), LevelOfTheory(), SELF_ENERGIES))
    without = dataclasses.replace(config, data=DataConfig((Source(str(path)),)))
    with pytest.raises(ValueError, match="no validation frames"):
        training_run.train(without, tmp_path / "run")


# Runs.


def test_run_leaves_errors_figures_and_a_plain_checkpoint(config, finished):
    for name in training_run.FILES:
        assert (finished / name).stat().st_size > 0, name
    best = load_checkpoint(finished / BEST)
    assert best["model"]["elements"] == ["H", "O"]
    assert best["self_energies"] == {"H": -13.0, "O": -2000.0}
    assert best["level_of_theory"]["method"] == "springs"
    split = np.load(finished / "split.npy")
    assert np.bincount(split).tolist() == [16, 4, 4]
    losses = [row["validation_loss"] for row in best["history"]]
    assert [row["step"] for row in best["history"]] == [8, 16, 24]
    assert losses[-1] < 0.8 * losses[0]
    rows = (finished / "history.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("step,epoch,learning_rate")

    # The weights to export are the ones whose errors are reported.
    network = training_run.SE3Transformer(TINY)
    network.load_state_dict(best["average"])
    network.eval()
    test = [f for f in analytic_frames() if f.split == "test"]
    measured = evaluate(network, make_graphs(test))
    written = json.loads((finished / "errors.json").read_text())["test"]
    assert best["errors"]["test"] == written
    report = (finished / "report.md").read_text()
    table = [line for line in report.splitlines() if line.startswith("| ")]
    assert len({len(line) for line in table[-len(written) :]}) == 1, "not aligned"
    assert "Of the averaged weights of the best validation" in report
    formulas = {"H2O md 300 K", "H4O2 md 300 K"}
    elements = {"element H", "element O"}
    # Sizes are not there: each formula has its own, and one file holds all frames.
    assert set(written) == {"all"} | formulas | elements
    assert "energy_mae" not in written["element H"]
    assert measured["all"]["force_mae"] == pytest.approx(written["all"]["force_mae"])
    assert measured["all"]["frames"] == 4


@pytest.mark.parametrize("stop", ["epochs", "minutes", "ctrl-c", "kill"])
def test_stopped_and_resumed_run_equals_one_without_a_stop(
    config, finished, tmp_path, monkeypatch, no_figures, stop
):
    limits = {}
    real_step = TrainingModule.training_step

    def step(module, batch, index):
        real_step(module, batch, index)
        if stop == "ctrl-c" and module.step == 11:
            os.kill(os.getpid(), signal.SIGINT)
        if stop == "kill" and module.step == 15:
            raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", step)
        if stop == "kill":
            with pytest.raises(SystemError):
                training_run.train(config, tmp_path)
        else:
            limits = {"epochs": {"max_epochs": 2.5}, "minutes": {"max_minutes": 1e-6}}
            outcome = training_run.train(config, tmp_path, **limits.get(stop, {}))
            assert not outcome.finished
            assert outcome.step == {"epochs": 10, "minutes": 1, "ctrl-c": 11}[stop]
            assert (outcome.signal == signal.SIGINT) == (stop == "ctrl-c")
    elsewhere = changed(config, threads=None, checkpoint_minutes=0.0)
    assert training_run.train(elsewhere, tmp_path, resume=True).finished
    assert_same_run(finished, tmp_path)


def test_moving_average_of_the_weights(config):
    """Over the last ten steps at first, with the decay that is set later on.

    Steps that were skipped have not been averaged, and do not count.
    """
    graphs = make_graphs(analytic_frames()[:4])
    network = training_run.SE3Transformer(TINY)
    settings = changed(config, average_decay=0.25, steps=8).training
    order = BatchOrder(np.ones(4), 2, 0)
    module = TrainingModule(network, settings, order, graphs, graphs)
    module.step = module.skipped = 2
    weights = {name: [p.detach().clone()] for name, p in network.named_parameters()}
    real_update = TrainingModule._update_average

    def update(self):
        for name, parameter in network.named_parameters():
            weights[name].append(parameter.detach().clone())
        real_update(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "_update_average", update)
        training_run.fit(module, [], None)
    decays = [1 / 10, 2 / 11, 3 / 12, 0.25, 0.25, 0.25]
    for name, average in module.average.named_parameters():
        start, *steps = weights[name]
        expected = start
        for decay, value in zip(decays, steps, strict=True):
            expected = decay * expected + (1.0 - decay) * value
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-14)


def test_averaged_weights_are_validated_and_exported(config, finished):
    best = load_checkpoint(finished / BEST)
    dataset = read_data(config.data, Console(quiet=True))
    graphs = make_module(config, dataset).validation_graphs
    errors = {}
    for key in ("average", "network"):
        network = training_run.SE3Transformer(TINY)
        network.load_state_dict(best[key])
        errors[key] = evaluate(network.eval(), graphs)["all"]["force_mae"]
    assert errors["average"] != pytest.approx(errors["network"], rel=1e-4)
    found = best["history"][-1]["force_mae"]
    assert found == pytest.approx(errors["average"], rel=1e-9)
    exported = model_of_checkpoint(best, "springs", "MIT").network(torch.float64)
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, best["average"][name], rtol=1e-6, atol=1e-7)


def test_a_restored_module_has_the_whole_state(config):
    """Also what these short runs do not depend on, such as the mean gradient norm."""
    graphs = make_graphs(analytic_frames()[:4])
    settings = changed(config, clip_ratio=2.0, steps=5, validate_every=2).training
    order = BatchOrder(np.ones(4), 2, 0)
    modules = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = training_run.SE3Transformer(TINY)
        modules.append(TrainingModule(network, settings, order, graphs, graphs))
    trained, restored = modules
    training_run.fit(trained, [], None)
    trained.running += 1.0
    trained.skipped, trained.skipped_in_a_row = 3, 2
    restored.restore(trained.state())
    states = trained.state(), restored.state()
    for state in states:
        assert state.pop("seconds") > 0.0
    assert states[0]["log_norm"] is not None and states[0]["step"] == 5
    torch.testing.assert_close(states[1], states[0], rtol=0.0, atol=0.0)


def test_modes_of_torch_change_nothing(config, finished, tmp_path, no_figures):
    torch.set_default_device("meta")
    try:
        with torch.inference_mode(), torch.autograd.set_detect_anomaly(True):
            assert training_run.train(config, tmp_path).finished
    finally:
        torch.set_default_device(None)
    assert_same_run(finished, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_says_how_to_go_on(config, tmp_path, monkeypatch, no_figures, number):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    real_step = TrainingModule.training_step

    def step(module, batch, index):
        real_step(module, batch, index)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    out = str(tmp_path / "run")
    result = CliRunner().invoke(main, ["train", str(path), "--out", out])
    assert result.exit_code == 128 + number, result.output
    assert f"train {path} --out {out} --resume" in result.output
    assert load_last(tmp_path / "run")["step"] == 1


def test_resume_of_a_changed_run_shows_the_difference(config, finished, tmp_path):
    with pytest.raises(ValueError, match=r"training.learning_rate: 0.005 .* 0.01 now"):
        training_run.train(changed(config, learning_rate=0.01), finished, resume=True)
    frames = tuple(analytic_frames()[:-1])
    path = tmp_path / "springs.h5"
    write_hdf5(
        path, Dataset(Frames.of(frames), LevelOfTheory(method="springs"), SELF_ENERGIES)
    )
    other = dataclasses.replace(config, data=DataConfig((Source(str(path)),)))
    with pytest.raises(ValueError, match=r"data springs\.h5\.sha256: \w{12} in"):
        training_run.train(other, finished, resume=True)
    groups = tmp_path / "groups.npy"
    path = config.data.files[0].path
    np.save(groups, np.arange(len(read_data(config.data, Console(quiet=True)).frames)))
    for read, message in (
        ({"groups": str(groups)}, r"groups: not given in the checkpoint, \w{64} now"),
        ({"level": "other"}, "level: not given in the checkpoint, other now"),
    ):
        other = dataclasses.replace(config, data=DataConfig((Source(path, **read),)))
        with pytest.raises(ValueError, match=f"data {Path(path).name}: {message}"):
            training_run.train(other, finished, resume=True)


def test_one_process_at_a_time_trains_in_a_folder(config, tmp_path):
    with (
        run_lock(tmp_path / training_run.LOCK),
        pytest.raises(LockedError, match="let it end first"),
    ):
        training_run.train(config, tmp_path)
    short = changed(config, steps=2, warmup_steps=0)
    assert training_run.train(short, tmp_path).finished
    assert not (tmp_path / training_run.LOCK).exists()


def test_a_step_that_was_not_finite_is_no_checkpoint(tmp_path):
    sitting = Sitting(tmp_path, {}, Signals(), 5.0, None, None, 0.0)
    sitting.save(SimpleNamespace(skipped_in_a_row=1, state=dict))
    assert not (tmp_path / LAST).exists()
    sitting.save(SimpleNamespace(skipped_in_a_row=0, state=dict))
    assert (tmp_path / LAST).exists()


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"RANK": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, 2),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}, 3),
        # A second process, started from an interactive shell of an allocation.
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "1"}, 1),
    ],
)
def test_every_launcher_numbers_its_processes(environment, number):
    assert launched_rank(environment) == number


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_predictions_that_are_not_finite_do_not_vanish_from_the_errors(wrong):
    graphs = make_graphs(analytic_frames()[:3])
    forces, energies = reference_forces(graphs), graphs.energies.numpy().copy()
    graphs.energies[2] = math.nan  # no label: does not count
    energies[1], forces[-1, 0] = wrong, wrong
    errors = error_table(graphs, Predictions(energies, forces), {})["all"]
    for key in ("energy_mae", "force_mae", "force_rmse"):
        assert not math.isfinite(errors[key]), key
    assert validations_since_best([wrong, 2.0, 1.0, 3.0]) == 1


def test_errors_by_their_definitions():
    """Energies by frame and by atom, forces by component, groups by their atoms."""
    rng = np.random.default_rng(5)
    frames = [analytic_frame(n, rng, "test", n) for n in (1, 3, 2)]
    graphs = make_graphs(frames)
    energy_errors = np.array([0.3, -1.2, 0.6])
    labels = reference_forces(graphs)
    force_errors = rng.normal(scale=0.1, size=labels.shape)
    force_errors[4] *= 20.0  # in the second frame
    predictions = Predictions(
        graphs.energies.numpy() + energy_errors, labels + force_errors
    )
    table = error_table(graphs, predictions, frame_groups(graphs.frames))
    kcal, sizes = 23.060548, np.array([3, 9, 6])
    by_frame = [np.abs(e).mean() for e in np.split(force_errors, [3, 12])]
    expected = {
        "frames": 3,
        "energy_mae": kcal * (0.3 + 1.2 + 0.6) / 3,
        # The mean over frames of |error| / atoms, not the ratio of means.
        "energy_mae_per_atom": kcal * (np.abs(energy_errors) / sizes).mean(),
        "energy_mae_centred": kcal * np.abs(energy_errors + 0.1).mean(),
        "energy_rmse": kcal * np.sqrt(np.square(energy_errors).mean()),
        "force_mae": kcal * np.abs(force_errors).mean(),
        "force_rmse": kcal * np.sqrt(np.square(force_errors).mean()),
        "force_mae_worst": kcal * by_frame[1],
    }
    assert max(by_frame) == by_frame[1]
    assert table["all"] == pytest.approx(expected, rel=1e-6)
    oxygen = np.tile([True, False, False], 6)
    assert table["element O"]["force_mae"] == pytest.approx(
        kcal * np.abs(force_errors[oxygen]).mean(), rel=1e-6
    )
    assert "energy_mae" not in table["element O"]  # no frame is oxygen alone
    assert table["H4O2 md 300 K"]["energy_mae"] == pytest.approx(kcal * 0.6, rel=1e-6)


def test_folder_with_a_run_is_not_overwritten(config, finished, no_figures):
    before = (finished / LAST).read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        training_run.train(config, finished)
    assert (finished / LAST).read_bytes() == before
    again = training_run.train(config, finished, resume=True)
    assert again.finished and again.errors is not None


def test_overfits_a_handful_of_frames(config):
    frames = analytic_frames()
    chosen = [frames[i] for i in (0, 1, 12, 13)]
    settings = changed(
        config, steps=150, batch_size=4, learning_rate=0.03, validate_every=150
    ).training
    torch.manual_seed(0)
    order = BatchOrder(np.ones(4), 4, 0)
    graphs = make_graphs(chosen)
    network = training_run.SE3Transformer(TINY)
    module = TrainingModule(network, settings, order, graphs, graphs)
    before = evaluate(network.eval(), graphs)["all"]
    training_run.fit(module, [], None)
    after = module.history[-1]
    assert after["force_rmse"] < 0.1 * before["force_rmse"]
    assert after["energy_mae"] < 0.1 * before["energy_mae"]


def test_steps_that_are_not_finite_are_skipped(config):
    graphs = make_graphs(analytic_frames()[:8])
    graphs.graphs[3].ndata["forces"][0, 0] = float("inf")
    settings = changed(config, steps=8, batch_size=2, max_skipped=1).training
    order = BatchOrder(np.ones(8), 2, 0)
    module = TrainingModule(
        training_run.SE3Transformer(TINY), settings, order, graphs, graphs
    )
    with pytest.warns(UserWarning, match=r"step skipped; .*'t3'"):
        training_run.fit(module, [], None)
    assert module.step == 8 and module.skipped == 2
    assert all(p.isfinite().all() for p in module.network.parameters())
    for graph in graphs.graphs:
        graph.ndata["forces"][0, 0] = float("inf")
    module.step = 0
    with (
        pytest.raises(DivergedError, match="2 in a row"),
        pytest.warns(UserWarning, match="step skipped"),
    ):
        training_run.fit(module, [], None)


def test_gradients_are_clipped_to_a_multiple_of_those_before(config):
    graphs = make_graphs(analytic_frames()[:2])
    settings = changed(config, clip_norm=None, clip_ratio=3.0).training
    order = BatchOrder(np.ones(2), 2, 0)
    module = TrainingModule(
        training_run.SE3Transformer(TINY), settings, order, graphs, graphs
    )

    def limited(norm: float) -> float:
        parameters = list(module.network.parameters())
        size = sum(p.numel() for p in parameters) ** 0.5
        for p in parameters:
            p.grad = torch.full_like(p, norm / size)
        assert module._limit_gradient()
        return float(torch.nn.utils.get_total_norm([p.grad for p in parameters]))

    for norm in (2.0, 2.0, 5.9):
        assert limited(norm) == pytest.approx(norm)
    assert limited(1e9) == pytest.approx(6.0, rel=0.02)
    # One spike moves the mean a little, a new level moves it in some hundred steps.
    assert limited(1e9) == pytest.approx(6.0, rel=0.05)
    for size in 10 * [1e30]:
        assert limited(size) < 1.2 * 6.0
    for _ in range(500):
        limited(0.01)
    assert limited(1.0) == pytest.approx(0.03, rel=0.2)
    next(module.network.parameters()).grad[0] = float("nan")
    assert not module._limit_gradient()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("product_rate", [None, 0.5])
def test_weights_of_products_take_steps_in_proportion(config, optimizer, product_rate):
    choices = {"optimizer": optimizer, "product_rate": product_rate}
    settings = changed(config, learning_rate=1e-3, **choices).training
    network = training_run.SE3Transformer(dataclasses.replace(TINY, force_mode="both"))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    chosen = make_optimizer(network, settings)
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    for group in chosen.param_groups:
        group["lr"] = group["share"] * settings.learning_rate
    chosen.step()
    for name, p in network.named_parameters():
        step = float((p.detach() - before[name]).abs().max())
        if name.endswith("self_interaction.hidden.weight"):
            share = product_rate or 1.0 / math.sqrt(p.shape[1])
            assert step == pytest.approx(1e-3 * share, rel=0.01)
        else:
            assert step == pytest.approx(1e-3, rel=0.01)


def test_early_stopping(config):
    graphs = make_graphs(analytic_frames()[:2])
    settings = changed(config, validate_every=1, patience=2).training
    order = BatchOrder(np.ones(2), 2, 0)
    network = training_run.SE3Transformer(TINY)
    module = TrainingModule(network, settings, order, graphs, graphs)
    module.history = [{"validation_loss": 0.0}]  # nothing will be better
    training_run.fit(module, [], None)
    assert module.finished and module.step == 2


def test_best_weights_are_those_of_the_best_validation(config, finished, tmp_path):
    """Not of the last one, and not of one that is as good."""
    checkpoint = load_checkpoint(finished / LAST)
    graphs = make_graphs(analytic_frames()[:2])
    network = training_run.SE3Transformer(TINY)
    order = BatchOrder(np.ones(2), 2, 0)
    module = TrainingModule(network, config.training, order, graphs, graphs)
    module.restore(checkpoint)
    sitting = Sitting(tmp_path, {}, Signals(), 60.0, None, None, 0.0)
    row, best = module.history[-1], []
    module.history = []
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0, math.nan, 0.5]):
        module.step = step
        module.history.append({**row, "validation_loss": loss})
        sitting.on_validation_end(None, module)
        best.append(load_checkpoint(tmp_path / BEST)["step"])
        assert load_checkpoint(tmp_path / LAST)["step"] == step
    assert best == [0, 1, 1, 1, 1, 5]


def test_direct_forces_train_the_force_head(config):
    graphs = make_graphs(analytic_frames()[:4])
    network = training_run.SE3Transformer(
        dataclasses.replace(TINY, force_mode="direct")
    )
    before = network.force_head.weight.detach().clone()
    settings = changed(config, steps=5).training
    module = TrainingModule(
        network, settings, BatchOrder(np.ones(4), 2, 0), graphs, graphs
    )
    training_run.fit(module, [], None)
    assert (network.force_head.weight - before).abs().max() > 0.0
    assert module.skipped == 0


def test_conservative_and_direct_forces_learn_together(config):
    graphs = make_graphs(analytic_frames()[:4])
    torch.manual_seed(0)
    network = training_run.SE3Transformer(dataclasses.replace(TINY, force_mode="both"))
    settings = changed(
        config, steps=150, validate_every=50, learning_rate=1e-2
    ).training
    order = BatchOrder(np.ones(4), 4, 0)
    module = TrainingModule(network, settings, order, graphs, graphs)
    before = evaluate(copy.deepcopy(network).eval(), graphs)["all"]
    training_run.fit(module, [], None)
    after = evaluate(module.average, graphs)["all"]
    for key in ("energy_mae", "force_mae", "direct_force_mae"):
        assert after[key] < 0.7 * before[key], key
    row = module.history[-1]
    assert row["direct_force_mae"] == pytest.approx(after["direct_force_mae"])
    parts = ("loss", "loss_energy", "loss_forces", "loss_direct")
    for kind in ("train", "validation"):
        total, *terms = (row[f"{kind}_{part}"] for part in parts)
        assert min(terms) > 0.0 and total == pytest.approx(sum(terms))
    assert "direct F MAE" in error_report({"train": {"all": after}})
    one_kind = {key: x for key, x in after.items() if key in ("frames", *UNITS)}
    assert "direct" not in error_report({"train": {"all": one_kind}})


def test_errors_of_direct_forces_and_of_their_estimate():
    graphs = make_graphs(analytic_frames()[:4])
    labels, rng = reference_forces(graphs), np.random.default_rng(0)
    energies = graphs.energies.numpy()
    wrong = labels + rng.normal(scale=0.1, size=labels.shape)
    kcal = 23.060548

    def errors(forces, direct):
        return error_table(graphs, Predictions(energies, forces, direct), {})["all"]

    # A head that is always right knows every error of the conservative forces.
    perfect = errors(wrong, labels)
    assert perfect["direct_force_mae"] == pytest.approx(0.0, abs=1e-12)
    assert perfect["estimate_correlation"] == pytest.approx(1.0)
    noise = errors(wrong, wrong + rng.normal(scale=0.1, size=labels.shape))
    assert abs(noise["estimate_correlation"]) < 0.6
    # Spearman's rank correlation, of a head that knows the errors in part.
    direct = labels + 0.5 * (wrong - labels) + rng.normal(scale=0.03, size=labels.shape)
    lengths = [np.linalg.norm(x, axis=1) for x in (direct - wrong, wrong - labels)]
    expected = scipy.stats.spearmanr(*lengths).statistic
    assert 0.3 < expected < 0.99
    assert errors(wrong, direct)["estimate_correlation"] == pytest.approx(expected)
    shifted = errors(labels, labels + 0.2)
    assert shifted["direct_force_mae"] == pytest.approx(0.2 * kcal, rel=1e-6)
    assert shifted["direct_force_rmse"] == pytest.approx(0.2 * kcal, rel=1e-6)
    assert shifted["force_mae"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("launcher", ["torchrun", "devices"])
def test_two_processes_give_the_run_of_one(
    config, finished, tmp_path, no_figures, launcher
):
    # Molecules of two sizes, and batches of five that two processes cannot halve; the
    # last batch of an epoch has one frame, so that one process has none.
    settings = changed(config, devices=2) if launcher == "devices" else config
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings.to_dict()))
    scripts = Path(sys.executable).parent
    command = [str(scripts / "openmm-se3"), "train", str(path)]
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node=2", "--no-python", *command]
    out = tmp_path / "run"
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Finished after 24 steps") == 1
    assert_same_run(finished, out)
    errors = [json.loads((f / "errors.json").read_text()) for f in (finished, out)]
    assert errors[1]["test"]["all"] == pytest.approx(errors[0]["test"]["all"])


def test_energies_alone_train_without_forces(config):
    graphs = make_graphs(analytic_frames()[:4])
    for graph in graphs.graphs:
        graph.ndata["forces"][:] = float("nan")  # there are none
    settings = changed(config, steps=30, force_weight=0.0, validate_every=30).training
    order = BatchOrder(np.ones(4), 4, 0)
    torch.manual_seed(0)
    network = training_run.SE3Transformer(TINY)
    module = TrainingModule(network, settings, order, graphs, graphs)
    before = np.abs(predict(network.eval(), graphs).energies - graphs.energies.numpy())
    training_run.fit(module, [], None)
    after = np.abs(predict(module.average, graphs).energies - graphs.energies.numpy())
    assert module.skipped == 0 and after.mean() < 0.7 * before.mean()
    with pytest.raises(ValueError, match="nothing to train on"):
        TrainingConfig(energy_weight=0.0, force_weight=0.0)
    for mode in ("both", "direct"):
        model = dataclasses.replace(TINY, force_mode=mode)
        with pytest.raises(ValueError, match=f"{mode} trains on forces"):
            RunConfig(model, settings, config.data)
        dataset = read_data(config.data, Console(quiet=True))
        frames = dataset.frames
        blocks = [dataclasses.replace(b, forces=None) for b in frames.blocks]
        frames = Frames(blocks, frames.block, frames.row)
        dataset = dataclasses.replace(dataset, frames=frames)
        with pytest.raises(ValueError, match="no frame has any"):
            training_run.make_module(
                RunConfig(model, config.training, config.data), dataset
            )


def test_fine_tuning_starts_from_a_model(config, finished, tmp_path):
    best = load_checkpoint(finished / BEST)
    model = tmp_path / "model"
    export_model(best, model)
    dataset = read_data(config.data, Console(quiet=True))
    for start in (str(finished / BEST), str(model)):
        module = training_run.make_module(changed(config, initial=start), dataset)
        for network in (module.network, module.average):
            for name, value in network.state_dict().items():
                expected = best["average"][name].to(value.dtype)
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    other = dataclasses.replace(
        changed(config, initial=str(model)),
        model=dataclasses.replace(TINY, channels=4),
    )
    with pytest.raises(
        ValueError, match=r"put under 'model' what it has: channels: 8 \(here 4\)"
    ):
        training_run.make_module(other, dataset)
    with pytest.raises(FileNotFoundError, match="no model 'nothing'"):
        training_run.make_module(changed(config, initial="nothing"), dataset)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_networks_that_train(name, tmp_path, data_file):
    path = tmp_path / "train.yaml"
    path.write_text(
        f"preset: {name}\n"
        "model: {elements: [H, O], cutoff: 4.0, radial_width: 4}\n"
        "training: {steps: 2, warmup_steps: 0, validate_every: 2, batch_size: 3}\n"
        f"data: {{files: [{data_file}]}}\n"
    )
    config = read_config(path)
    assert config.training.batch_size == 3  # the file goes before the preset
    assert (config.training.learning_rate == 1e-3) == name.startswith("thesis")
    dataset = read_data(config.data, Console(quiet=True))
    module = training_run.make_module(config, dataset)
    training_run.fit(module, [], None)
    assert module.step == 2 and module.skipped == 0
    text = path.read_text().replace(name, "thesis-basics")
    path.write_text(text)
    with pytest.raises(ValueError, match="preset must be one of"):
        read_config(path)


THESIS = Path(__file__).parents[2] / "examples/thesis"


@pytest.mark.parametrize("name", sorted(f.stem for f in THESIS.glob("*.yaml")))
def test_configurations_of_the_thesis_train(name, tmp_path, data_file):
    values = yaml.safe_load((THESIS / f"{name}.yaml").read_text())
    assert values["model"]["elements"] == ["H", "C", "N", "O"]
    values["model"] |= {"elements": ["H", "O"], "radial_width": 4}
    values["data"]["files"] = [str(data_file)]
    if "self_energies" in values["data"]:
        values["data"]["self_energies"] = {"H": 0.0, "O": 0.0}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    full = read_config(path).training
    rates = [learning_rate(full, step) for step in (0, full.steps - 1)]
    first_attempt = name in ("fig-3.2", "fig-3.3")
    assert rates == pytest.approx([1e-3, 1e-7 if first_attempt else 1e-3])
    assert full.normalize != first_attempt
    short = {"steps": 3, "validate_every": 3, "batch_size": 4}
    values["training"] = {**values.get("training", {}), **short}
    path.write_text(yaml.safe_dump(values))
    config = read_config(path)
    dataset = read_data(config.data, Console(quiet=True))
    module = training_run.make_module(config, dataset)
    assert module.compiled is None
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    training_run.fit(module, [], None)
    assert module.step == 3 and module.skipped == 0
    assert any(
        not torch.equal(before[k], v) for k, v in module.network.state_dict().items()
    )


def test_tensorboard_holds_the_history(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(finished / TENSORBOARD)).Reload()
    history = load_checkpoint(finished / BEST)["history"]
    points = log.Scalars(CHARTS["force_mae"])
    assert [point.step for point in points] == [row["step"] for row in history]
    expected = [row["force_mae"] for row in history]
    assert [point.value for point in points] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_hides_no_error_of_a_run_that_never_started(tmp_path):
    log = TensorBoard(tmp_path)
    log.on_exception(None, None, OSError("no space left on device"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.milestones=[0.5,0.75]", "a list cannot be swept"),
        ("learning_rate=1", "is not of the form"),
        ("training.steps=", "training.steps must be int, got None"),
    ],
)
def test_wrong_settings_of_a_sweep_are_refused(config, text, message):
    with pytest.raises(ValueError, match=message):
        variants(config, parse_settings([text]))


@pytest.mark.parametrize("key", ["milestones", "force_weight"])
def test_wrong_values_within_settings_are_refused(config, key):
    values = {"milestones": [0.5, "late"], "force_weight": False}
    settings = {**to_dict(config.training), key: values[key]}
    with pytest.raises(ValueError, match=f"training.{key} must be float"):
        from_dict(TrainingConfig, settings, "training")


def test_names_of_swept_paths_are_single_folders(config):
    grid = {"training.initial": ["/a/b", "_a_b", "../c"], "training.seed": [1]}
    names = [variant.name for variant in variants(config, grid)]
    assert len(set(names)) == 3
    assert all(Path(name).name == name and ".." != name for name in names)
    plain = variants(config, {"training.seed": [1, 2]})
    assert [variant.name for variant in plain] == ["seed=1", "seed=2"]


def test_sweep_runs_every_combination_and_goes_on(config, tmp_path, monkeypatch):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(changed(config, steps=8).to_dict()))
    out = tmp_path / "sweep"
    command = ["sweep", str(path), "--out", str(out)]
    grid = ["--set", "training.learning_rate=1e-3,5e-3", "--set", "model.channels=4,8"]
    first = CliRunner().invoke(main, [*command, *grid])
    assert first.exit_code == 0, first.output
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["training.learning_rate"], row["model.channels"]) for row in rows] == [
        ("1e-3", "4"),
        ("1e-3", "8"),
        ("5e-3", "4"),
        ("5e-3", "8"),
    ]
    assert int(rows[0]["parameters"]) < int(rows[1]["parameters"])
    errors = json.loads((out / "learning_rate=5e-3,channels=8/errors.json").read_text())
    expected = errors["validation"]["all"]["force_mae"]
    assert float(rows[3]["validation_force_mae"]) == pytest.approx(expected)
    assert (out / "curves.png").stat().st_size > 0

    def no_training(*args):
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(TrainingModule, "training_step", no_training)
    assert CliRunner().invoke(main, [*command, *grid]).exit_code == 0
    path.write_text(yaml.safe_dump(changed(config, steps=9).to_dict()))
    result = CliRunner().invoke(main, [*command, *grid])
    assert result.exit_code != 0
    assert "training.steps: 8 in the checkpoint, 9 now" in result.output
    path.write_text(yaml.safe_dump(changed(config, steps=8).to_dict()))
    wrong = ["--set", "training.lerning_rate=1"]
    result = CliRunner().invoke(main, [*command, *wrong])
    assert result.exit_code == 2 and "did you mean 'learning_rate'" in result.output
    result = CliRunner().invoke(main, [*command, "--set", "data.files=1"])
    assert result.exit_code == 2 and "not of the form" in result.output


def test_sweep_goes_on_after_a_run_that_diverges(config, tmp_path):
    path, out = tmp_path / "train.yaml", tmp_path / "sweep"
    short = changed(config, steps=16, max_skipped=1)
    path.write_text(yaml.safe_dump(short.to_dict()))
    # One was killed before its first checkpoint; one gets worse after its best.
    for rate in ("1e200", "0.5"):
        (out / f"learning_rate={rate}").mkdir(parents=True)
    (out / "learning_rate=0.5" / training_run.CONFIG).write_text("")
    rates = "training.learning_rate=1e200,0.5,5e-3"
    command = ["sweep", str(path), "--out", str(out), "--set"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skipped steps
        result = CliRunner().invoke(main, [*command, rates])
    assert result.exit_code == 0, result.output
    assert "learning_rate=1e200 diverged" in result.output
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["training.learning_rate"] for row in rows] == ["0.5", "5e-3"]
    bad = variants(short, parse_settings([rates]))[1]
    found = run_variants([bad], out, Console(quiet=True))
    best = load_checkpoint(out / bad.name / BEST)
    assert best["step"] < found[0].history[-1]["step"] == 16
    path.write_text(yaml.safe_dump(changed(config, devices=2).to_dict()))
    result = CliRunner().invoke(main, [*command, "training.seed=1,2"])
    assert result.exit_code == 2
    assert "a sweep trains in one process" in result.output


def test_full_disk_loses_nothing(config, finished, tmp_path, monkeypatch, no_figures):
    real_save, saves = torch.save, []

    def save(content, path):
        saves.append(path)
        if len(saves) == 4:  # the second validation's last.pt
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space left"):
            training_run.train(config, tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left <= set(training_run.FILES), left  # no half of a file
    assert load_last(tmp_path)["step"] == 8
    assert training_run.train(config, tmp_path, resume=True).finished
    assert_same_run(finished, tmp_path)


def test_bad_frames_are_refused_before_training(config, tmp_path):
    frames = analytic_frames()
    broken = frames[0].positions.copy()
    broken[1, 2] = np.nan
    cases = {
        "a position is nan": [
            dataclasses.replace(frames[0], positions=broken),
            *frames[1:],
        ],
        "no validation frames": [f for f in frames if f.split == "train"][:1],
        "no train frames": [f for f in frames if f.split != "train"],
    }
    for message, chosen in cases.items():
        dataset = Dataset(Frames.of(chosen), LevelOfTheory(), SELF_ENERGIES)
        with pytest.raises(ValueError, match=message):
            training_run.make_module(config, dataset)
    with pytest.raises(ValueError, match="no self-energy for atomic numbers"):
        Frames.of(frames).isolated_energies({1: -13.0})


def test_what_a_killed_run_was_writing_goes(tmp_path):
    unfinished, other = tmp_path / ".last.0a1b2c3d.pt", tmp_path / ".mine.0a1b2c3d.pt"
    for path in (unfinished, other):
        path.write_bytes(b"half of a checkpoint")
    for resume in (False, True):
        unfinished.touch()
        assert training_run.open_folder(tmp_path, resume, overwrite=False) is None
        assert not unfinished.exists() and other.exists()


def test_checkpoint_of_another_network_is_refused(config, finished):
    other = dataclasses.replace(config, model=dataclasses.replace(TINY, lmax=2))
    with pytest.raises(ValueError, match="model.lmax: 1 in the checkpoint, 2 now"):
        training_run.train(other, finished, resume=True)


# Figures.


@pytest.fixture
def figures(monkeypatch):
    """Collect figures in place of writing them."""
    drawn = []
    monkeypatch.setattr(plot_style, "save", lambda path, figure: drawn.append(figure))
    return drawn


def test_learning_curves_show_what_the_history_has(figures):
    row = {"step": 500.0, "train_loss": 1e-2, "validation_loss": 2e-2}
    row |= {"energy_mae": 0.11, "energy_rmse": 0.12}
    without = {"force_mae": math.nan, "force_rmse": math.nan}
    forces = {"force_mae": 0.5, "force_rmse": 0.9, "direct_force_mae": 1.1}
    for known in (without, forces):
        plot_history(Path(), [{**row, **known}, {**row, **known, "step": 1000.0}])
    labels = [axes.get_ylabel() for axes in figures[0].axes]
    assert labels == list(PANELS)
    assert all("(" in label for label in labels), "no unit"
    curves = [line.get_label() for line in figures[1].axes[2].lines]
    assert curves == ["MAE", "RMSE", "direct MAE"]


def test_parity_leaves_out_what_is_not_labelled(figures):
    frames = analytic_frames()[:3]
    frames[1] = dataclasses.replace(frames[1], forces=None)
    graphs = make_graphs(frames)
    energies, labels = graphs.energies.numpy(), reference_forces(graphs)
    zeros = np.zeros_like(labels)
    plot_parity(Path(), graphs, Predictions(energies, zeros))
    nothing = make_graphs([frames[1]])
    plot_parity(Path(), nothing, Predictions(energies[1:2], zeros[:3], zeros[:3]))
    energy, force = figures[0].axes
    assert len(force.lines[0].get_xdata()) == 18  # components of two molecules
    for axes in (energy, force):
        assert axes.get_xlim() == axes.get_ylim()
        assert np.isfinite(axes.get_xlim()).all()
    mae = 23.060548 * np.nanmean(np.abs(labels))
    assert force.texts[0].get_text() == f"MAE {mae:.3g} kcal/mol/Å"
    unlabelled = [axes.texts[0].get_text() for axes in figures[1].axes[1:]]
    assert unlabelled == ["no labels", "no labels"]


@pytest.mark.parametrize("values", [[0.31, 0.33], [1e-6, 3.0], [2.0], [0.0, math.nan]])
def test_logarithmic_axes_have_ends_and_few_numbers(values):
    axes = Figure().subplots()
    plot_style.logarithmic(axes, values)
    if max(values) > 0.0:
        low, high = axes.get_ylim()
        assert low <= min(values) and high > max(values)
        ticks = [t for t in axes.get_yticks() if low * 0.999 < t < high * 1.001]
        assert 2 <= len(ticks) <= 8
        assert (ticks[0], ticks[-1]) == pytest.approx((low, high))
    assert (axes.get_yscale() == "log") == (max(values) > 0.0)


# Checkpoints.


def test_damaged_checkpoint_falls_back_on_the_one_before(finished, tmp_path):
    good = (finished / LAST).read_bytes()
    flipped = bytearray(good)
    # Longer than the padding between the parts of the archive, which no sum covers.
    for place in range(len(good) // 2, len(good) // 2 + 256):
        flipped[place] ^= 0xFF
    for content in (good[: len(good) // 2], bytes(flipped), b""):
        (tmp_path / LAST).write_bytes(content)
        (tmp_path / "previous.pt").write_bytes((finished / "previous.pt").read_bytes())
        with pytest.warns(UserWarning, match=r"goes on from previous.pt, step 16"):
            assert load_last(tmp_path)["step"] == 16
        assert not (tmp_path / LAST).exists()
    (tmp_path / "previous.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load_last(tmp_path)


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_checkpoint_that_holds_code_is_refused(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / LAST
    torch.save({"format": "openmm-se3 checkpoint", "x": Canary(str(canary))}, path)
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Canary(str(canary))))
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not canary.exists()

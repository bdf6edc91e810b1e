"""Graphs, batches and their order."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from springs import SELF_ENERGIES, TINY, WARNINGS, analytic_frames, changed, make_graphs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported
    from lightning_fabric.utilities import move_data_to_device

    from openmm_se3.training import prepare
    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.training.batches import (
    BatchOrder,
    graph_tensors,
    loader,
    take_apart,
)
from openmm_se3.training.config import (
    TrainingConfig,
)
from openmm_se3.training.loss import label_counts, loss_terms
from openmm_se3.training.schedule import (
    count_plateaus,
    learning_rate,
)

pytestmark = WARNINGS


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
        found = ForceField(network)(**vars(graph_tensors(graphs[index][0])))
        edges = neighbor_pairs(x, TINY.cutoff, torch.tensor(size * cell))
        wanted = ForceField(network)(x, species, edges)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_batch_of_graphs_equals_single_graphs():
    graphs = make_graphs(analytic_frames())
    torch.manual_seed(0)
    network = training_run.SE3Transformer(TINY).eval()
    (batch, labels), *_ = loader(graphs, [[0, 12, 1, 23]])
    energies, forces = ForceField(network)(**vars(graph_tensors(batch)))
    assert labels["frame"].tolist() == [0, 12, 1, 23]
    single = [
        ForceField(network)(**vars(graph_tensors(graphs[i][0]))) for i in (0, 12, 1, 23)
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
    "full kernels": {"kernel": "full", "symmetry": "SO(3)"},
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
        edges = tensors.edges._replace(shifts=here[0].edges.shifts)
        tensors = dataclasses.replace(tensors, edges=edges)
    elif left_behind is not None:
        labels[left_behind] = here[1][left_behind]

    def loss() -> torch.Tensor:
        energies, forces, direct = ForceField(network).with_direct_forces(
            **vars(tensors), create_graph=True
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

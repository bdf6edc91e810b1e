"""Training steps: skipped, clipped, averaged; networks learn."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from springs import TINY, WARNINGS, analytic_frames, changed, evaluate, make_graphs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.signals import Signals
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint
from openmm_se3.training.optimizer import make_optimizer
from openmm_se3.training.session import Session
from openmm_se3.training.step import (
    DivergedError,
    TrainingModule,
)

pytestmark = WARNINGS


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
    training_run.fit(module)
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
        training_run.fit(module)
    assert module.step == 8 and module.skipped == 2
    assert all(p.isfinite().all() for p in module.network.parameters())
    for graph in graphs.graphs:
        graph.ndata["forces"][0, 0] = float("inf")
    module.step = 0
    with (
        pytest.raises(DivergedError, match="2 in a row"),
        pytest.warns(UserWarning, match="step skipped"),
    ):
        training_run.fit(module)


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


def takes_matrix_steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> bool:
    """Tell whether Muon orthogonalizes the steps of a weight."""
    return any(
        weight is p
        for group in optimizer.param_groups
        if group.get("matrices")
        for p in group["params"]
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("product_lr_scale", [None, 0.5])
def test_weights_of_products_take_steps_in_proportion(
    config, optimizer, product_lr_scale
):
    choices = {"optimizer": optimizer, "product_lr_scale": product_lr_scale}
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
        if takes_matrix_steps(chosen, p):
            continue
        if name.endswith("self_interaction.hidden.weight"):
            share = product_lr_scale or 1.0 / math.sqrt(p.shape[1])
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
    training_run.fit(module)
    assert module.finished and module.step == 2


def test_best_weights_are_those_of_the_best_validation(config, finished, tmp_path):
    """Not of the last one, and not of one that is as good."""
    checkpoint = load_checkpoint(finished / LAST)
    graphs = make_graphs(analytic_frames()[:2])
    network = training_run.SE3Transformer(TINY)
    order = BatchOrder(np.ones(2), 2, 0)
    module = TrainingModule(network, config.training, order, graphs, graphs)
    module.restore(checkpoint)
    session = Session(tmp_path, {}, Signals(), 60.0, None, None, 0.0)
    row, best = module.history[-1], []
    module.history = []
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0, math.nan, 0.5]):
        module.step = step
        module.history.append({**row, "validation_loss": loss})
        session.ends_after_validation(module)
        best.append(load_checkpoint(tmp_path / BEST)["step"])
        assert load_checkpoint(tmp_path / LAST)["step"] == step
    assert best == [0, 1, 1, 1, 1, 5]

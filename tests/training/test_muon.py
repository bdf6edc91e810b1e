"""The optimizer that orthogonalizes the steps of matrices."""

from __future__ import annotations

import copy

import pytest
import torch

from openmm_se3.config import ModelConfig
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.muon import ADAM_RMS, Muon, orthogonalize
from openmm_se3.training.optimizer import make_optimizer


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (64, 12), (12, 64)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_singular_values_become_one_and_directions_stay(rows, columns, scale):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, rows, columns), full_matrices=False)
    values = torch.linspace(0.1, 1.0, min(rows, columns))
    matrices = scale * (u * values) @ v
    result = orthogonalize(matrices)
    inner = u.mT @ result @ v.mT
    found = inner.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < found.min() and found.max() < 1.3
    assert (inner - torch.diag_embed(found)).abs().max() < 1e-3
    # The same matrix alone, and a matrix without a gradient.
    torch.testing.assert_close(orthogonalize(matrices[:1]), result[:1])
    assert not orthogonalize(0.0 * matrices).any()


def test_steps_of_stacks_have_the_size_of_adams():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.zeros(3, 48, 16))
    single = torch.nn.Parameter(torch.zeros(48, 16))
    optimizer = Muon([{"params": [stack, single]}], lr=0.01)
    gradient = torch.randn(3, 48, 16)
    stack.grad, single.grad = 1e3 * gradient, 1e-3 * gradient[1]
    optimizer.step()
    torch.testing.assert_close(single.detach(), stack.detach()[1], rtol=1e-4, atol=1e-6)
    moved = stack.detach()
    assert float((moved * gradient).sum()) < 0.0  # downhill
    rms = float(moved.square().mean().sqrt())
    assert rms == pytest.approx(0.01 * ADAM_RMS, rel=0.25)


def test_other_weights_go_as_in_adam():
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(7))
    theirs = torch.nn.Parameter(ours.detach().clone())
    muon = Muon([{"params": [ours], "matrices": False}], lr=0.01)
    adam = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(20):
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_resumed_steps_are_the_same():
    torch.manual_seed(0)
    network = SE3Transformer(ModelConfig(elements=("O", "H"), layers=1))
    twin = copy.deepcopy(network)
    settings = TrainingConfig(optimizer="muon")
    first, second = make_optimizer(network, settings), make_optimizer(twin, settings)
    gradients = [torch.randn_like(p) for p in network.parameters()]

    def step(optimizer, of):
        for p, gradient in zip(of.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()

    step(first, network)
    twin.load_state_dict(network.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(first, network)
    step(second, twin)
    for ours, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_every_weight_is_in_one_group_and_matrices_of_each_degree_are_taken():
    network = SE3Transformer(ModelConfig(elements=("O", "H")))
    optimizer = make_optimizer(network, TrainingConfig(optimizer="muon"))
    names = {id(p): name for name, p in network.named_parameters()}
    groups = [
        (group["matrices"], names[id(p)])
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert sorted(name for _, name in groups) == sorted(names.values())
    taken = {name for matrices, name in groups if matrices}
    assert {"attention.0.output.weight", "nonlinearities.0.gate.weight"} <= taken
    assert not {"embedding.weight", "attention.0.radial.hidden.bias"} & taken

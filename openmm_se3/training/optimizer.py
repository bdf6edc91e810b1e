"""The optimizer of a network, with a learning rate for each kind of weight."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from openmm_se3.nn.layers import AttentiveSelfInteraction
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.muon import Muon

SMALLEST_SIDE = 8  # of a matrix whose steps are orthogonalized


def make_optimizer(
    network: SE3Transformer, config: TrainingConfig
) -> torch.optim.Optimizer:
    """Return the optimizer of a network.

    Every step changes a parameter by about its learning rate, whatever its size.
    Weights of the products in (2.6) are small and a thousand to a sum, which would grow
    by a thousand steps at once; see ``TrainingConfig.product_lr_scale``.  Muon takes
    the other matrices, and leaves these, the embedding, biases and narrow layers to
    Adam.
    """
    products = [
        module.hidden
        for module in network.modules()
        if isinstance(module, AttentiveSelfInteraction)
    ]
    apart = {id(hidden.weight) for hidden in products}
    rest = [p for p in network.parameters() if id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest, "share": 1.0}]
    for hidden in products:
        share = config.product_lr_scale or 1.0 / math.sqrt(hidden.in_features)
        groups.append({"params": [hidden.weight], "share": share})
    if config.optimizer == "muon":
        matrices = [p for p in rest if _is_matrix(p, network)]
        taken = {id(p) for p in matrices}
        groups[0]["params"] = [p for p in rest if id(p) not in taken]
        for group in groups:
            group["matrices"] = False
        groups.append({"params": matrices, "share": 1.0, "matrices": True})
        return Muon(groups, lr=config.learning_rate)
    # Fused: one operation for all parameters, where the plain loop makes some ten each.
    if config.optimizer == "adamw":
        decay = config.weight_decay
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, weight_decay=decay, fused=True
        )
    return torch.optim.Adam(groups, lr=config.learning_rate, fused=True)


def _is_matrix(weight: Tensor, network: SE3Transformer) -> bool:
    """Tell whether Muon takes a weight.  A batch sees few rows of the embedding."""
    sides = weight.shape[-2:]
    return (
        len(sides) == 2
        and min(sides) >= SMALLEST_SIDE
        and weight is not network.embedding.weight
    )

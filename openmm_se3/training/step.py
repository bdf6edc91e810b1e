"""One optimization step and one validation.

The module counts its own steps and keeps everything that a resumed run needs; the loop
around it is in :mod:`openmm_se3.training.loop`.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from openmm_se3.compiled.force_gradient import Batches
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.training.batches import (
    BatchOrder,
    FrameGraphs,
    GraphTensors,
    loader,
    take_apart,
)
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.distributed import from_all, rank, total, world_size
from openmm_se3.training.loss import LossTerms, label_counts, loss_terms
from openmm_se3.training.metrics import (
    DIRECT_UNITS,
    UNITS,
    as_tensors,
    error_table,
    evaluation_batches,
    join,
    predict_batch,
)
from openmm_se3.training.optimizer import make_optimizer
from openmm_se3.training.schedule import learning_rate, validations_since_best

FIRST_AVERAGES = 10.0  # steps over which the moving average forgets the random start
TINY_NORM = 1e-30  # keeps the logarithm of a vanishing gradient finite
NORM_DECAY = 0.99  # of the mean of the logarithm of gradient norms


class DivergedError(RuntimeError):
    """The loss stayed infinite or NaN; the checkpoints are from before."""


class TrainingModule:
    """Trains a network on labeled frames.

    Args:
        network: The network, in the precision of training.
        config: Settings of the optimization.
        order: The batch of every step.
        train_graphs: Data to train on; names frames in messages.
        validation_graphs: Data to validate on.
        compiled: Computes energies and forces; None leaves that to the network.

    Attributes:
        average: Network with the moving average of the weights.
        step: Steps made, skipped ones included.
        skipped: Steps skipped because the loss or its gradient was not finite.
        history: One row a validation.
    """

    def __init__(
        self,
        network: SE3Transformer,
        config: TrainingConfig,
        order: BatchOrder,
        train_graphs: FrameGraphs,
        validation_graphs: FrameGraphs,
        compiled: Batches | None = None,
    ) -> None:
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.config = config
        self.order = order
        self.train_graphs = train_graphs
        self.validation_graphs = validation_graphs
        self.compiled = compiled
        self.step = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.log_norm: float | None = None
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        # Sums since the last validation: loss, its parts as in LossTerms, steps.
        self.running = torch.zeros(5, dtype=torch.float64)
        self.optimizer = make_optimizer(network, config)
        # Weights that the run starts from, where it stays near them.
        self._initial = copy.deepcopy(network) if config.initial_decay else None
        self._clock = time.monotonic()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.embedding.weight.device

    @property
    def losses(self) -> list[float]:
        """Validation losses so far."""
        return [row["validation_loss"] for row in self.history]

    @property
    def finished(self) -> bool:
        """Tell whether the run is over, after its steps or because it got no better."""
        patience = self.config.patience
        return self.step >= self.config.steps or (
            patience is not None and validations_since_best(self.losses) >= patience
        )

    def start(self, device: torch.device) -> None:
        """Start the clock, on a device."""
        self._clock = time.monotonic()
        # In evaluation mode energies of isolated atoms would not follow the weights.
        self.network.train()
        if device != self.device:
            state = self.optimizer.state_dict()
            self.network.to(device)
            self.average.to(device)
            if self._initial is not None:
                self._initial.to(device)
            self.optimizer.load_state_dict(state)  # moves it to the weights

    def training_step(
        self,
        batch: tuple[GraphTensors, dict[str, Tensor]],
        loss: Callable[[GraphTensors, dict[str, Tensor]], Tensor],
        backward: Callable[[Tensor], None],
    ) -> None:
        """Make one step; see :class:`TrainingConfig` for what decides it.

        Args:
            batch: This process's share of a batch.
            loss: Gives the loss and its parts [4], as :meth:`loss` does.
            backward: Computes gradients, averaged over processes.

        Raises:
            DivergedError: Too many steps in a row were not finite.
        """
        tensors, labels = batch
        terms = loss(tensors, labels)
        self.optimizer.zero_grad()
        # Gradients are averaged over processes, losses add up.
        backward(terms[0] * world_size())
        parts = total(terms)
        if self._limit_gradient() and bool(torch.isfinite(parts[0])):
            rate = learning_rate(self.config, self.step, self.losses)
            for group in self.optimizer.param_groups:
                group["lr"] = group["share"] * rate
            self.optimizer.step()
            self._return_to_initial()
            self._update_average()
            self.running[:4] += parts.detach().cpu()
            self.running[4] += 1
            self.skipped_in_a_row = 0
        else:
            self._skip(labels["frame"])
        self.step += 1

    def loss(self, tensors: GraphTensors, labels: dict[str, Tensor]) -> LossTerms:
        """Return the loss of a batch, which gradients can be taken of."""
        direct = None
        if self.compiled is not None:
            energies, forces = self.compiled.energy_and_forces(
                self.network, **vars(tensors)
            )
        elif self.config.force_weight > 0.0:
            field = ForceField(self.network)
            energies, forces, direct = field.with_direct_forces(
                **vars(tensors), create_graph=True
            )
        else:
            energies = ForceField(self.network).energies(**vars(tensors))
            forces = torch.zeros_like(tensors.positions)  # with the weight 0
        counts = total(
            label_counts(labels["energy"], labels["forces"], tensors.molecule)
        )
        return loss_terms(
            energies,
            forces,
            labels["energy"],
            labels["forces"],
            labels["weight"],
            tensors.molecule,
            self.config,
            counts,
            direct if self.network.both else None,
        )

    def _limit_gradient(self) -> bool:
        """Clip the gradient; tell whether it is finite."""
        parameters = list(self.network.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            return False
        size, config = float(norm), self.config
        limit = math.inf if config.clip_norm is None else config.clip_norm
        if self.log_norm is None:
            self.log_norm = math.log(size + TINY_NORM)
        elif config.clip_ratio is not None:
            limit = min(limit, config.clip_ratio * math.exp(self.log_norm))
        if size > limit:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        # As clipped: a few gradients of 1e20 must not raise the limit of the next.
        seen = math.log(min(size, limit) + TINY_NORM)
        self.log_norm += (1.0 - NORM_DECAY) * (seen - self.log_norm)
        return True

    def _skip(self, frames: Tensor) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        indices = {
            max(int(i), ~int(i)) for part in from_all(frames.cpu()) for i in part
        }
        names = sorted({self.train_graphs.frames[i].trajectory for i in indices})
        message = (
            f"step {self.step}: loss or gradient not finite, step skipped; {names}"
        )
        if self.skipped_in_a_row > self.config.max_skipped:
            raise DivergedError(
                f"{message}; {self.skipped_in_a_row} in a row. The best weights so far "
                "are in best.pt: check these frames, or start a new run with a lower "
                "training.learning_rate, and with training.initial: RUN/best.pt if "
                "there is one"
            )
        warnings.warn(message, stacklevel=2)

    @torch.no_grad()
    def _return_to_initial(self) -> None:
        """Move the weights a little towards those that the run started from."""
        if self._initial is None:
            return
        before = dict(
            zip(self.network.parameters(), self._initial.parameters(), strict=True)
        )
        for group in self.optimizer.param_groups:
            moved = group["params"]
            share = min(1.0, group["lr"] * self.config.initial_decay)
            torch._foreach_lerp_(moved, [before[weight] for weight in moved], share)

    @torch.no_grad()
    def _update_average(self) -> None:
        made = self.step - self.skipped
        decay = min(self.config.ema_decay, (1.0 + made) / (FIRST_AVERAGES + made))
        torch._foreach_lerp_(
            list(self.average.parameters()),
            list(self.network.parameters()),
            1.0 - decay,
        )

    def validate(self, fabric: Fabric) -> None:
        """Add a row to the history: errors of the averaged weights."""
        self.average.eval()  # brings what it derives from its weights up to date
        # Process r of n predicts batches r, r + n, ...
        own = evaluation_batches(self.validation_graphs)[rank() :: world_size()]
        predictions_of_own = []
        with torch.no_grad():
            for batch in loader(self.validation_graphs, own):
                tensors, _ = fabric.to_device(take_apart(batch))
                predicted = predict_batch(self.average, tensors, self.compiled)
                predictions_of_own.append(predicted)
        parts = from_all(predictions_of_own)
        longest = max(len(part) for part in parts)
        in_order = [part[i] for i in range(longest) for part in parts if i < len(part)]
        graphs, predictions = self.validation_graphs, join(in_order)
        terms = loss_terms(**as_tensors(graphs, predictions), config=self.config)
        errors = error_table(graphs, predictions, {})["all"]
        count = max(float(self.running[4]), 1.0)
        direct: dict[str, float] = {}
        if self.network.both:
            direct = {
                "train_loss_direct": float(self.running[3]) / count,
                "validation_loss_direct": float(terms.direct),
                **{key: errors.get(key, math.nan) for key in DIRECT_UNITS},
            }
        self.seconds += time.monotonic() - self._clock
        self._clock = time.monotonic()
        self.history.append(
            {
                "step": self.step,
                "epoch": self.order.epochs_at(self.step),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "train_loss": float(self.running[0]) / count,
                "train_loss_energy": float(self.running[1]) / count,
                "train_loss_forces": float(self.running[2]) / count,
                "validation_loss": float(terms.total),
                "validation_loss_energy": float(terms.energy),
                "validation_loss_forces": float(terms.forces),
                **{key: errors.get(key, math.nan) for key in UNITS},
                **direct,
                "skipped": self.skipped,
                "seconds": self.seconds,
            }
        )
        self.running.zero_()

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain values."""
        now = time.monotonic()
        return {
            "step": self.step,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "log_norm": self.log_norm,
            "seconds": self.seconds + now - self._clock,
            "history": copy.deepcopy(self.history),
            "running": self.running.clone(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.step = state["step"]
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.log_norm = state["log_norm"]
        self.seconds = state["seconds"]
        self.history = copy.deepcopy(state["history"])
        self.running = state["running"].clone()
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])

"""The learning rate, as a function of the step and of past validations only."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openmm_se3.training.config import TrainingConfig


def learning_rate(
    config: TrainingConfig, step: int, losses: Sequence[float] = ()
) -> float:
    """Return the learning rate of a step, counted from 0.

    Args:
        config: Holds the schedule.
        step: Steps already made.
        losses: Validation losses so far, for the plateau schedule.
    """
    rate = config.learning_rate
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    lowest = config.final_learning_rate
    if config.schedule == "cosine":
        length = config.steps - config.warmup_steps
        wave = 0.5 * (1.0 + math.cos(math.pi * (step - config.warmup_steps) / length))
        return rate * (lowest + (1.0 - lowest) * wave)
    if config.schedule == "plateau":
        reductions = count_plateaus(losses, config.plateau_patience)
        return rate * max(config.plateau_factor**reductions, lowest)
    if config.schedule == "steps":
        passed = sum(step >= mark * config.steps for mark in config.milestones)
        return rate * config.milestone_factor**passed
    return rate


def count_plateaus(losses: Sequence[float], patience: int) -> int:
    """Return how often ``patience`` validations in a row did not beat the best."""
    best, waited, plateaus = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def validations_since_best(losses: Sequence[float]) -> int:
    """Return how many validations followed the best one."""
    if not losses:
        return 0
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return len(finite) - 1 - min(range(len(finite)), key=finite.__getitem__)

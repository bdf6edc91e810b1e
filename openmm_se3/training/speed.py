"""How fast a network trains here: the number of threads, and steps for a time budget.

What is measured is the gradient of the first batches; it changes nothing of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from openmm_se3.training.batches import GraphTensors, loader, take_apart
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.metrics import evaluation_batches, predict_batch
from openmm_se3.training.step import TrainingModule

ROUNDS = 4  # the first one warms up
LONGEST = 20.0  # s, after which no further round begins
MARGIN = 1.1  # fewer threads may be so much slower: they leave cores to others
BATCHES = 3  # different ones, whose sizes differ
LEAST_STEPS = 100  # of a run that a time budget allows
SHARE = 0.1  # of a short run, for the warm-up and between validations


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        threads: Threads that the run uses.
        seconds: Time of a step by number of threads, s.
    """

    threads: int
    seconds: dict[int, float]

    def __str__(self) -> str:
        times = ", ".join(f"{n}: {1000.0 * t:.3g}" for n, t in self.seconds.items())
        return f"Threads: {self.threads} (measured, ms a step with {times})"


def choose_threads(
    module: TrainingModule, before: int | None, budgeted: bool
) -> Speed | None:
    """Set the number of threads, and return what was measured for it, if anything.

    Args:
        module: What is trained, on the CPU; it and PyTorch's random numbers stay the
            same.
        before: Threads of the run that goes on, which then stays the same to the bit.
        budgeted: Whether the speed must be known in any case.
    """
    most = torch.get_num_threads()
    given = module.config.threads or before
    counts = [given] if given else thread_counts(most)
    torch.set_num_threads(counts[-1])
    if len(counts) == 1 and not budgeted:
        return None
    with _undisturbed(module):
        turn = itertools.cycle(_first_batches(module))
        seconds = time_threads(lambda: _gradient(module, *next(turn)), counts)
    speed = Speed(fewest_fast(seconds), seconds)
    torch.set_num_threads(speed.threads)
    return speed


def thread_counts(most: int) -> list[int]:
    """Return the numbers of threads to measure: powers of two, and the most."""
    return sorted({*(2**n for n in range(most.bit_length()) if 2**n < most), most})


def _gradient(
    module: TrainingModule, tensors: GraphTensors, labels: dict[str, Tensor]
) -> None:
    module.loss(tensors, labels).total.backward()


def time_threads(step: Callable[[], None], counts: Sequence[int]) -> dict[int, float]:
    """Return the shortest time of a step, s, by number of threads.

    Args:
        step: Makes one step.
        counts: Numbers of threads, measured in turns.
    """
    best = dict.fromkeys(counts, float("inf"))
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for count in counts:
            torch.set_num_threads(count)
            before = time.perf_counter()
            step()
            best[count] = min(best[count], time.perf_counter() - before)
        if time.perf_counter() - started > LONGEST:
            break
    return best


def fewest_fast(seconds: dict[int, float]) -> int:
    """Return the least number of threads that is about as fast as the fastest."""
    limit = MARGIN * min(seconds.values())
    return min(count for count, time in seconds.items() if time <= limit)


class TimeBudgetError(ValueError):
    """A time budget has no room for a training run.

    Args:
        text: What is needed.
        lacking: How many minutes the run lacks.
    """

    def __init__(self, text: str, lacking: float) -> None:
        super().__init__(text, lacking)  # both, so that it can be pickled
        self.lacking = lacking

    def __str__(self) -> str:
        return str(self.args[0])


def fit_to_budget(
    module: TrainingModule, speed: Speed, seconds: float
) -> TrainingConfig:
    """Return the settings with as many steps as a time budget allows, here and now.

    Args:
        module: What is trained.
        speed: The measured speed.
        seconds: Time that is left, s.

    Raises:
        TimeBudgetError: The time is too short.
    """
    config = module.config
    step, validation = speed.seconds[speed.threads], _validation_seconds(module)
    often = seconds / (step + validation / config.validate_every)
    # At least ten validations, however few the steps.
    steps = int(min(often, (seconds - validation / SHARE) / step))
    if steps < LEAST_STEPS:
        least = LEAST_STEPS * step + validation / SHARE
        raise TimeBudgetError(
            f"the time budget leaves {max(0.0, seconds):.0f} s for training: "
            f"{LEAST_STEPS} steps of {step:.2g} s and {1 / SHARE:.0f} validations of "
            f"{validation:.2g} s are needed, which take {least / 60.0:.2g} minutes",
            (least - seconds) / 60.0,
        )
    tenth = int(SHARE * steps)
    return dataclasses.replace(
        config,
        steps=steps,
        warmup_steps=min(config.warmup_steps, tenth),
        validate_every=min(config.validate_every, tenth),
    )


def _first_batches(
    module: TrainingModule,
) -> list[tuple[GraphTensors, dict[str, Tensor]]]:
    batches = list(module.order.steps(0, BATCHES))
    return [take_apart(batch) for batch in loader(module.train_graphs, batches)]


def _validation_seconds(module: TrainingModule) -> float:
    """Return the time of a validation, s, from its first batch."""
    batches = evaluation_batches(module.validation_graphs)
    with _undisturbed(module):
        (batch,) = map(take_apart, loader(module.validation_graphs, batches[:1]))
        module.average.eval()
        predict_batch(module.average, batch[0], module.compiled)  # warms up
        before = time.perf_counter()
        predict_batch(module.average, batch[0], module.compiled)
        return len(batches) * (time.perf_counter() - before)


@contextlib.contextmanager
def _undisturbed(module: TrainingModule) -> Iterator[None]:
    """Undo what measuring does to random numbers and gradients."""
    state = torch.get_rng_state()  # loaders draw from it
    module.network.train()
    try:
        yield
    finally:
        module.optimizer.zero_grad()
        torch.set_rng_state(state)

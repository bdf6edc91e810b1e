"""One session of a run: when checkpoints are written, and when it stops early.

A session ends when the run is finished, when its time or its epochs are used up, or on
a signal such as Ctrl-C.  All but the first leave a checkpoint from which the run is
resumed as if it had not stopped.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from openmm_se3.signals import Signals
from openmm_se3.training.checkpoint import BEST, LAST, PREVIOUS, save_checkpoint
from openmm_se3.training.distributed import any_process, is_first
from openmm_se3.training.report import HISTORY, write_history
from openmm_se3.training.schedule import validations_since_best
from openmm_se3.training.step import TrainingModule


class Session:
    """Writes checkpoints, and tells when the session is over.

    Args:
        folder: Folder of the run.
        header: What a checkpoint holds beside the state of the module.
        signals: Tells whether the user wants to stop.
        checkpoint_minutes: Longest time without a checkpoint.
        max_minutes: Length of the session, from ``started``; None has no limit.
        max_epochs: Epochs of the run at which the session ends; None has no limit.
        started: ``time.monotonic()`` at the start of the session.
    """

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        signals: Signals,
        checkpoint_minutes: float,
        max_minutes: float | None,
        max_epochs: float | None,
        started: float,
    ) -> None:
        self.folder = folder
        self.header = header
        self.signals = signals
        self.checkpoint_seconds = 60.0 * checkpoint_minutes
        self.end = math.inf if max_minutes is None else started + 60.0 * max_minutes
        self.max_epochs = math.inf if max_epochs is None else max_epochs
        self._saved = time.monotonic()

    def on_start(self, module: TrainingModule) -> None:
        """Write the first checkpoint, so that there always is one to resume from."""
        if not (self.folder / LAST).exists():
            self.save(module)

    def ends_after_step(self, module: TrainingModule) -> bool:
        """Save if it is time, and tell whether the session is over.

        A step that a validation follows leaves both to :meth:`ends_after_validation`,
        so that a resumed run does not miss it.
        """
        config = module.config
        if module.step % config.validate_every == 0 or module.step == config.steps:
            return False
        over = self.is_over(module)
        if over or time.monotonic() - self._saved > self.checkpoint_seconds:
            self.save(module)
        return over

    def ends_after_validation(self, module: TrainingModule) -> bool:
        """Save, keep the best, and tell whether the session is over."""
        if is_first():
            if validations_since_best(module.losses) == 0:
                save_checkpoint(self.folder / BEST, self.content(module))
            write_history(self.folder / HISTORY, module.history)
        self.save(module)
        return not module.finished and self.is_over(module)

    def is_over(self, module: TrainingModule) -> bool:
        """Tell whether the session is over, for any of the processes."""
        over = (
            self.signals.received is not None
            or time.monotonic() >= self.end
            or module.order.epochs_at(module.step) >= self.max_epochs
        )
        return any_process(over, module.device)

    def content(self, module: TrainingModule) -> dict[str, Any]:
        """Return what a checkpoint of this moment holds."""
        return {**self.header, **module.state(), "errors": None}

    def save(self, module: TrainingModule) -> None:
        """Write the last checkpoint and keep the one before.

        Weights whose last step was not finite may be lost already: the checkpoint from
        before stays the last.
        """
        if is_first() and not module.skipped_in_a_row:
            save_checkpoint(
                self.folder / LAST, self.content(module), self.folder / PREVIOUS
            )
        self._saved = time.monotonic()

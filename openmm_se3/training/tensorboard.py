"""The course of a run for TensorBoard: ``tensorboard --logdir RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
# Rows of the history by what TensorBoard shows in one chart.
CHARTS = {
    "train_loss": "loss/training",
    "train_loss_energy": "loss/training, energies",
    "train_loss_forces": "loss/training, forces",
    "validation_loss": "loss/validation",
    "energy_mae": "energy/MAE, kcal per mol",
    "energy_rmse": "energy/RMSE, kcal per mol",
    "force_mae": "forces/MAE, kcal per mol per A",
    "force_rmse": "forces/RMSE, kcal per mol per A",
    "train_loss_direct": "loss/training, direct forces",
    "direct_force_mae": "direct forces/MAE, kcal per mol per A",
    "direct_force_rmse": "direct forces/RMSE, kcal per mol per A",
    "estimate_correlation": "direct forces/correlation with the force error",
    "learning_rate": "run/learning rate",
    "skipped": "run/skipped steps",
}


class TensorBoard(lightning.Callback):
    """Writes one point a validation.

    A resumed run goes on in the same charts: what it computes again it writes again,
    with the same values.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.writer: SummaryWriter | None = None  # until training starts

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Open the log; points after the present step are from a lost sitting."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(self.folder, purge_step=module.step + 1)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Write the errors just measured."""
        assert self.writer is not None
        row = module.history[-1]
        for key, chart in CHARTS.items():
            if key in row:
                self.writer.add_scalar(chart, row[key], int(row["step"]))
        self.writer.flush()

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Close the log."""
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, module: Any, exception: BaseException
    ) -> None:
        """Close the log of a sitting that ends early, perhaps before its first step."""
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()

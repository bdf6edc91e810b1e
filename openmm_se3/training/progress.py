"""What the user sees while a model trains: a bar with the time left, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from openmm_se3.training.step import TrainingModule

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


# Energies in kcal/mol, forces in kcal/mol/A, losses of equation (3.2) in eV and A.
HEADER = (
    "   step  epoch learning  training validation   energy    force    force\n"
    "                   rate      loss       loss      MAE      MAE     RMSE"
)
DIRECT_HEADER = HEADER.replace("\n", "   direct\n") + "      MAE"


class TrainingProgress:
    """One bar for the whole run, and one line of errors a validation.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[progress.percentage]{task.percentage:3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=console,
            # A notebook would keep every state of the bar as a line of its own.
            disable=console.is_jupyter,
            refresh_per_second=2,
            # The average speed of the last minute or so, as validations take time too.
            speed_estimate_period=90.0,
        )

    def on_start(self, module: TrainingModule) -> None:
        """Show the bar at the step where this session starts."""
        self.console.print("Validation errors in kcal/mol and kcal/mol/A")
        header = DIRECT_HEADER if module.network.both else HEADER
        self.console.print(header, style="dim", highlight=False)
        self.bar.start()
        self.task = self.bar.add_task(
            "training", total=module.config.steps, completed=module.step, note=""
        )

    def on_step(self, module: TrainingModule) -> None:
        """Move the bar."""
        note = f"{module.skipped} skipped" if module.skipped else ""
        self.bar.update(self.task, completed=module.step, note=note)

    def on_validation(self, module: TrainingModule) -> None:
        """Print the errors just measured."""
        self.console.print(validation_line(module.history[-1]), highlight=False)

    def on_end(self) -> None:
        """Take the bar down, so that a message stands alone."""
        self.bar.stop()


def validation_line(row: dict[str, float]) -> str:
    """Return the errors of one validation under ``HEADER``."""
    line = (
        f"{row['step']:7.0f} {row['epoch']:6.1f} {row['learning_rate']:8.1e} "
        f"{row['train_loss']:9.3e} {row['validation_loss']:10.3e} "
        f"{row['energy_mae']:8.4f} {row['force_mae']:8.4f} {row['force_rmse']:8.4f}"
    )
    if "direct_force_mae" in row:
        line += f" {row['direct_force_mae']:8.4f}"
    return line


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


class TensorBoard:
    """Writes one point a validation.

    A resumed run goes on in the same charts: what it computes again it writes again,
    with the same values.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.writer: SummaryWriter | None = None  # until training starts

    def on_start(self, module: TrainingModule) -> None:
        """Open the log; points after the present step are from a lost session."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(self.folder, purge_step=module.step + 1)

    def on_validation(self, module: TrainingModule) -> None:
        """Write the errors just measured."""
        assert self.writer is not None
        row = module.history[-1]
        for key, chart in CHARTS.items():
            if key in row:
                self.writer.add_scalar(chart, row[key], int(row["step"]))
        self.writer.flush()

    def on_step(self, module: TrainingModule) -> None:
        """Nothing is written between validations."""

    def on_end(self) -> None:
        """Close the log, also of a session that ends before its first step."""
        if self.writer is not None:
            self.writer.close()

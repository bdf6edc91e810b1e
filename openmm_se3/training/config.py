"""Everything one training run is told: network, optimization, data."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from openmm_se3.config import ADDED, ModelConfig, to_dict
from openmm_se3.data.load import Source
from openmm_se3.data.self_energies import Choice
from openmm_se3.data.splits import SplitConfig
from openmm_se3.elements import SYMBOLS
from openmm_se3.renamed_fields import accepts_old_names

# These change how a run is carried out, not what it computes: a resumed run may differ.
CIRCUMSTANCES = ("device", "devices", "nodes", "threads", "checkpoint_minutes")


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of the optimization.

    The whole run is counted in steps, one batch each: the learning rate and the order
    of the batches depend on the step and the seed only, so that a run that was stopped
    and resumed equals one that was not.

    Attributes:
        steps: Optimizer steps of the whole run.
        validate_every: Steps between validations; each one writes a checkpoint.
        batch_size: Size of a batch, in ``batch_unit``.
        batch_unit: "frames", or "edges": batches are filled with frames up to this many
            edges, which keeps the cost of a step even when sizes differ.
        initial: Model (a shipped one's name, or a path) or checkpoint whose weights the
            run starts from; the network must have the same shape.  None starts at
            random.
        energy_weight: W_e of equation (3.2), 1/A^2.
        force_weight: Weight of the forces; 0 trains on energies only, without
            computing forces.
        direct_weight: Weight of the direct forces beside the conservative ones, where
            ``model.force_mode`` is "both".
        energy_per: What the energy error of a frame of N atoms is divided by in the
            loss: "frame" (nothing), "sqrt-atom" (the root of N: errors of atoms that
            do not depend on each other count as much in a large frame as in a small
            one) or "atom" (N).
        forces_per: What the squared errors of forces are averaged over: "atom" (all
            atoms of a batch) or "frame" (the atoms of each frame, then the frames:
            equation 3.2, in which an atom of a small molecule counts more).
        normalize: Measure errors in the loss in standard deviations of the labels to
            train on: those of energies against isolated atoms, and those of components
            of forces.  ``energy_weight`` is then without a unit.
        energy_cap: Energy above the lowest frame of the same composition, eV per atom,
            at which the weight of a frame is 1/2; null gives every frame the weight 1.
        huber_delta: Error beyond which the loss grows linearly (eV/A, and eV of the
            energy's error as ``energy_per`` divides it); null keeps squares.
        optimizer: "adam", "adamw", or "muon": steps of matrices along orthogonalized
            momentum, of other weights by Adam.
        learning_rate: Highest learning rate.
        product_lr_scale: Learning rate of the weights that make (2.6) from products of
            features, as a share of ``learning_rate``.  A sum has a thousand of them, so
            that a share of 1 may make a network of several layers explode.  Null: one
            over the root of their number.
        weight_decay: Decay of the weights; needs "adamw".
        initial_decay: Decay of the weights towards those of ``initial`` instead of
            zero, whatever the optimizer: keeps a fine-tuned model near what it knew.  A
            weight moves about 1/``initial_decay`` at most.
        warmup_steps: Steps over which the learning rate grows from zero.
        schedule: "cosine" to the end of the run, "plateau", "steps" or "constant".
        final_learning_rate: Where the cosine ends and the plateau schedule stops, as a
            fraction of ``learning_rate``.
        milestones: Fractions of the run at which the schedule "steps" cuts the rate.
        milestone_factor: Factor of one cut.
        plateau_patience: Validations without improvement before a reduction.
        plateau_factor: Factor of one reduction.
        clip_norm: Largest gradient norm; null does not clip.
        clip_ratio: Largest gradient norm as a multiple of the geometric mean of those
            before; null does not clip.  The norm falls by orders of magnitude during a
            run, so that a fixed limit is too small at first and too large later, when
            one batch of extreme structures can undo thousands of steps.
        ema_decay: Decay of the exponential moving average of the weights, which is
            what is validated and exported.
        patience: Validations without improvement before the run stops early; null runs
            all steps.
        max_skipped: Steps in a row that may be skipped because the loss or its gradient
            is not finite; one more stops the run.
        evaluated_frames: Frames of each split whose errors are measured at most, drawn
            with the seed; a validation on millions would take longer than the training.
        precision: "float32" or "float64" network; energies are summed in float64.
        seed: Seed of the initial weights and of the order of the batches.
        implementation: What computes energies, forces and their derivatives by the
            weights: "pytorch", "compiled" code for this shape of network and the CPU,
            some times faster, or "triton", kernels for NVIDIA GPUs; "auto" is the one
            of the last two that the device can have, else the first.  They agree to
            3e-3 of a gradient in float32.
        device: "auto", "cpu" or "gpu".
        devices: GPUs of a machine, or CPU processes, that share every batch.  Under
            torchrun or SLURM these decide.
        nodes: Machines.
        threads: CPU threads; null measures a few steps with 1, 2, 4, ... and takes the
            least number that is about as fast as the fastest.  A resumed run keeps it.
        checkpoint_minutes: Longest time without a checkpoint between validations.
    """

    steps: int = 20000
    validate_every: int = 500
    batch_size: int = 16
    batch_unit: typing.Literal["frames", "edges"] = "frames"
    initial: str | None = None
    energy_weight: float = 1.0
    force_weight: float = 1.0
    direct_weight: float = 0.1
    energy_per: typing.Literal["frame", "sqrt-atom", "atom"] = "frame"
    energy_cap: float | None = None
    huber_delta: float | None = None
    optimizer: typing.Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float = 2e-3
    product_lr_scale: float | None = None
    weight_decay: float = 0.0
    warmup_steps: int = 100
    schedule: typing.Literal["cosine", "plateau", "steps", "constant"] = "cosine"
    final_learning_rate: float = 0.01
    milestones: tuple[float, ...] = (0.5, 0.75)
    milestone_factor: float = 0.1
    plateau_patience: int = 10
    plateau_factor: float = 0.5
    clip_norm: float | None = 10.0
    clip_ratio: float | None = None
    ema_decay: float = 0.999
    patience: int | None = None
    max_skipped: int = 20
    evaluated_frames: int = 10000
    precision: typing.Literal["float32", "float64"] = "float32"
    seed: int = 0
    implementation: typing.Literal["auto", "compiled", "triton", "pytorch"] = "auto"
    device: typing.Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    threads: int | None = None
    checkpoint_minutes: float = 5.0
    forces_per: typing.Literal["atom", "frame"] = dataclasses.field(
        default="atom", metadata=ADDED
    )
    normalize: bool = dataclasses.field(default=False, metadata=ADDED)
    initial_decay: float = dataclasses.field(default=0.0, metadata=ADDED)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of range or does not go with another.
        """
        positive = (
            "steps",
            "validate_every",
            "batch_size",
            "direct_weight",
            "energy_cap",
            "huber_delta",
            "learning_rate",
            "plateau_patience",
            "clip_norm",
            "clip_ratio",
            "product_lr_scale",
            "patience",
            "evaluated_frames",
            "devices",
            "nodes",
            "threads",
        )
        not_negative = (
            "energy_weight",
            "force_weight",
            "weight_decay",
            "initial_decay",
            "warmup_steps",
            "max_skipped",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"training.{name} must be positive, got {value}")
        for name in (*not_negative, "seed", "checkpoint_minutes"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"training.{name} must not be negative, got {getattr(self, name)}"
                )
        for name in (
            "final_learning_rate",
            "plateau_factor",
            "milestone_factor",
            "ema_decay",
        ):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"training.{name} must be at least 0 and below 1, "
                    f"got {getattr(self, name)}"
                )
        if not self.energy_weight and not self.force_weight:
            raise ValueError(
                "training.energy_weight and force_weight are both 0: there is nothing "
                "to train on"
            )
        marks = self.milestones
        if list(marks) != sorted(marks) or not all(0.0 < m < 1.0 for m in marks):
            raise ValueError(
                "training.milestones must be fractions of the run between 0 and 1, in "
                f"order, got {list(marks)}"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(
                "training.weight_decay needs optimizer: adamw; with adam it would be "
                "mixed into the gradient's moments, and muon has none"
            )
        if self.initial_decay and self.initial is None:
            raise ValueError(
                "training.initial_decay keeps weights near those of training.initial, "
                "which is not given; weight_decay keeps them near zero"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"training.warmup_steps={self.warmup_steps} must be below "
                f"training.steps={self.steps}; give both in the file, a tenth is usual "
                "for short runs"
            )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the labels are and how they are divided.

    In YAML a file is its path, or the fields of :class:`Source`; relative paths start
    at the YAML file.

    Attributes:
        files: Files or folders of labels.
        split: How training, validation and test frames are chosen.
        self_energies: "auto" (those of the data, or else fitted), "least-squares",
            "isolated" (computed with DFT), or eV by chemical symbol.
        check_units: Refuse labels whose units or signs cannot be right.  The frames of
            a reaction are unlike those that the limits are for.
    """

    files: tuple[Source, ...]
    split: SplitConfig = SplitConfig()
    self_energies: str | dict[str, float] = "auto"
    check_units: bool = True

    def __post_init__(self) -> None:
        """Check that there is something to read.

        Raises:
            ValueError: No file is named, or self-energies are neither a known word nor
                numbers by chemical symbol.
        """
        if not self.files:
            raise ValueError("data.files is empty; name at least one file of labels")
        given = self.self_energies
        if isinstance(given, dict):
            unknown = sorted(map(str, set(given) - set(SYMBOLS)))
            numbers = all(
                isinstance(x, int | float) and math.isfinite(x) for x in given.values()
            )
            if unknown or not numbers:
                raise ValueError(
                    "data.self_energies must be energies in eV by chemical symbol, got "
                    f"{given}"
                )
        elif given not in typing.get_args(Choice):
            raise ValueError(
                f"data.self_energies must be one of {list(typing.get_args(Choice))} or "
                f"energies by chemical symbol, got {given!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in the YAML file."""
        return {
            "files": [_source_to_yaml(source) for source in self.files],
            "split": to_dict(self.split),
            "self_energies": self.self_energies,
            **({} if self.check_units else {"check_units": False}),
        }


def _source_to_yaml(source: Source) -> str | dict[str, Any]:
    """Return a path, or the fields that are not at their defaults."""
    default = to_dict(Source(source.path))
    values = {k: v for k, v in to_dict(source).items() if v != default[k]}
    return {"path": source.path, **values} if values else source.path


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run.

    Attributes:
        model: The network.
        training: The optimization.
        data: The labels.
    """

    model: ModelConfig
    training: TrainingConfig
    data: DataConfig

    def __post_init__(self) -> None:
        """Check what goes beyond one section.

        Raises:
            ValueError: A direct head would have no forces to learn from.
        """
        mode = self.model.force_mode
        if mode != "conservative" and not self.training.force_weight:
            raise ValueError(
                f"model.force_mode: {mode} trains on forces, but training.force_weight "
                "is 0; energies alone train a conservative network"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in the YAML file."""
        return {
            "model": to_dict(self.model),
            "training": to_dict(self.training),
            "data": self.data.to_dict(),
        }

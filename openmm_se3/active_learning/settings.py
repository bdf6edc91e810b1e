"""What a campaign is to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from openmm_se3.config import from_dict, to_dict
from openmm_se3.data.labeling.labelers import is_labeler
from openmm_se3.data.level_of_theory import NAMED_LEVELS, LevelOfTheory
from openmm_se3.description import MEMBERS
from openmm_se3.files import atomic_write

LEAST_LABELS = 40
LEAST_LABELS_OF_REACTION = 60  # its path is labeled too
# Fresh frames of a round: at T and at 2 T, in a reaction those of metadynamics too.
LEAST_FRESH = 6
LEAST_LEARNED = 8  # labels of a round that are learned from at once
EXPLORE_STEPS = range(200, 2001)  # of a walker, that a time budget can choose; 1 ps
STEPS_PER_MINUTE = 40  # of a time budget
CHOICES = ("deviation", "random")
# Settings that a resumed campaign may change.
BUDGET = ("labels", "minutes", "workers")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a campaign.

    Attributes:
        molecule: A SMILES string, or the name of the copy of the input file.
        labels: Most labels of training and tests; those of the final checks are extra.
        minutes: Most minutes; None for no limit.
        temperature: Temperature T of the simulations to come, K.  Walkers go up to 2 T.
        level: Level of theory of DFT, as "method/basis" or a name of ``NAMED_LEVELS``.
        reference: A fast potential that labels instead of DFT, as
            :func:`~openmm_se3.data.labeling.labelers.labeler` takes it.
        start: What the first committee learns from: "auto", "scratch", a model, or a
            fast potential whose labels it is pretrained on.
        keep: Decay of the weights towards those that a training starts from, so that
            what ``start`` knows is not forgotten: ``initial_decay`` of
            :class:`~openmm_se3.training.config.TrainingConfig`.
        with_water: Also learn complexes of the molecule with one water molecule.
        charge: Total charge of a molecule from an XYZ or PDB file.
        bias: Collective variables of a reaction, as
            :func:`~openmm_se3.active_learning.reaction.variables.read_variables` takes
            them; walkers of metadynamics then explore too.
        metadynamics: Changes to the metadynamics, fields of
            :class:`~openmm_se3.active_learning.reaction.ranges.Metadynamics`.
        members: Networks of the committee.
        target: Wanted mean absolute force error at T, kcal/mol/A; twice as much at 2 T.
        steps: Training steps of the first round; later rounds make half as many.  None
            makes 6,000, or, where a model is fine-tuned, 100 passes over the labels.
        explore_steps: Steps of exploring dynamics, 0.5 fs each.  None chooses them.
        network: Changes to the network, as in ``model`` of a training configuration.
        choice: How a round chooses the frames that the next one learns from:
            "deviation" takes different frames on which the members disagree, "random"
            any frames of the dynamics, to compare with.
        checks: Compare torsion scans and frequencies with the reference at the end.
        seed: Seed of everything random.
        workers: Worker processes; None for one per core.
        round_labels: Labels of a round, fresh frames included.  None is a sixth of
            ``labels``, and enough for the test of a round; a campaign keeps it, so that
            a larger budget later adds rounds and changes none.
    """

    molecule: str
    labels: int = 300
    minutes: float | None = None
    temperature: float = 300.0
    level: str = "wb97x/6-31g*"
    reference: str | None = None
    start: str = "auto"
    keep: float = 0.0
    with_water: bool = False
    charge: int = 0
    bias: tuple[str, ...] = ()
    metadynamics: dict[str, Any] = dataclasses.field(default_factory=dict)
    members: int = 4
    target: float = 0.4
    steps: int | None = None
    explore_steps: int | None = None
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    choice: str = "deviation"
    checks: bool = True
    seed: int = 0
    workers: int | None = None
    round_labels: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of range or does not go with another.
        """
        whole = self.bias and self.round_labels is None
        least = LEAST_LABELS_OF_REACTION if whole else LEAST_LABELS
        if self.labels < least:
            raise ValueError(
                f"labels is {self.labels}; a committee cannot be trained and tested "
                f"with fewer than {least}{' on a reaction' if whole else ''}"
            )
        if self.minutes is not None and not self.minutes > 0.0:
            raise ValueError(
                f"minutes is {self.minutes:g}: no time to learn in; leave it out for "
                "no limit"
            )
        if not 1.0 <= self.temperature <= 3000.0:
            raise ValueError(
                f"temperature must be from 1 to 3000 K, got {self.temperature:g}"
            )
        if self.members not in MEMBERS:
            raise ValueError(
                f"members is {self.members}; a committee has {MEMBERS[0]} to "
                f"{MEMBERS[-1]}"
            )
        if not self.keep >= 0.0:
            raise ValueError(f"keep must not be negative, got {self.keep:g}")
        if not self.target > 0.0:
            raise ValueError(f"target must be positive, got {self.target:g}")
        for name in ("steps", "explore_steps", "workers", "round_labels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.choice not in CHOICES:
            raise ValueError(
                f"choice must be one of {', '.join(CHOICES)}, got {self.choice!r}"
            )
        if self.metadynamics and not self.bias:
            raise ValueError("metadynamics is given, but no bias to run it with")
        if self.bias and self.with_water:
            raise ValueError(
                "bias and with_water do not go together: a reaction is learned for the "
                "atoms of its structures; put the water molecule into them"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.reference is None:
            self.dft()
        elif not is_labeler(self.reference):
            raise ValueError(
                f"reference {self.reference!r} is no fast potential: known are "
                "aimnet2, gfn2, model:NAME, torchscript:FILE and ase:MODULE:NAME; a "
                "density functional is given with level"
            )

    def dft(self) -> LevelOfTheory:
        """Return the level of theory of DFT.

        Raises:
            ValueError: It has no basis set.
        """
        if self.level.lower() in NAMED_LEVELS:
            return NAMED_LEVELS[self.level.lower()]
        method, slash, basis = self.level.partition("/")
        if not slash or not method.strip() or not basis.strip():
            raise ValueError(
                f"level {self.level!r} must be METHOD/BASIS, such as wb97x/6-31g*, or "
                f"one of {', '.join(NAMED_LEVELS)}"
            )
        return LevelOfTheory(method.strip(), basis.strip())

    @property
    def per_round(self) -> int:
        """Labels of a round, fresh frames included."""
        least = self._least_fresh + LEAST_LEARNED
        return self.round_labels or max(least, self.labels // 6)

    @property
    def _least_fresh(self) -> int:
        return LEAST_FRESH * (3 if self.bias else 2)

    @property
    def fresh(self) -> int:
        """Fresh frames of a round."""
        least = self._least_fresh
        if self.per_round < least + LEAST_LEARNED:  # as round_labels wants it
            least = 4
        return max(least, 2 * self.per_round // 5)

    @property
    def walker_steps(self) -> int:
        """Steps of a walker."""
        if self.explore_steps is not None:
            return self.explore_steps
        least, most = EXPLORE_STEPS[0], EXPLORE_STEPS[-1]
        if self.minutes is None:
            return most
        return int(min(most, max(least, STEPS_PER_MINUTE * self.minutes)))

    def temperatures(self) -> tuple[float, float, float]:
        """Return the temperatures of the walkers, K."""
        return self.temperature, 1.5 * self.temperature, 2.0 * self.temperature

    def write(self, path: Path) -> None:
        """Write the settings as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(to_dict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read the settings of a campaign.

        Raises:
            FileNotFoundError: There is no campaign.
            ValueError: The file is damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} holds no campaign: no {path.name}")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        return from_dict(cls, values, path.name)

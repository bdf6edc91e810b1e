"""Labels of a campaign: by DFT or a fast potential, into files of its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Structure
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.dft import LabelError, check_level, label_frame
from openmm_se3.data.labeling.executors import LocalExecutor, SerialExecutor
from openmm_se3.data.labeling.failures import failures_path, read_failures
from openmm_se3.data.labeling.label import (
    check_electrons,
    journal_path,
    label,
    level_of,
)
from openmm_se3.data.labeling.labelers import labeler

MOST_FAILURES = 1.0 / 3.0  # of a batch
# Networks that label many frames at a time: no worker processes for them.
QUICK = ("aimnet2", "torchscript")
LEAST_SECONDS = 10.0  # of labels that worker processes are started for
Progress = Callable[[int, int], None]


class TooManyFailuresError(RuntimeError):
    """The reference cannot label a third of the frames."""


class Reference:
    """What labels the frames of a campaign.

    Args:
        settings: Settings of the campaign.
    """

    def __init__(self, settings: Settings) -> None:
        self.spec = settings.reference
        self.level = None if settings.reference else settings.dft()
        self.workers = settings.workers
        self.seconds = float("inf")  # of a label

    def __str__(self) -> str:
        """Name the level of theory."""
        if self.spec is not None:
            return labeler(self.spec).level
        return str(self.level)

    @property
    def parallel(self) -> int:
        """How many labels are computed at a time."""
        return 1 if self.quick else LocalExecutor(self.workers).workers

    @property
    def quick(self) -> bool:
        """Whether labels are so quick that this process computes them."""
        return (self.spec or "").partition(":")[0] in QUICK

    def check(self, systems: Sequence[System]) -> float:
        """Make sure that the systems can be labeled; return the seconds of a label.

        Labels the first structure of the largest system.

        Raises:
            ValueError: An element, functional, basis set, charge or number of electrons
                that the reference does not know, or a first label that fails.
        """
        if self.spec is not None:
            potential = labeler(self.spec)
            for system in systems:
                potential.require(system.numbers, system.charge)
        else:
            assert self.level is not None
            check_level(self.level, {int(z) for s in systems for z in s.numbers})
            check_electrons([_first(system) for system in systems], self.level)
        first = _first(max(systems, key=lambda system: len(system.numbers)))
        try:
            if self.spec is not None:
                self._label_one(first)  # loads the potential
            started = time.monotonic()
            self._label_one(first)
        except (LabelError, ArithmeticError) as error:
            raise ValueError(f"the first structure has no label: {error}") from error
        self.seconds = time.monotonic() - started
        return self.seconds

    def _label_one(self, structure: Structure) -> None:
        if self.spec is not None:
            labels = labeler(self.spec).label(
                structure.numbers[None],
                structure.positions[None],
                structure.charge or 0,
            )
            if labels.failures is not None:
                raise LabelError(str(labels.failures[0]))
            return
        assert self.level is not None
        label_frame(
            structure.numbers, structure.positions, level_of(structure, self.level)
        )

    def label(
        self,
        structures: Sequence[Structure],
        path: Path,
        progress: Progress = lambda done, total: None,
    ) -> tuple[Dataset, list[tuple[int, str]]]:
        """Label structures into a file, or read it if it is there.

        Returns:
            The labels, and (index, reason) of each structure that has none.

        Raises:
            TooManyFailuresError: More than a third have none.
        """
        if path.exists():
            journal_path(path).unlink(missing_ok=True)
            dataset = read_hdf5(path)
        elif self.spec is not None:
            serial = self.quick or self.seconds * len(structures) < LEAST_SECONDS
            executor = SerialExecutor() if serial else LocalExecutor(self.workers)
            dataset, _ = label_with(
                structures, path, self.spec, executor, progress=progress
            )
        else:
            assert self.level is not None
            pool = LocalExecutor(self.workers)
            dataset, _ = label(structures, path, self.level, pool, progress=progress)
        failures = read_failures(path)
        if len(failures) > MOST_FAILURES * len(structures):
            raise TooManyFailuresError(
                f"{len(failures)} of {len(structures)} frames have no label at {self}; "
                f"the first: {failures[0][1]}.  All reasons: {failures_path(path)}.  "
                "Finished labels are kept; another level, or another charge, helps"
            )
        return dataset, failures

    def label_round(
        self,
        campaign: Campaign,
        structures: Sequence[Structure],
        path: Path,
        progress: Progress = lambda done, total: None,
    ) -> tuple[Dataset, dict[str, Any]]:
        """Label structures into a file of the campaign, out of its budget.

        Returns:
            The labels, and the event that the journal has of them.

        Raises:
            OSError: The disk is about to be full.
            TooManyFailuresError: More than a third have none.
        """
        campaign.require_disk()
        with timed() as taken:
            dataset, failures = self.label(structures, path, progress)
        event = campaign.record(
            "labeled",
            file=path.name,
            tried=len(structures),
            frames=len(dataset.frames),
            failed=len(failures),
            **taken,
        )
        return dataset, event


def _first(system: System) -> Structure:
    return Structure(
        numbers=system.numbers,
        positions=np.asarray(system.minima[0]),
        charge=system.charge,
        spin=0,
    )

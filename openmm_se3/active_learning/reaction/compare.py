"""What the verdict has to know of a reaction: its path and its free energy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.reaction import free_energy
from openmm_se3.active_learning.reaction.path import Band
from openmm_se3.active_learning.reaction.path_check import PathCheck
from openmm_se3.active_learning.reaction.ranges import Biased, Metadynamics
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import TIME_STEP, Explored
from openmm_se3.files import atomic_write
from openmm_se3.units import FS_TO_PS

REACTION = "reaction.json"
RUN_FACTOR = 20  # steps of a free-energy run, in steps of a walker

Show = Callable[[str], None]


class Comparison:
    """The checks of a reaction in one round.

    Args:
        campaign: The folder.
        settings: Settings of the campaign.
        system: The molecule.
        variables: The collective variables.
        options: Settings of metadynamics.
        number: The round.
        show: Told what begins.
    """

    def __init__(
        self,
        campaign: Campaign,
        settings: Settings,
        system: System,
        variables: Sequence[Biased],
        options: Metadynamics,
        number: int,
        show: Show = lambda text: None,
    ) -> None:
        self.campaign, self.settings, self.system = campaign, settings, system
        self.variables, self.options = variables, options
        self.number, self.show = number, show
        self.path = PathCheck(campaign, system, variables, number, show)
        self.folder = campaign.round_folder(number)
        self.steps = options.steps or RUN_FACTOR * settings.walker_steps

    def run(
        self,
        reference: Reference,
        committee: Committee,
        explored: Explored,
        threshold: float,
    ) -> dict[str, Any]:
        """Return what was found; that of a round is computed once.

        Keys: ``path`` and ``free_energy`` (missing where there are no two minima),
        ``transfers``, ``problems`` and ``notes``.

        Args:
            reference: Labels the images of the path.
            committee: The committee of the round, which is the model.
            explored: Frames of the round.
            threshold: Deviation above which a frame is uncertain, eV/A.
        """
        path = self.folder / REACTION
        if self.campaign.find("reaction", round=self.number) is not None:
            return dict(json.loads(path.read_text()))
        found: dict[str, Any] = {"problems": [], "notes": []}
        found["variables"] = [
            {
                "name": one.variable.name,
                "unit": one.variable.unit,
                "low": round(one.low, 4),
                "high": round(one.high, 4),
                "width": round(one.width, 4),
            }
            for one in self.variables
        ]
        band = self.path.band(committee, explored)
        if band is not None:
            found["path"] = self.path.compare(band, reference)
        runs = self._free_energy(committee, threshold)
        found["free_energy"] = self._curve(runs, band)
        found["free_energy"]["uncertain"] = self._uncertain(runs)
        if band is not None:
            found["transfers"] = self._transfers(explored, band)
        self._judge(found)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(found))
        self.campaign.record("reaction", round=self.number)
        return found

    def _free_energy(
        self, committee: Committee, threshold: float
    ) -> list[free_energy.State]:
        """Return the two metadynamics runs."""
        runs = []
        for run in range(free_energy.RUNS):
            path = self.folder / f"metadynamics-{run}.npz"
            event = self.campaign.find("free energy", round=self.number, run=run)
            if event is None:
                self.show(f"free energy, run {run + 1} of {free_energy.RUNS}")
            with timed() as taken:
                state = free_energy.run_metadynamics(
                    committee,
                    self.system,
                    self.variables,
                    self.options,
                    self.settings.temperature,
                    self.steps,
                    threshold,
                    path,
                    run,
                    self.settings.seed,
                )
            if event is None:
                self.campaign.record("free energy", round=self.number, run=run, **taken)
            runs.append(state)
        return runs

    def _curve(
        self, runs: Sequence[free_energy.State], band: Band | None
    ) -> dict[str, Any]:
        """Return the mean of the curves and half their difference, kcal/mol."""
        first = self.variables[0]
        heat = self.settings.temperature
        curves = [free_energy.curve(run.free_energy, first, heat) for run in runs]
        x = curves[0][0]
        both = np.stack([energy for _, energy in curves])
        mean, error = both.mean(axis=0), np.ptp(both, axis=0) / 2.0
        found: dict[str, Any] = {
            "values": np.round(x, 4).tolist(),
            "mean": np.round(mean - mean.min(), 4).tolist(),
            "error": np.round(error, 4).tolist(),
            "picoseconds": round(self.steps * TIME_STEP * FS_TO_PS, 3),
            "stops": [run.stop for run in runs],
        }
        if band is None:
            return found
        ends = self.path.variables_of(band.positions[[0, -1]])[:, 0]
        barriers = np.array(
            [free_energy.barrier(x, energy, *map(float, ends)) for energy in both]
        )
        for column, name in enumerate(("barrier", "backward")):
            found[name] = round(float(barriers[:, column].mean()), 4)
            half = np.ptp(barriers[:, column]) / 2.0
            found[f"{name}_error"] = round(float(half), 4)
        return found

    def _uncertain(self, runs: Sequence[free_energy.State]) -> float:
        looks = sum(len(run.visited) for run in runs)
        return round(sum(run.uncertain for run in runs) / max(1, looks), 5)

    def _transfers(self, explored: Explored, band: Band) -> list[dict[str, Any]]:
        """Count the transfers in dynamics without a bias, at each temperature.

        A walker is at a minimum once its first variable is within the third of the way
        that is nearest to it.
        """
        ends = self.path.variables_of(band.positions[[0, -1]])[:, 0]
        free = ~explored.biased
        table = []
        for heat in np.unique(explored.temperature[free]):
            forward = backward = 0
            mine = free & (explored.temperature == heat)
            for walker in np.unique(explored.walker[mine]):
                rows = np.flatnonzero(explored.walker == walker)
                frames = np.stack([explored.positions[int(i)] for i in rows])
                way = (self.path.variables_of(frames)[:, 0] - ends[0]) / (
                    ends[1] - ends[0]
                )
                sides = np.where(way < 1 / 3, 0, np.where(way > 2 / 3, 1, -1))
                moves = np.diff(sides[sides >= 0])
                forward += int((moves > 0).sum())
                backward += int((moves < 0).sum())
            walkers = (explored.walker_temperatures == heat) & ~explored.walker_biased
            stops = [explored.stops[int(w)] for w in np.flatnonzero(walkers)]
            table.append(
                {
                    "temperature": float(heat),
                    "forward": forward,
                    "backward": backward,
                    "broken": stops.count("broken"),
                }
            )
        return table

    def _judge(self, found: dict[str, Any]) -> None:
        """Add what is wrong, and what is to be known."""
        problems, notes = found["problems"], found["notes"]
        if any(found["free_energy"]["stops"]):
            problems.append("a metadynamics run of the free energy broke the molecule")
        path = found.get("path")
        problems += self.path.problems(path)
        if path is None and not self.path.given:
            notes.append(
                "no second minimum was found: there is no path; give a structure of "
                "the product too"
            )
        if path is not None and path["top"] in (0, len(path["model"]) - 1):
            notes.append("the path has no barrier: its highest image is a minimum")

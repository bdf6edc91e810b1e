"""What the verdict has to know of a reaction: its path and its free energy.

The reference labels the images of the committee's path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import MODEL, Campaign, timed
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.explore import TIME_STEP, Explored
from openmm_se3.active_learning.reaction import free_energy
from openmm_se3.active_learning.reaction.path import (
    Band,
    minimum_energy_path,
    relaxed_minimum,
)
from openmm_se3.active_learning.reaction.ranges import Biased, Metadynamics
from openmm_se3.active_learning.reaction.variables import values
from openmm_se3.active_learning.reference import Reference, TooManyFailuresError
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System
from openmm_se3.data.frames import Structure
from openmm_se3.data.labeling.labelers import LabelerError
from openmm_se3.files import atomic_write
from openmm_se3.units import EV_TO_KCAL_PER_MOL, FS_TO_PS

REACTION = "reaction.json"
MOST_BARRIER_ERROR = 0.3  # kcal/mol
MOST_PATH_ERROR = 0.3  # kcal/mol, of an image, relative to the first one
RUN_FACTOR = 20  # steps of a free-energy run, in steps of a walker
CANDIDATES = 6  # structures that are relaxed in search of a second minimum
APART = 2.0  # widths between the variables of two minima

Show = Callable[[str], None]


class Comparison:
    """The checks of a reaction in one round.

    Args:
        campaign: The folder; the round's model is in it.
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
        band = self._band(explored)
        if band is not None:
            found["path"] = self._compare(band, reference)
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

    @property
    def given(self) -> bool:
        """Whether the file gave more than one minimum; conformers do not count."""
        return self.system.mol is None and len(self.system.minima) > 1

    def calculator(self) -> Any:
        """Return the ASE calculator of the campaign's model."""
        from openmm_se3.ase import SE3Calculator
        from openmm_se3.force.evaluator import Evaluator

        return SE3Calculator(Evaluator(self.campaign.folder / MODEL))

    def _band(self, explored: Explored) -> Band | None:
        """Return the model's path; None where there is no second minimum."""
        path = self.folder / "path.npz"
        event = self.campaign.find("path", round=self.number)
        if event is not None:
            return Band.load(path) if event["images"] else None
        self.show("minimum-energy path")
        with timed() as taken:
            calculator = self.calculator()
            ends = self._ends(calculator, explored)
            band = None
            if ends is not None:
                band = minimum_energy_path(calculator, self.system.numbers, *ends)
                band.save(path)
        self.campaign.record(
            "path",
            round=self.number,
            images=0 if band is None else len(band.positions),
            **taken,
        )
        return band

    def _ends(
        self, calculator: Any, explored: Explored
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return two minima of the model whose variables differ.

        They are the first and the last that were given.  If one was given only, the
        second is one that metadynamics has found.
        """
        numbers, minima = self.system.numbers, self.system.minima
        first = relaxed_minimum(calculator, numbers, minima[0])
        candidates = [minima[-1]] if self.given else []
        mine = np.flatnonzero(explored.biased)
        if not self.given and len(mine):
            frames = np.stack([explored.positions[int(i)] for i in mine])
            apart = np.abs(self._values(frames) - self._values(first[None]))
            order = np.argsort(-apart[:, 0], kind="stable")
            spread = order[: len(order) // 4 + 1]
            picked = spread[:: max(1, len(spread) // CANDIDATES)][:CANDIDATES]
            candidates = [frames[int(i)] for i in picked]
        for candidate in candidates:
            last = relaxed_minimum(calculator, numbers, candidate)
            if not self.system.intact(last[None])[0]:
                continue
            apart = np.abs(self._values(last[None]) - self._values(first[None]))[0]
            widths = np.array([one.width for one in self.variables])
            if (apart > APART * widths).any():
                return first, last
        return None

    def _values(self, positions: np.ndarray) -> np.ndarray:
        return values([one.variable for one in self.variables], positions)

    def _compare(self, band: Band, reference: Reference) -> dict[str, Any]:
        """Label the images; return the energies of both, kcal/mol."""
        name = f"checks-path-{self.number:02d}.h5"
        structures = [
            Structure(
                numbers=self.system.numbers,
                positions=image,
                trajectory=f"path-{self.number}-{index:04d}",
                kind="check",
                charge=self.system.charge,
                spin=0,
            )
            for index, image in enumerate(band.positions)
        ]
        energies: dict[str, float] = {}
        with timed() as taken, suppress(TooManyFailuresError, LabelerError):
            dataset, _ = reference.label(
                structures, self.campaign.folder / "data" / name
            )
            energies = {f.trajectory: f.energy for f in dataset.frames}
        if self.campaign.find("path labels", round=self.number) is None:
            self.campaign.record(
                "path labels", round=self.number, check_labels=len(structures), **taken
            )
        model = EV_TO_KCAL_PER_MOL * (band.energies - band.energies[0])
        found: dict[str, Any] = {
            "positions": np.round(band.positions, 5).tolist(),
            "lengths": np.round(band.lengths, 4).tolist(),
            "variables": np.round(self._values(band.positions), 4).tolist(),
            "model": np.round(model, 4).tolist(),
            "top": band.top,
            "converged": band.converged,
            "barrier": round(float(model[band.top]), 4),
            "backward": round(float(model[band.top] - model[-1]), 4),
        }
        labeled = [energies.get(s.trajectory, np.nan) for s in structures]
        if np.isfinite(labeled).all():
            theirs = EV_TO_KCAL_PER_MOL * (np.array(labeled) - labeled[0])
            found |= {
                "reference": np.round(theirs, 4).tolist(),
                "reference_barrier": round(float(theirs.max()), 4),
                "reference_backward": round(float(theirs.max() - theirs[-1]), 4),
                "worst": round(float(np.abs(model - theirs).max()), 4),
            }
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
        ends = self._values(band.positions[[0, -1]])[:, 0]
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
        ends = self._values(band.positions[[0, -1]])[:, 0]
        free = ~explored.biased
        table = []
        for heat in np.unique(explored.temperature[free]):
            forward = backward = 0
            mine = free & (explored.temperature == heat)
            for walker in np.unique(explored.walker[mine]):
                rows = np.flatnonzero(explored.walker == walker)
                frames = np.stack([explored.positions[int(i)] for i in rows])
                way = (self._values(frames)[:, 0] - ends[0]) / (ends[1] - ends[0])
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
        if path is None and self.given:
            problems.append(
                "the model has no two minima near the first and the last structure"
            )
            return
        if path is None:
            notes.append(
                "no second minimum was found: there is no path; give a structure of "
                "the product too"
            )
            return
        if not path["converged"]:
            problems.append("the minimum-energy path did not converge")
        if path["top"] in (0, len(path["model"]) - 1):
            notes.append("the path has no barrier: its highest image is a minimum")
        if "reference" not in path:
            problems.append("the reference could not label every image of the path")
            return
        error = path["barrier"] - path["reference_barrier"]
        # Written so that NaN fails.
        if not abs(error) <= MOST_BARRIER_ERROR:
            problems.append(
                f"the barrier of the reaction is {error:+.2f} kcal/mol off, more than "
                f"{MOST_BARRIER_ERROR:g}"
            )
        if not path["worst"] <= MOST_PATH_ERROR:
            problems.append(
                f"energies along the path are up to {path['worst']:.2f} kcal/mol off, "
                f"more than {MOST_PATH_ERROR:g}"
            )

"""The rounds of a campaign: train, explore, test, stop or choose, label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from openmm_se3.active_learning.budget import Budget
from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.candidates import (
    chosen_structures,
    fresh_structures,
    spare_structures,
    uncertain_shares,
)
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.exploration import explore_round
from openmm_se3.active_learning.finish import finish
from openmm_se3.active_learning.frames_of_run import take_run
from openmm_se3.active_learning.fresh_frames import (
    Fresh,
    calibration,
    errors_by_temperature,
)
from openmm_se3.active_learning.members import is_model, network_config, train_members
from openmm_se3.active_learning.pretraining import (
    PRETRAINING,
    choose_start,
    first_self_energies,
    pretrained,
    pretraining_labels,
)
from openmm_se3.active_learning.reaction.campaign import Reaction
from openmm_se3.active_learning.reaction.inputs import Inputs
from openmm_se3.active_learning.reference import Reference
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import initial_structures
from openmm_se3.active_learning.verdict import Verdict, group_name, limits, passed
from openmm_se3.active_learning.walkers import Explored
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Structure
from openmm_se3.data.self_energies import least_squares
from openmm_se3.progress import progress_bar
from openmm_se3.threads import threads_for
from openmm_se3.training.checkpoint import BEST
from openmm_se3.units import EV_TO_KCAL_PER_MOL

STOP_FACTOR = 4.0  # thresholds at which a walker stops


class Loop:
    """A campaign that runs.

    Args:
        campaign: Its folder.
        settings: Its settings.
        inputs: Its molecules, systems and collective variables.
        console: Where to report.
        from_run: Folder of a simulation whose frames are to be learned; None for none.
    """

    def __init__(
        self,
        campaign: Campaign,
        settings: Settings,
        inputs: Inputs,
        console: Console,
        from_run: Path | None = None,
    ) -> None:
        self.from_run = from_run
        self.campaign, self.settings, self.console = campaign, settings, console
        self.molecules, self.systems = inputs.molecules, inputs.systems
        self.reaction = Reaction.of(settings, inputs)
        self.reference = Reference(settings)
        started = campaign.find("started")
        if started is not None:
            self.reference.seconds = float(started["label_seconds"])
        self.model = network_config(settings, self.systems)
        self.budget = Budget(campaign, settings, self.reaction)

    @staticmethod
    def check(settings: Settings, inputs: Inputs) -> tuple[Settings, float]:
        """Refuse what cannot work; choose the start; return the seconds of a label."""
        systems = inputs.systems
        Reaction.of(settings, inputs)
        network_config(settings, systems)
        settings = dataclasses.replace(settings, start=choose_start(settings, systems))
        return settings, Reference(settings).check(systems)

    def run(self) -> Verdict:
        """Run rounds until one of them is the last, then judge."""
        # Sums of several threads differ in the last bits from run to run.
        with threads_for(1):
            return self._run()

    def _run(self) -> Verdict:
        energies = self._begin()
        number = self._next_round()
        if self.from_run is not None:
            committee = self._committee(number)
            kept = take_run(
                self.campaign, self.from_run, self.systems, committee, number
            )
            why = "" if kept else ": a bond is broken in all of them"
            text = f"{self.from_run}: {kept} frames to learn from{why}"
            self.console.print(text, markup=False)
        while True:
            self._train(number, energies)
            committee = self._committee(number)
            explored = self._explore(number, committee)
            test = self._test(number, committee, explored)
            ending = self._ending(number, test, committee, explored)
            if ending:
                break
            self._learn_from(number, explored)
            number += 1
        return finish(
            self.campaign,
            self.settings,
            self.reference,
            self.systems,
            committee,
            number,
            ending,
            self.console,
            self.reaction,
        )

    def _next_round(self) -> int:
        """Return the first round that is not finished: it has labels to train on."""
        number = 0
        while self._labeled("round", number + 1):
            number += 1
        return number

    def _labeled(self, name: str, number: int) -> bool:
        """Tell whether a file of labels of a round is complete."""
        file = self.campaign.round_file(name, number).name
        return self.campaign.find("labeled", file=file) is not None

    def _begin(self) -> dict[int, float]:
        """Label the first structures; return the self-energies of the campaign."""
        path = self.campaign.round_file("round", 0)
        if not self._labeled("round", 0):
            structures = initial_structures(
                self.molecules,
                self.systems,
                self.settings.per_round,
                self.settings.temperatures(),
                self.settings.seed,
            )
            self._label(path, structures)
        if pretrained(self.settings):
            self._pretrain()
        found = self.campaign.find("self-energies")
        if found is None:
            # One shift for each composition is all that a single molecule tells.
            frames = read_hdf5(path).frames
            energies = first_self_energies(self.campaign, self.settings, frames)
            listed = {str(z): energy for z, energy in energies.items()}
            found = self.campaign.record("self-energies", energies=listed)
        return {int(z): float(energy) for z, energy in found["energies"].items()}

    def _label(self, path: Path, structures: Sequence[Structure]) -> None:
        with progress_bar(f"labeling {path.stem}", self.console) as progress:
            _, event = self.reference.label_round(
                self.campaign, structures, path, progress
            )
        self.console.print(
            f"{path.stem}: {event['frames']} labels in {event['seconds']:.0f} s"
            + (f", {event['failed']} without" if event["failed"] else ""),
            highlight=False,
            soft_wrap=True,
        )

    def _data(self, number: int) -> list[Dataset]:
        """Return the labels that a round trains on."""
        paths = [self.campaign.round_file("round", 0)]
        for earlier in range(number):
            paths.append(self.campaign.round_file("fresh", earlier))
            if self._labeled("path", earlier):
                paths.append(self.campaign.round_file("path", earlier))
            paths.append(self.campaign.round_file("round", earlier + 1))
        return [read_hdf5(path) for path in paths]

    def _train(self, number: int, energies: dict[int, float]) -> None:
        if self.campaign.find("trained", round=number) is not None:
            return
        settings, campaign = self.settings, self.campaign
        before = number - 1

        def initial(member: int) -> str | None:
            if number > 0 or pretrained(settings):
                return str((campaign.member_folder(before, member) / BEST).resolve())
            return settings.start if is_model(settings.start) else None

        with (
            timed() as taken,
            progress_bar(f"training round {number}", self.console) as progress,
        ):
            summary = train_members(
                campaign,
                settings,
                number,
                self._data(number),
                self.model,
                energies,
                initial,
                progress,
            )
        campaign.record("trained", round=number, **summary, **taken)
        errors = ", ".join(f"{e:.2f}" for e in summary["validation_force_mae"])
        self.console.print(
            f"round {number}: {summary['steps'][0]} steps in {taken['seconds']:.0f} s, "
            f"validation force MAE of the members {errors} kcal/mol/A",
            highlight=False,
            soft_wrap=True,
        )

    def _pretrain(self) -> None:
        """Train on many labels of a fast potential."""
        if self.campaign.find("trained", round=PRETRAINING) is not None:
            return
        with timed() as taken:
            dataset = pretraining_labels(
                self.campaign, self.settings, self.molecules, self.systems
            )
            with progress_bar(
                f"pretraining on {self.settings.start}", self.console
            ) as progress:
                summary = train_members(
                    self.campaign,
                    self.settings,
                    PRETRAINING,
                    [dataset],
                    self.model,
                    least_squares(dataset.frames).energies,
                    lambda member: None,
                    progress,
                )
        self.campaign.record(
            "trained", round=PRETRAINING, frames=len(dataset.frames), **summary, **taken
        )

    def _committee(self, number: int) -> Committee:
        members = range(self.settings.members)
        return Committee.load(
            [self.campaign.member_folder(number, m) / BEST for m in members]
        )

    def _explore(self, number: int, committee: Committee) -> Explored:
        with progress_bar(f"exploring, round {number}", self.console) as progress:
            return explore_round(
                self.campaign,
                self.settings,
                self.systems,
                self.reaction,
                committee,
                number,
                STOP_FACTOR * self._threshold() / self._calibration(),
                progress,
                lambda text: self.console.print(text, highlight=False, soft_wrap=True),
            )

    def _threshold(self) -> float:
        """Return the deviation above which a frame is uncertain, eV/A."""
        return limits(self.settings).deviation / EV_TO_KCAL_PER_MOL

    def _calibration(self) -> float:
        """Return the last known ratio of errors to deviations."""
        found = self.campaign.find("tested")
        return 1.0 if found is None else float(found["calibration"])

    def _test(
        self, number: int, committee: Committee, explored: Explored
    ) -> dict[str, Any]:
        """Label fresh frames and measure the errors on them."""
        found = self.campaign.find("tested", round=number)
        if found is not None:
            return found
        path = self.campaign.round_file("fresh", number)
        if not self._labeled("fresh", number):
            left = self.budget.labels_left() - self.budget.images
            structures = fresh_structures(
                self.settings, self.systems, number, explored, left
            )
            if not structures:
                count = self.settings.fresh
                structures = self._spare(number, count, f"fresh-{number}")
            self._label(path, structures)
        low, _, high = self.settings.temperatures()
        with timed() as taken:
            fresh = Fresh.of(committee, read_hdf5(path).frames)
            fresh.save(self.campaign.round_folder(number) / "fresh.npz")
            earlier = [
                Fresh.load(self.campaign.round_folder(n) / "fresh.npz")
                for n in range(max(0, number - 1), number)
            ]
            factor = calibration([*earlier, fresh])
            biased_at = low if self.settings.bias else None
            table = errors_by_temperature(
                fresh, (low, high), self.settings.seed, biased_at
            )
        found = self.campaign.record(
            "tested",
            round=number,
            trained_on=sum(len(d.frames) for d in self._data(number)),
            errors=table,
            calibration=round(factor, 4),
            shares=uncertain_shares(explored, factor, self._threshold()),
            **taken,
        )
        for row, share in zip(table, found["shares"], strict=True):
            self.console.print(
                f"round {number}: at {group_name(row)} force MAE "
                f"{row['force_mae']:.2f} ({row['force_mae_low']:.2f} to "
                f"{row['force_mae_high']:.2f}) kcal/mol/A on {row['frames']} fresh "
                f"frames; {100 * share['above']:.1f} % of MD above the threshold",
                highlight=False,
                soft_wrap=True,
            )
        return found

    def _path_problems(
        self, number: int, committee: Committee, explored: Explored
    ) -> list[str]:
        """Label the path of a reaction; return what is wrong with it."""
        if self.reaction is None:
            return []
        problems = self.reaction.path_problems(
            self.campaign, self.reference, committee, number, explored
        )
        for problem in problems:
            self.console.print(
                f"round {number}: {problem}", highlight=False, soft_wrap=True
            )
        return problems

    def _ending(
        self,
        number: int,
        test: dict[str, Any],
        committee: Committee,
        explored: Explored,
    ) -> str:
        """Tell why the campaign ends here; "" if it does not."""
        problems = self._path_problems(number, committee, explored)
        given = self.campaign.find("given", round=number) is not None
        right = passed(self.settings, test) and not problems
        if right and number > 0 and not given:
            return "converged"
        return self.budget.used_up(number)

    def _learn_from(self, number: int, explored: Explored) -> None:
        """Label the frames that the next round learns from."""
        path = self.campaign.round_file("round", number + 1)
        known = [frame for dataset in self._data(number) for frame in dataset.frames]
        known += list(read_hdf5(self.campaign.round_file("fresh", number)).frames)
        chosen = chosen_structures(
            self.campaign, self.settings, self.systems, number, explored, known
        )
        missing = self.settings.per_round - self.settings.fresh - len(chosen)
        if missing > 0:
            chosen += self._spare(number, missing, f"chosen-{number}")
        self._label(path, chosen)

    def _spare(self, number: int, count: int, name: str) -> list[Structure]:
        return spare_structures(
            self.settings, self.molecules, self.systems, number, count, name
        )

"""The committee's path of a reaction beside the reference.

The reference labels the images of each round's path.  They say how far its barrier is
off, and the next round learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openmm_se3.active_learning.campaign import Campaign, timed
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.active_learning.minima import relaxed
from openmm_se3.active_learning.reaction.path import (
    BETWEEN,
    Band,
    minimum_energy_path,
)
from openmm_se3.active_learning.reaction.ranges import Biased
from openmm_se3.active_learning.reaction.variables import values
from openmm_se3.active_learning.reference import Reference, TooManyFailuresError
from openmm_se3.active_learning.structures import System
from openmm_se3.active_learning.walkers import Explored
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Frame, Structure
from openmm_se3.data.labeling.labelers import LabelerError
from openmm_se3.units import EV_TO_KCAL_PER_MOL

IMAGES = BETWEEN + 2  # labels of a path
MOST_BARRIER_ERROR = 0.3  # kcal/mol
MOST_PATH_ERROR = 0.3  # kcal/mol, of an image, relative to the first one
CANDIDATES = 6  # structures that are relaxed in search of a second minimum
APART = 2.0  # widths between the variables of two minima


class PathCheck:
    """The path of one round.

    Args:
        campaign: The folder.
        system: The molecule.
        variables: The collective variables.
        number: The round.
        show: Told what begins.
    """

    def __init__(
        self,
        campaign: Campaign,
        system: System,
        variables: Sequence[Biased],
        number: int,
        show: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.campaign, self.system, self.variables = campaign, system, variables
        self.number, self.show = number, show
        self.file = campaign.round_file("path", number)

    @property
    def given(self) -> bool:
        """Whether the file gave more than one minimum; conformers do not count."""
        return self.system.mol is None and len(self.system.minima) > 1

    def band(self, committee: Committee, explored: Explored) -> Band | None:
        """Return the committee's path; None where there is no second minimum.

        That of a round is computed once.

        Args:
            committee: Its mean is the model.
            explored: Frames of the round, to find a second minimum among.
        """
        path = self.campaign.round_folder(self.number) / "path.npz"
        event = self.campaign.find("path", round=self.number)
        if event is not None:
            return Band.load(path) if event["images"] else None
        self.show("minimum-energy path")
        with timed() as taken:
            ends = self.ends(committee, explored)
            band = None
            if ends is not None:
                numbers = self.system.numbers

                def mean(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                    molecules = Atoms([numbers] * len(images))
                    predicted = committee.predict(molecules, images.reshape(-1, 3))
                    forces = predicted.mean_forces.reshape(images.shape)
                    return predicted.energies.mean(axis=0), forces

                band = minimum_energy_path(mean, numbers, *ends, BETWEEN)
                band.save(path)
        images = 0 if band is None else len(band.positions)
        self.campaign.record("path", round=self.number, images=images, **taken)
        return band

    def ends(
        self, committee: Committee, explored: Explored
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return two minima of the model whose variables differ; None without.

        They are the first and the last that were given.  If one was given only, the
        second is one that metadynamics has found.

        Args:
            committee: Its mean is the model.
            explored: Frames of the round.
        """
        minima = self.system.minima
        first, _ = relaxed(committee, self.system, minima[0])
        candidates = [minima[-1]] if self.given else []
        mine = np.flatnonzero(explored.biased)
        if not self.given and len(mine):
            frames = np.stack([explored.positions[int(i)] for i in mine])
            apart = np.abs(self.variables_of(frames) - self.variables_of(first[None]))
            order = np.argsort(-apart[:, 0], kind="stable")
            spread = order[: len(order) // 4 + 1]
            picked = spread[:: max(1, len(spread) // CANDIDATES)][:CANDIDATES]
            candidates = [frames[int(i)] for i in picked]
        for candidate in candidates:
            last, _ = relaxed(committee, self.system, candidate)
            if not self.system.intact(last[None])[0]:
                continue
            both = self.variables_of(np.stack([first, last]))
            widths = np.array([one.width for one in self.variables])
            if (np.abs(both[1] - both[0]) > APART * widths).any():
                return first, last
        return None

    def variables_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the variables [n_frames, n_variables] of frames."""
        return values([one.variable for one in self.variables], positions)

    def compare(self, band: Band, reference: Reference) -> dict[str, Any]:
        """Label the images, once; return the energies of both, kcal/mol.

        Keys: ``positions``, ``lengths``, ``variables`` and ``model`` of the images,
        ``top``, ``converged``, ``barrier`` and ``backward``; if every image could be
        labeled also ``reference``, ``reference_barrier``, ``reference_backward`` and
        ``worst``, the largest difference.
        """
        model = EV_TO_KCAL_PER_MOL * (band.energies - band.energies[0])
        found: dict[str, Any] = {
            "positions": np.round(band.positions, 5).tolist(),
            "lengths": np.round(band.lengths, 4).tolist(),
            "variables": np.round(self.variables_of(band.positions), 4).tolist(),
            "model": np.round(model, 4).tolist(),
            "top": band.top,
            "converged": band.converged,
            "barrier": round(float(model[band.top]), 4),
            "backward": round(float(model[band.top] - model[-1]), 4),
        }
        labeled = self._labels(band, reference)
        if np.isfinite(labeled).all():
            theirs = EV_TO_KCAL_PER_MOL * (labeled - labeled[0])
            found |= {
                "reference": np.round(theirs, 4).tolist(),
                "reference_barrier": round(float(theirs.max()), 4),
                "reference_backward": round(float(theirs.max() - theirs[-1]), 4),
                "worst": round(float(np.abs(model - theirs).max()), 4),
            }
        return found

    def _labels(self, band: Band, reference: Reference) -> np.ndarray:
        """Return the reference's energies of the images, eV; NaN without a label."""
        structures = [
            Structure(
                numbers=self.system.numbers,
                positions=image,
                trajectory=f"path-{self.number}-{index:04d}",
                kind="path",
                charge=self.system.charge,
                spin=0,
            )
            for index, image in enumerate(band.positions)
        ]
        energies: dict[str, float] = {}
        if self.campaign.find("labeled", file=self.file.name) is not None:
            frames = read_hdf5(self.file).frames
            energies = _by_name(frames)
        elif self.campaign.find("path failed", round=self.number) is None:
            try:
                dataset, _ = reference.label_round(self.campaign, structures, self.file)
            except (TooManyFailuresError, LabelerError):
                self.campaign.record("path failed", round=self.number)
            else:
                energies = _by_name(dataset.frames)
        return np.array([energies.get(s.trajectory, np.nan) for s in structures])

    def problems(self, path: dict[str, Any] | None) -> list[str]:
        """Return what is wrong with a path.

        Args:
            path: What :meth:`compare` returned; None where there is no path.
        """
        if path is None:
            missing = (
                "the model has no two minima near the first and the last structure"
            )
            return [missing] if self.given else []
        found = []
        if not path["converged"]:
            found.append("the minimum-energy path did not converge")
        if "reference" not in path:
            return [*found, "the reference could not label every image of the path"]
        error = path["barrier"] - path["reference_barrier"]
        # Written so that NaN fails.
        if not abs(error) <= MOST_BARRIER_ERROR:
            found.append(
                f"the barrier of the reaction is {error:+.2f} kcal/mol off, more than "
                f"{MOST_BARRIER_ERROR:g}"
            )
        if not path["worst"] <= MOST_PATH_ERROR:
            found.append(
                f"energies along the path are up to {path['worst']:.2f} kcal/mol off, "
                f"more than {MOST_PATH_ERROR:g}"
            )
        return found


def _by_name(frames: Sequence[Frame]) -> dict[str, float]:
    """Return energies, eV, by trajectory, without the formula that files put before."""
    return {frame.trajectory.rpartition("/")[2]: frame.energy for frame in frames}

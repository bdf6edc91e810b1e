"""What a campaign starts from: a model, or many labels of a fast potential.

A fast potential labels thousands of frames in the time of a few DFT labels.  Members
that have learned it need only the difference to DFT from the labels of the campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.members import is_model
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System, initial_structures
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.executors import LocalExecutor, SerialExecutor
from openmm_se3.data.labeling.labelers import LabelerError, labeler
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.data.self_energies import least_squares, left_by
from openmm_se3.model_file import load_model
from openmm_se3.shipped import shipped_models
from openmm_se3.training.checkpoint import BEST

ORGANIC = "organic"  # the shipped model
PRETRAINING = -1  # number of the round before the first
STRUCTURES = 1500
QUICK = "aimnet2"


def choose_start(settings: Settings, systems: Sequence[System]) -> str:
    """Return the start of a campaign: what is asked for, or the best there is.

    A trial with a fast potential starts from scratch.  DFT starts from the shipped
    organic model, or from AIMNet2, if they know all elements.

    Raises:
        ValueError: There would be nothing to learn, or nothing to keep.
    """
    start = _choose(settings, systems)
    if settings.keep and start == "scratch":
        raise ValueError(
            f"keep is {settings.keep:g}, but the campaign starts from scratch: there "
            "is nothing to keep; give a start"
        )
    return start


def _choose(settings: Settings, systems: Sequence[System]) -> str:
    if settings.start != "auto":
        if settings.start == settings.reference:
            raise ValueError(
                f"start and reference are both {settings.start}: there would be "
                "nothing to learn; leave start out"
            )
        if Path(settings.start).exists():
            return str(Path(settings.start).resolve())  # resumed from any folder
        return settings.start
    if settings.reference is not None:
        return "scratch"
    symbols = {symbol for system in systems for symbol in system.symbols}
    neutral = not any(system.charge for system in systems)
    if ORGANIC in shipped_models() and neutral:
        if symbols <= set(load_model(ORGANIC).config.elements):
            return ORGANIC
    try:
        teacher = labeler(QUICK)
        for system in systems:
            teacher.require(system.numbers, system.charge)
    except LabelerError:
        return "scratch"
    return QUICK


def pretraining_labels(
    campaign: Campaign,
    settings: Settings,
    molecules: Sequence[Molecule],
    systems: Sequence[System],
) -> Dataset:
    """Return labels of a fast potential for many structures."""
    path = campaign.folder / "data/pretraining.h5"
    if path.exists():
        return read_hdf5(path)
    structures = initial_structures(
        molecules, systems, STRUCTURES, settings.temperatures(), settings.seed + 1
    )
    serial = settings.start == QUICK
    executor = SerialExecutor() if serial else LocalExecutor(settings.workers)
    dataset, _ = label_with(structures, path, settings.start, executor)
    return dataset


def pretrained(settings: Settings) -> bool:
    """Tell whether the members first learn from a fast potential."""
    return settings.start != "scratch" and not is_model(settings.start)


def first_self_energies(
    campaign: Campaign, settings: Settings, frames: Frames
) -> dict[int, float]:
    """Return the self-energies of a campaign (eV) by atomic number.

    They are fitted to its first labels, less what the networks that it starts from know
    of them: the first training then has no constant to learn.

    Args:
        campaign: The folder; members that are pretrained have been.
        settings: Settings of the campaign.
        frames: The first labels.
    """
    if settings.start == "scratch":
        return least_squares(frames).energies
    from openmm_se3.training.initial import InitialModel

    names = [settings.start]
    if pretrained(settings):
        members = range(settings.members)
        folders = [campaign.member_folder(PRETRAINING, m) for m in members]
        names = [str(folder / BEST) for folder in folders]
    initial = [InitialModel.load(name) for name in names]
    interaction = np.mean([each.interaction_energies(frames) for each in initial], 0)
    before = initial[0].self_energies
    return left_by(frames, interaction, before, settings.start).energies

"""What a campaign starts from: a model, or many labels of a fast potential.

A fast potential labels thousands of frames in the time of a few DFT labels.  Members
that have learned it need only the difference to DFT from the labels of the campaign.
"""

from __future__ import annotations

from collections.abc import Sequence

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System, initial_structures
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.executors import LocalExecutor, SerialExecutor
from openmm_se3.data.labeling.labelers import LabelerError, labeler
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.model_file import load_model
from openmm_se3.shipped import shipped_models

ORGANIC = "organic"  # the shipped model
STRUCTURES = 1500
QUICK = "aimnet2"


def choose_start(settings: Settings, systems: Sequence[System]) -> str:
    """Return the start of a campaign: what is asked for, or the best there is.

    A trial with a fast potential starts from scratch.  DFT starts from the shipped
    organic model, or from AIMNet2, if they know all elements.
    """
    if settings.start != "auto":
        if settings.start == settings.reference:
            raise ValueError(
                f"start and reference are both {settings.start}: there would be "
                "nothing to learn; leave start out"
            )
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
    return label_with(structures, path, settings.start, executor)

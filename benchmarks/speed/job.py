"""One measurement, and what makes its steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import openmm
from openmm import app
from sizes import VACUUM, water

from openmm_se3.benchmark.timing import Stepper, Steps
from openmm_se3.simulation.structure import make_structure

# A step of some system, and what it is: "network", "platform" and the like.
Made = tuple[Steps, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        contender: One of ``CONTENDERS``.
        atoms: Size of the water, where there is no molecule.
        threads: Threads.
        seconds: About how long a round lasts, s.
        model: Our model, by name or path.
        source: Folder of NVIDIA's files.
        molecule: SMILES of a molecule that is stepped in place of water.
        platform: OpenMM platform; empty takes the better one of a processor.
    """

    contender: str
    atoms: int
    threads: int
    seconds: float
    model: str
    source: str
    molecule: str = ""
    platform: str = ""

    def structure(self) -> tuple[app.Topology, np.ndarray]:
        """Return topology and positions [n_atoms, 3], A, the same in every process."""
        return make_structure(self.molecule) if self.molecule else water(self.atoms)


def through_openmm(
    system: openmm.System, positions: np.ndarray, network: str, platform: str = ""
) -> Made:
    """Return a step of a System in a Context of OpenMM.

    Args:
        system: The System.
        positions: Positions [n_atoms, 3], A.
        network: What it computes, in words.
        platform: As in :class:`Job`.
    """
    if not platform:
        # A few atoms give the thread pool of the CPU platform nothing to do.
        platform = "Reference" if len(positions) <= VACUUM[-1] else "CPU"
    stepper = Stepper(system, positions, platform)
    return stepper.step, {"network": network, "platform": platform}

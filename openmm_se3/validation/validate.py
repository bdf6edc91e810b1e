"""All checks of one model file in one call.

Most ask whether the code computes the network's equations, which says nothing about the
errors of the network: those are measured where labels are given or computed.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.force import SE3Potential
from openmm_se3.model_file import PRECISIONS, load_model
from openmm_se3.threads import threads_for
from openmm_se3.validation.accuracy import accuracy_checks, held_out, without_labels
from openmm_se3.validation.backends import backend_checks
from openmm_se3.validation.check import Check
from openmm_se3.validation.dynamics import drift_check, verlet_checks
from openmm_se3.validation.energies import energy_checks
from openmm_se3.validation.mixed import mixed_checks
from openmm_se3.validation.relabel import dft_of, level_of, relabel_checks
from openmm_se3.validation.report import Report
from openmm_se3.validation.structures import (
    in_both_precisions,
    pair_in_contact,
    random_cluster,
    reference_structure,
    smallest_molecule,
    structure_from_file,
)
from openmm_se3.validation.symmetry import symmetry_checks


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long and on what to check.

    Attributes:
        structure: File of a structure for dynamics; None takes molecules of the model's
            reference structure.
        steps: Steps of the comparison with Verlet, of 0.5 fs.
        drift_ps: Length of each NVE run, ps; 0 leaves the drift out.
        seed: Seed of everything random.
        labels: Files of labels, of which the model's errors are measured.
        label_options: How to read them, as fields of a ``Source``.
        max_force_error: Largest mean absolute force error on them that passes,
            kcal/mol/A; None takes that of a model without forces.
        relabel: Frames of the model's own dynamics to compare with DFT at the level of
            its labels, beside frequencies and torsions; 0 leaves that out.
    """

    structure: Path | None = None
    steps: int = 2000
    drift_ps: float = 5.0
    seed: int = 1
    labels: tuple[Path, ...] = ()
    label_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_force_error: float | None = None
    relabel: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is out of range.
        """
        if self.steps < 100:
            raise ValueError(f"steps must be at least 100, got {self.steps}")
        if self.drift_ps != 0.0 and not 0.5 <= self.drift_ps < 1e6:
            raise ValueError(f"drift_ps must be 0 or at least 0.5, got {self.drift_ps}")
        if self.relabel < 0:
            raise ValueError(f"relabel must not be negative, got {self.relabel}")


def validate(
    model: str | Path,
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Report:
    """Run every check on a model.

    Args:
        model: Name of a shipped model, or path of a model.
        settings: How long and on what to check.
        progress: Called with what comes next.

    Raises:
        ValueError: The model or the structure cannot be used.
        FileNotFoundError: There is no such file.
    """
    settings = settings or Settings()
    rng = np.random.default_rng(settings.seed)
    loaded = load_model(model)
    # What can be refused is refused before minutes of other checks.
    level = level_of(loaded.metadata) if settings.relabel else None
    frames, what = None, ""
    if settings.labels:
        from openmm_se3.data.load import Source

        options = settings.label_options
        sources = [Source(str(path), **options) for path in settings.labels]
        frames, what = held_out(loaded, sources)
    if loaded.boxes_only:
        warnings.warn(
            f"the model {loaded.metadata['name']!r} has seen periodic boxes only, and "
            "these checks are of free molecules, whose forces may be so large there "
            "that a limit is missed; that says nothing about boxes",
            stacklevel=2,
        )
    elements = loaded.config.elements
    networks = in_both_precisions(loaded)
    cluster = random_cluster(elements, rng)
    if settings.structure is None:
        reference = reference_structure(loaded.metadata["reference"])
        molecule = smallest_molecule(reference)
        structure = pair_in_contact(reference, rng)
    else:
        molecule = structure = structure_from_file(settings.structure, elements)

    checks: list[Check] = []
    with threads_for(max(len(cluster.numbers), len(structure.numbers))):
        progress("equivariance and permutation")
        checks += symmetry_checks(networks, cluster, rng)
        progress("finite differences, isolated atoms, cutoff")
        checks += energy_checks(networks, cluster, structure)
        progress("backends, platforms, precisions")
        checks += backend_checks(model, networks, [cluster, structure], rng)
        progress("mixed systems")
        checks += mixed_checks(molecule, rng)
        progress("Verlet in NumPy against OpenMM")
        double = SE3Potential(model, precision="double")
        checks += verlet_checks(double, molecule, settings.steps, rng)
        for precision in PRECISIONS if settings.drift_ps > 0.0 else ():
            progress(f"energy drift, {precision}")
            potential = SE3Potential(model, precision=precision)
            checks.append(
                drift_check(
                    potential, structure, precision, settings.drift_ps, settings.seed
                )
            )
        if settings.drift_ps == 0.0:
            checks.append(Check("drift", "NVE", None, note="left out by --drift-ps 0"))
        if frames is not None:
            progress("errors on held-out labels")
            checks += accuracy_checks(loaded, frames, what, settings.max_force_error)
        if level is not None:
            checks += relabel_checks(
                SE3Potential(model),
                molecule,
                structure,
                lambda numbers: dft_of(numbers, level),
                settings.relabel,
                settings.seed,
                progress,
            )
        if frames is None and level is None:
            checks.append(without_labels())
    return Report(str(model), loaded.metadata, tuple(checks))

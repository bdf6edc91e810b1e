"""A run on a model: of a structure file, of SMILES, or of any topology."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from openmm import app, unit
from rich.console import Console

from openmm_se3._moved import renamed_names
from openmm_se3.config import to_dict
from openmm_se3.domain import outside_domain
from openmm_se3.elements import chemical_symbol
from openmm_se3.geometry import box_of, in_angstrom
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.renamed_fields import accepts_old_names, with_old_names
from openmm_se3.simulation.ensemble import refuse_npt_without_box
from openmm_se3.simulation.folder import refuse_results
from openmm_se3.simulation.options import RunOptions
from openmm_se3.simulation.phases import RunRecord
from openmm_se3.simulation.platforms import named_platform
from openmm_se3.simulation.run import run_dynamics
from openmm_se3.simulation.structure import is_file_name, make_structure
from openmm_se3.simulation.uncertainty import (
    UncertaintyReporter,
    uncertainty_interval,
)
from openmm_se3.threads import threads_for

if TYPE_CHECKING:
    from openmm_se3 import SE3Potential

__getattr__ = renamed_names(__name__, {"ModelRun": "ModelRunOptions"})
MEMORY_SHOWN_GB = 0.1  # less is no reason to think about memory


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class ModelRunOptions(RunOptions):
    """Options of a run on a model.

    Attributes:
        model: Name of a shipped model, or the path of a model.
        backend: What calls the model: "torchforce", "pythonforce", or "auto".
        implementation: What computes the network: "compiled", "triton", "torchscript",
            or "auto".
        outside_domain: Run molecules that the model's training data do not have.
        committee: Of a committee run the mean of its members, and record how far they
            deviate; False runs the first member.
        stop_uncertainty: Stop where the deviation of the force on an atom is above
            this, eV/A; None only warns above the model's own threshold.
    """

    model: str = "water"
    backend: str = "auto"
    implementation: str = "auto"
    outside_domain: bool = False
    committee: bool = True
    stop_uncertainty: float | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value is out of its range; the message names it.
        """
        super().__post_init__()
        stop = self.stop_uncertainty
        if stop is not None and not (math.isfinite(stop) and stop > 0.0):
            raise ValueError(
                f"stop_uncertainty is {stop}; it must be a positive number"
            )


def run_structure(
    structure: str | Path,
    options: ModelRunOptions,
    console: Console | None = None,
    command: str = "",
) -> RunRecord:
    """Run molecular dynamics of a structure file, or of SMILES, on a model.

    Examples:
        >>> from openmm_se3.simulation import ModelRunOptions, run_structure
        >>> options = ModelRunOptions(ensemble="nvt", steps=20_000, out="cluster-run")
        >>> record = run_structure("cluster.pdb", options)
        >>> record.status, record.steps
        ('completed', 20000)

    Args:
        structure: PDB or PDBx/mmCIF file, in which a box makes the run periodic; SDF
            or MOL file, or SMILES, of one molecule.
        options: What to run, and the folder for the results.
        console: Shows progress there; None shows nothing.
        command: The command that repeats the run, for its report.

    Raises:
        FileNotFoundError: There is no such structure or model.
        FolderInUseError: The folder has results already, or another run writes to it.
        NotEnoughMemoryError: The model needs more memory for so many atoms than there
            is.
        ValueError: The structure, the ensemble or the platform is unfit, it holds
            molecules outside of the model's training data, or the run to resume was
            another one or is damaged.
        KeyboardInterrupt: After a signal such as Ctrl-C, with a checkpoint; the same
            call with ``resume=True`` goes on.
    """
    topology, positions = make_structure(structure)
    name = Path(structure).name if is_file_name(structure) else str(structure)
    about = {"structure": name, **({"command": command} if command else {})}
    return run_model(topology, positions, options, about, console)


def run_model(
    topology: app.Topology,
    positions: np.ndarray | unit.Quantity,
    options: ModelRunOptions,
    about: dict[str, Any] | None = None,
    console: Console | None = None,
) -> RunRecord:
    """Run molecular dynamics of a topology on a model; see :func:`run_structure`.

    Args:
        topology: Atoms, with an element each; box vectors make the run periodic.
        positions: Start [n_atoms, 3], A, or a Quantity.
        options: What to run.
        about: More facts for ``run.json``.
        console: Shows progress there; None shows nothing.
    """
    # What can be refused is refused before the model is loaded.
    if options.platform is not None:
        named_platform(options.platform)
    if not (options.overwrite or options.resume):
        refuse_results(options.out)
    from openmm_se3 import SE3Potential
    from openmm_se3.force.atoms import require_topology
    from openmm_se3.force.evaluator import require_committee

    require_topology(topology)
    positions = in_angstrom(positions)
    refuse_npt_without_box(options, topology.getPeriodicBoxVectors() is not None)
    with threads_for(len(positions)):
        potential = SE3Potential(
            options.model,
            precision=options.precision,
            backend=options.backend,
            implementation=options.implementation,
            committee=options.committee,
        )
        is_committee = potential.model.n_members > 1
        if options.stop_uncertainty is not None:
            require_committee(potential.model)
        if not options.outside_domain:
            _refuse_other_molecules(potential, topology, positions)
        needed, available = potential.estimate_memory(positions, box_of(topology))
        system = potential.createSystem(topology)
        if console is not None and needed > MEMORY_SHOWN_GB:
            text = f"Memory: about {needed:.2g} GB of {available:.3g} GB that are free"
            console.print(text, highlight=False)
        # By the names that runs of older versions were recorded with.
        shape = with_old_names("ModelConfig", to_dict(potential.config))
        network = json.dumps(shape, sort_keys=True)
        facts = {
            **(about or {}),
            "model": options.model,
            "weights_sha256": potential.metadata["weights_sha256"],
            "network_sha256": hashlib.sha256(network.encode()).hexdigest(),
            "backend": potential.backend,
            "implementation": potential.implementation,
            "level_of_theory": potential.metadata.get("level_of_theory"),
        }
        uncertainty = None
        if is_committee:
            facts["members"] = potential.model.n_members
            uncertainty = UncertaintyReporter(
                potential.committeeEvaluator(topology),
                uncertainty_interval(options.log_interval),
                stop=options.stop_uncertainty,
            )
        return run_dynamics(
            system, topology, positions, options, facts, console, uncertainty
        )


def _refuse_other_molecules(
    potential: SE3Potential, topology: app.Topology, positions: np.ndarray
) -> None:
    """Refuse molecules, found by bonds or distance, that the model was not trained on.

    Raises:
        ValueError: Names the first and the option that runs it all the same.
    """
    domain = potential.model.domain
    symbols = [
        chemical_symbol(a.element) if a.element else "" for a in topology.atoms()
    ]
    if domain is None or not set(symbols) <= set(potential.config.elements):
        return  # createSystem names the element
    given = [(first.index, second.index) for first, second, *_ in topology.bonds()]
    found = bonds_by_distance(symbols, positions, box_of(topology))
    bonds = np.concatenate([np.array(given, dtype=int).reshape(-1, 2), found])
    bonds = np.unique(np.sort(bonds, axis=1), axis=0)
    fault = outside_domain(domain, symbols, bonds, complete=True)
    if fault is not None:
        raise ValueError(
            f"outside of the training data of the model "
            f"{potential.metadata['name']!r}: {fault}; its energy and forces mean "
            "nothing there: take another model, or run it all the same with "
            "--outside-domain (ModelRunOptions(outside_domain=True))"
        )

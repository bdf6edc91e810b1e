"""Makes the forces of one potential and adds them to Systems."""

from __future__ import annotations

import openmm

from openmm_se3.force.atoms import ModelAtoms
from openmm_se3.force.backends import make_force
from openmm_se3.force.cuda_graphs import cuda_graphs_for, recorded_edges
from openmm_se3.force.evaluator import Evaluator
from openmm_se3.force.memory import expected_edges, require_memory
from openmm_se3.force.system_checks import (
    box_volume,
    refuse_unfit,
    warn_of_cut_molecules,
    warn_of_free_molecules,
    warn_of_missing_atoms,
    warn_of_other_box,
    warn_of_second_model,
)
from openmm_se3.molecules import keep_molecules
from openmm_se3.torchscript.build import ForceSettings


class ForceMaker:
    """Makes forces of a model for atoms that were checked.

    Args:
        evaluator: Has the model, its precision and what is to compute it.
        backend: "torchforce" or "pythonforce".
        room: For neighbors of an atom in a CUDA graph; None without CUDA graphs.
    """

    def __init__(self, evaluator: Evaluator, backend: str, room: int | None) -> None:
        self.evaluator = evaluator
        self.model = evaluator.model
        self.backend = backend
        self.room = room

    def add(
        self,
        system: openmm.System,
        atoms: ModelAtoms,
        group: int,
        energy: str,
        scale: str | None,
        periodic: bool,
    ) -> None:
        """Add the force to a System, which may be periodic by this force alone.

        Arguments and errors are those of :meth:`openmm_se3.SE3Potential.addForces`.
        """
        topology, indices = atoms.topology, atoms.indices
        refuse_unfit(system, indices)
        if scale is None:
            warn_of_second_model(system, indices)
        warn_of_cut_molecules(topology, indices)
        warn_of_missing_atoms(self.model, topology, indices)
        warn_of_other_box(system, topology)
        self._require_memory(len(indices), box_volume(system, atoms.box, periodic))
        force = self.force(atoms, group, energy, scale, periodic)
        system.addForce(force)
        if force.usesPeriodicBoundaryConditions():
            keep_molecules(system, topology, indices, group)
        else:
            warn_of_free_molecules(self.model)

    def _require_memory(self, n_atoms: int, volume: float | None) -> None:
        """Refuse atoms that, spread evenly in a box, need more memory than there is."""
        n_edges = recorded_edges(self.room, n_atoms, volume is not None)
        if volume is not None:
            evenly = expected_edges(n_atoms, volume, self.model.config.cutoff)
            n_edges = max(n_edges, evenly)
        if n_edges:
            require_memory(
                self.evaluator.network,
                self.evaluator.implementation,
                self.evaluator.precision,
                n_atoms,
                n_edges,
            )

    def force(
        self,
        atoms: ModelAtoms,
        group: int,
        energy: str,
        scale: str | None,
        periodic: bool,
    ) -> openmm.Force:
        """Return the force; see :meth:`openmm_se3.SE3Potential.makeForce`."""
        if isinstance(group, bool) or group not in range(32):
            raise ValueError(f"forceGroup must be 0 to 31, got {group!r}")
        group = int(group)
        force = make_force(self.backend, self.settings(atoms, energy, scale, periodic))
        force.setForceGroup(group)
        return force

    def settings(
        self, atoms: ModelAtoms, energy: str, scale: str | None, periodic: bool
    ) -> ForceSettings:
        """Return what decides a force; see :meth:`force`."""
        if energy not in ("interaction", "total"):
            raise ValueError(f"energy must be 'interaction' or 'total', got {energy!r}")
        if scale is not None and not (isinstance(scale, str) and scale.isidentifier()):
            raise ValueError(
                "scale is the name of a global parameter, such as 'lambda_ml', whose "
                f"value context.setParameter changes; got {scale!r}"
            )
        is_periodic = periodic or atoms.box is not None
        offset = 0.0
        if energy == "total":
            elements = self.model.config.elements
            own = self.model.metadata["self_energies"]
            offset = sum(own[elements[species]] for species in atoms.species)
        return ForceSettings(
            model=self.model,
            precision=self.evaluator.precision,
            species=tuple(atoms.species),
            atoms=tuple(atoms.indices),
            n_particles=atoms.n_particles,
            periodic=is_periodic,
            offset=offset,
            implementation=self.evaluator.asked,
            scale=scale,
            cuda_graphs=cuda_graphs_for(
                self.room,
                atoms.box,
                len(atoms.indices),
                is_periodic,
                self.evaluator.implementation,
            ),
        )

"""SE3Potential: a model as a force in OpenMM Systems."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
from openmm import app

from openmm_se3._moved import renamed_argument
from openmm_se3.deviation import Deviation
from openmm_se3.force.atoms import (
    atom_indices,
    free_molecule,
    require_topology,
    species_of,
)
from openmm_se3.force.backends import make_force, resolve
from openmm_se3.force.cuda_graphs import (
    cuda_graphs_for,
    fit_for_cuda_graphs,
    recorded_edges,
)
from openmm_se3.force.evaluator import Evaluator
from openmm_se3.force.memory import count_edges, expected_edges, require_memory
from openmm_se3.force.mixed import without_internal_terms
from openmm_se3.force.register import register_plugins
from openmm_se3.force.remaining import require_nothing_inside
from openmm_se3.force.system_checks import (
    box_volume,
    refuse_unfit,
    warn_of_cut_molecules,
    warn_of_free_molecules,
    warn_of_missing_atoms,
    warn_of_other_box,
    warn_of_second_model,
)
from openmm_se3.force.uncertainty import CommitteeEvaluator
from openmm_se3.model_file import PRECISIONS, load_model
from openmm_se3.molecules import keep_molecules
from openmm_se3.neighbors import default_room
from openmm_se3.single_point import force_disagreement
from openmm_se3.torchscript.build import ForceSettings
from openmm_se3.torchscript.engine import compile_engine

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


class SE3Potential:
    """A trained SE(3)-Transformer that can be added to OpenMM Systems.

    Examples:
        >>> potential = SE3Potential("water")
        >>> system = potential.createSystem(pdb.topology)

    Args:
        model: Name of a shipped model, a model folder, or a ``model.pt``.
        precision: "single" or "double" precision of the network.
        backend: "torchforce", "pythonforce", or "auto": TorchForce where the plugin
            works, else PythonForce with a warning.
        engine: What computes the network: "compiled", C++ compiled for the CPU of this
            machine at first use; "triton", kernels compiled for its NVIDIA GPU at first
            use; "torchscript", which runs anywhere; or "auto": Triton where it serves
            the GPU, compiled where that works and there is no GPU, else TorchScript.
        cudaGraphs: Record a step as a CUDA graph; needs Triton, or TorchForce on
            platform CUDA, TorchScript and up to 1,000 atoms.
        committee: Of a committee run the mean of its members; False runs the first.
        neighbors: With ``cudaGraphs``, in a box or for more than 64 atoms: room for so
            many neighbors of an atom.  One with more gives an error, on a GPU energy
            and forces that are NaN.  None has room for 0.15 atoms an A^3, half as many
            again as water has.

    Attributes:
        config: Shape of the network.
        metadata: Description of the model: elements, cutoff, level of theory,
            self-energies, errors as measured, and so on.
        backend: The backend in use.
        engine: The engine in use: "compiled", "triton" or "torchscript".
        evaluator: Computes energy, forces and stress without OpenMM.

    Raises:
        CompileError: The engine asked for does not work here.
        FileNotFoundError: There is no such model.
        ModelFileError: The file is not one of ours, or damaged.
        PluginError: The backend asked for does not work here.
        ValueError: Unknown precision, backend or engine, or one that CUDA graphs do not
            work with.
    """

    @renamed_argument("neighbours", "neighbors")
    def __init__(
        self,
        model: str | Path = "water",
        *,
        precision: str = "single",
        backend: str = "auto",
        engine: str = "auto",
        cudaGraphs: bool = False,  # noqa: N803
        neighbors: int | None = None,
        committee: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {list(PRECISIONS)}, got {precision!r}"
            )
        self.precision = precision
        if cudaGraphs:
            backend, engine = fit_for_cuda_graphs(backend, engine, neighbors)
        elif neighbors is not None:
            raise ValueError("neighbors is what cudaGraphs=True has room for")
        register_plugins()
        self.backend = resolve(backend)
        self.model = load_model(model)
        if self.model.n_members > 1 and not committee:
            self.model = self.model.member(0)
        # Forces keep what was asked for: another machine may open them.
        self._asked_engine = engine
        self.engine = compile_engine(engine, self.model.config, precision)
        self.config = self.model.config
        self.metadata = self.model.metadata
        # For neighbors of an atom in a CUDA graph.
        self._room: int | None = None
        if cudaGraphs:
            self._room = neighbors or default_room(self.config.cutoff)
        self._network = self.model.network(PRECISIONS[precision])
        self.evaluator = Evaluator(
            self.model, self._network, precision, engine, self.engine
        )
        if self.config.force_mode == "direct":
            warnings.warn(
                f"energy is not conserved: the model '{self.metadata['name']}' has "
                "direct forces, which are not the slope of its energy, so that a "
                "molecule without a thermostat heats up or cools down; for dynamics "
                "train with force_mode: conservative or both",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        """Say which model this is, and what computes it."""
        return (
            f"SE3Potential({self.metadata['name']!r}, precision={self.precision!r}, "
            f"backend={self.backend!r}, engine={self.engine!r}), "
            f"elements {', '.join(self.config.elements)}"
        )

    def createSystem(  # noqa: N802
        self,
        topology: app.Topology,
        *,
        energy: str = "interaction",
        scale: str | None = None,
        removeCMMotion: bool = False,  # noqa: N803
    ) -> openmm.System:
        """Return a System whose only interactions are this potential.

        Args:
            topology: The atoms, with an element each; box vectors make it periodic.
            energy: "interaction", relative to isolated atoms, or "total", as DFT
                gives it.
            scale: As for :meth:`addForces`.
            removeCMMotion: Add a CMMotionRemover.

        Raises:
            NotEnoughMemoryError: As for :meth:`addForces`.
            TypeError: The topology is none.
            ValueError: The topology is empty or holds atoms that the model does not
                know.
        """
        require_topology(topology)
        system = openmm.System()
        species_of(self.model, topology, list(range(topology.getNumAtoms())))
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        vectors = topology.getPeriodicBoxVectors()
        if vectors is not None:
            system.setDefaultPeriodicBoxVectors(*vectors)
        self.addForces(system, topology, energy=energy, scale=scale)
        if removeCMMotion:
            system.addForce(openmm.CMMotionRemover())
        return system

    def addForces(  # noqa: N802
        self,
        system: openmm.System,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None = None,
        forceGroup: int = 0,  # noqa: N803
        *,
        energy: str = "interaction",
        scale: str | None = None,
    ) -> None:
        """Add this potential to an existing System.

        Nothing is removed from the System: forces that describe the same atoms twice
        are the caller's to take out.  Atoms that have an SE3Potential already are
        warned of, unless ``scale`` says that their energies are mixed.

        In a box, the topology's bonds between the model's atoms are added as bonds
        without strength.  OpenMM finds molecules by bonds: without them a barostat
        would scale, and a trajectory would wrap, every atom alone.

        In a box the memory is estimated for atoms that fill it evenly; without one it
        depends on the positions, see :meth:`memory`.

        Args:
            system: The System; changed in place.
            topology: Its topology.
            atoms: The atoms the model acts on: their indices in any order, atoms of the
                topology, or a mask with a boolean for each atom; None for all.
            forceGroup: Force group, 0 to 31.
            energy: "interaction", relative to isolated atoms, or "total", as DFT
                gives it.
            scale: Name of a global parameter of the Context, such as "lambda_ml", that
                multiplies this energy and its forces; it starts as 1.  States hold the
                energy's derivative by it.

        Raises:
            NotEnoughMemoryError: So many atoms in such a box need more memory than
                there is.
            TypeError: The topology is none.
            ValueError: Topology and System differ in size, atoms are out of range,
                given twice, constrained, virtual sites or of unknown elements, or an
                argument is not one of its choices.
        """
        chosen = self._chosen(system, topology, atoms)
        periodic = system.usesPeriodicBoundaryConditions()
        self._add(system, topology, chosen, forceGroup, energy, scale, periodic)

    def _chosen(
        self,
        system: openmm.System,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None,
    ) -> list[int]:
        """Return the model's atoms as indices, which topology and System both have."""
        require_topology(topology)
        n_particles = system.getNumParticles()
        if topology.getNumAtoms() != n_particles:
            raise ValueError(
                f"the topology has {topology.getNumAtoms()} atoms, the System "
                f"{n_particles} particles: they must be the same"
            )
        chosen = atom_indices(atoms, n_particles)
        species_of(self.model, topology, chosen)
        return chosen

    def _add(
        self,
        system: openmm.System,
        topology: app.Topology,
        chosen: list[int],
        forceGroup: int,  # noqa: N803
        energy: str,
        scale: str | None,
        periodic: bool,
    ) -> None:
        """Add the force to a System, which may be periodic by this force alone."""
        refuse_unfit(system, chosen)
        if scale is None:
            warn_of_second_model(system, chosen)
        warn_of_cut_molecules(topology, chosen)
        warn_of_missing_atoms(self.model, topology, chosen)
        warn_of_other_box(system, topology)
        volume = box_volume(system, topology, periodic)
        n_edges = recorded_edges(self._room, len(chosen), volume is not None)
        if volume is not None:
            evenly = expected_edges(len(chosen), volume, self.config.cutoff)
            n_edges = max(n_edges, evenly)
        if n_edges:
            self._require_memory(len(chosen), n_edges)
        force = self.makeForce(
            topology,
            chosen,
            forceGroup,
            energy=energy,
            scale=scale,
            periodic=periodic,
        )
        system.addForce(force)
        if force.usesPeriodicBoundaryConditions():
            keep_molecules(system, topology, chosen, forceGroup)
        else:
            warn_of_free_molecules(self.model)

    def createMixedSystem(  # noqa: N802
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int | bool | app.topology.Atom],
        forceGroup: int = 0,  # noqa: N803
        *,
        energy: str = "interaction",
        scale: str | None = None,
        restraints: Collection[str] | None = None,
    ) -> openmm.System:
        """Return a System whose chosen atoms this potential describes, the rest not.

        Inside the chosen atoms, and the virtual sites built on them, nothing acts but
        this potential: bonded terms and constraints are removed, and nonbonded forces
        act between them and the rest, and in the rest, only.  That holds for the
        periodic images of their charges and for their share of a dispersion correction
        too, and is checked on random structures.  Masses that were changed for longer
        steps stay changed.

        Biases stay: centroid, external and RMSD forces, collective variables.  For a
        mixture of both descriptions see openmm-ml's
        ``createMixedSystem(..., interpolate=True)``.

        Args:
            topology: Topology of the whole System.
            system: A System of a classical force field for it; not changed.
            atoms: The atoms the model acts on, as for :meth:`addForces`.
            forceGroup: Force group of this potential, 0 to 31.
            energy: "interaction" or "total", as for :meth:`addForces`.
            scale: As for :meth:`addForces`.
            restraints: Names of the forces whose bonded terms between chosen atoms are
                restraints and stay; those of others are removed.  None refuses terms
                that may be either: those of custom forces, and those between atoms that
                are not joined by bonds of the topology.

        Raises:
            TypeError: The topology is none.
            ValueError: As for :meth:`addForces`; a chosen atom is constrained to one
                that is not chosen; a virtual site depends on atoms of both kinds; a
                classical force cannot be taken out; or it may be a restraint.
        """
        chosen = self._chosen(system, topology, atoms)
        bonds = [(first.index, second.index) for first, second, *_ in topology.bonds()]
        mixed = without_internal_terms(system, chosen, bonds, restraints)
        require_nothing_inside(mixed, chosen, restraints)
        periodic = system.usesPeriodicBoundaryConditions()
        self._add(mixed, topology, chosen, forceGroup, energy, scale, periodic)
        return mixed

    def makeForce(  # noqa: N802
        self,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None = None,
        forceGroup: int = 0,  # noqa: N803
        *,
        energy: str = "interaction",
        scale: str | None = None,
        periodic: bool = False,
    ) -> openmm.Force:
        """Return this potential as a force for a System with the topology's atoms.

        For what adds forces to Systems itself; otherwise use :meth:`addForces`, which
        also looks whether the System is fit.

        Args:
            topology: Topology of the whole System.
            atoms: The atoms the model acts on, as for :meth:`addForces`.
            forceGroup: Force group, 0 to 31.
            energy: "interaction" or "total", as for :meth:`addForces`.
            scale: As for :meth:`addForces`.
            periodic: The System is periodic, also where the topology has no box.

        Raises:
            TypeError: The topology is none.
            ValueError: Atoms are out of range, given twice or of unknown elements, or
                an argument is not one of its choices.
        """
        require_topology(topology)
        if not 0 <= forceGroup <= 31:
            raise ValueError(f"forceGroup must be 0 to 31, got {forceGroup}")
        settings = self._settings(topology, atoms, energy, scale, periodic)
        force = make_force(self.backend, settings)
        force.setForceGroup(forceGroup)
        return force

    def _settings(
        self,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None,
        energy: str,
        scale: str | None,
        periodic: bool,
    ) -> ForceSettings:
        """Return what decides a force; arguments are those of :meth:`makeForce`."""
        if energy not in ("interaction", "total"):
            raise ValueError(f"energy must be 'interaction' or 'total', got {energy!r}")
        if scale is not None and not (isinstance(scale, str) and scale.isidentifier()):
            raise ValueError(
                "scale is the name of a global parameter, such as 'lambda_ml', whose "
                f"value context.setParameter changes; got {scale!r}"
            )
        n_particles = topology.getNumAtoms()
        chosen = atom_indices(atoms, n_particles)
        species = species_of(self.model, topology, chosen)
        is_periodic = periodic or topology.getPeriodicBoxVectors() is not None
        offset = 0.0
        if energy == "total":
            offset = sum(
                self.metadata["self_energies"][self.config.elements[s]] for s in species
            )
        return ForceSettings(
            model=self.model,
            precision=self.precision,
            species=tuple(species),
            atoms=tuple(chosen),
            n_particles=n_particles,
            periodic=is_periodic,
            offset=offset,
            engine=self._asked_engine,
            scale=scale,
            cuda_graphs=cuda_graphs_for(
                self._room, topology, len(chosen), is_periodic, self.engine
            ),
        )

    def committeeEvaluator(  # noqa: N802
        self,
        topology: app.Topology,
        atoms: Iterable[int | bool | app.topology.Atom] | None = None,
        *,
        periodic: bool = False,
    ) -> CommitteeEvaluator:
        """Return what computes the deviation of a committee's members in a System.

        Args:
            topology: Topology of the whole System.
            atoms: The atoms the model acts on, as for :meth:`addForces`.
            periodic: The System is periodic, also where the topology has no box.

        Raises:
            TypeError: The topology is none.
            ValueError: The model is no committee, or atoms are out of range, given
                twice or of unknown elements.
        """
        require_topology(topology)
        return CommitteeEvaluator(
            self._settings(topology, atoms, "interaction", None, periodic)
        )

    def memory(
        self, positions: np.ndarray, box: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Return the memory that energy and forces need, by estimate, and that is left.

        Args:
            positions: Positions of the model's atoms [n_atoms, 3], A.
            box: Box vectors as rows [3, 3], A; None without a box.

        Returns:
            Both in GB.

        Raises:
            NotEnoughMemoryError: There is less than is needed.
        """
        cutoff = self.config.cutoff
        if box is not None:
            volume = abs(float(np.linalg.det(box)))
            # The edges themselves may be too many to be counted.
            expected = expected_edges(len(positions), volume, cutoff)
            self._require_memory(len(positions), expected)
        n_edges = max(
            count_edges(positions, box, cutoff),
            recorded_edges(self._room, len(positions), box is not None),
        )
        return self._require_memory(len(positions), n_edges)

    def _require_memory(self, n_atoms: int, n_edges: int) -> tuple[float, float]:
        return require_memory(
            self._network, self.engine, self.precision, n_atoms, n_edges
        )

    def energy_and_forces(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Return energy and forces of a molecule or of a periodic box.

        The engine in use computes them; with TorchScript that is the network itself.

        Args:
            numbers: Atomic numbers [n_atoms].
            positions: Positions [n_atoms, 3], A (or a Quantity).
            box: Box vectors as rows [3, 3], A; None without a box.

        Returns:
            Energy relative to isolated atoms, eV, and forces [n_atoms, 3], eV/A.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            ValueError: Unknown elements, wrong shape, or positions that are not finite.
        """
        return self.evaluator(*free_molecule(self.model, numbers, positions), box)

    def force_uncertainty(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the deviation of the members' forces on each atom, of a committee.

        Args:
            numbers: Atomic numbers [n_atoms].
            positions: Positions [n_atoms, 3], A (or a Quantity).
            box: Box vectors as rows [3, 3], A; None without a box.

        Returns:
            Deviations [n_atoms], eV/A, see :mod:`openmm_se3.deviation`.

        Raises:
            ValueError: The model is no committee, or as for :meth:`energy_and_forces`.
        """
        return self.deviation(numbers, positions, box).forces_std

    def deviation(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> Deviation:
        """Return mean and deviation of energy and forces, of a committee.

        Arguments and errors are those of :meth:`force_uncertainty`.
        """
        atoms = free_molecule(self.model, numbers, positions)
        return self.evaluator.deviation(*atoms, box)

    def force_error(self, numbers: Any, positions: Any) -> np.ndarray:
        """Return an estimate of the force error of each atom of a free molecule.

        It is the length of the difference between the conservative forces, which OpenMM
        gets, and the direct ones that the same network predicts.  What it is worth is
        in the model's errors as ``estimate_correlation``.

        Args:
            numbers: Atomic numbers [n_atoms].
            positions: Positions [n_atoms, 3], A (or a Quantity).

        Returns:
            Lengths [n_atoms], eV/A.

        Raises:
            ValueError: The model has conservative or direct forces only, or as for
                :meth:`energy_and_forces`.
        """
        if self.config.force_mode != "both":
            raise ValueError(
                f"the model '{self.metadata['name']}' has {self.config.force_mode} "
                "forces only: an estimate of their error needs one that was trained "
                "with force_mode: both"
            )
        return force_disagreement(
            self._network, *free_molecule(self.model, numbers, positions)
        )

    def ase_calculator(self) -> Calculator:
        """Return an ASE calculator over this potential.

        Raises:
            ImportError: ASE is not installed.
        """
        try:
            from openmm_se3.ase import SE3Calculator
        except ModuleNotFoundError as error:
            raise ImportError(f'{error}; fix: pip install "openmm-se3[ase]"') from error

        return SE3Calculator(self)

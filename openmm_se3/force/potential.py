"""SE3Potential: a model as a force in OpenMM Systems."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
from openmm import app

from openmm_se3._moved import renamed_argument, renamed_attribute
from openmm_se3.deviation import Deviation
from openmm_se3.force.atoms import ModelAtoms
from openmm_se3.force.backends import resolve
from openmm_se3.force.cuda_graphs import fit_for_cuda_graphs, recorded_edges
from openmm_se3.force.evaluator import Evaluator
from openmm_se3.force.force_maker import ForceMaker
from openmm_se3.force.mixed import without_internal_terms
from openmm_se3.force.register import register_plugins
from openmm_se3.force.remaining import require_nothing_inside
from openmm_se3.force.system_checks import refuse_second_model
from openmm_se3.force.uncertainty import CommitteeEvaluator
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import default_room

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
        implementation: What computes the network: "compiled", C++ compiled for the CPU
            of this machine at first use; "triton", kernels compiled for its NVIDIA GPU
            at first use; "torchscript", which runs anywhere; or "auto": Triton where it
            serves the GPU, compiled where that works and there is no GPU, else
            TorchScript.
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
        evaluator: Energy, forces, stress and uncertainty without OpenMM, see
            :class:`openmm_se3.force.evaluator.Evaluator`.

    Raises:
        CompileError: The implementation asked for does not work here.
        FileNotFoundError: There is no such model.
        ModelFileError: The file is not one of ours, or damaged.
        PluginError: The backend asked for does not work here.
        ValueError: Unknown precision, backend or implementation, or one that CUDA
            graphs do not work with.
    """

    engine = renamed_attribute("SE3Potential.engine", "implementation")
    memory = renamed_attribute("SE3Potential.memory", "estimate_memory")
    force_error = renamed_attribute("SE3Potential.force_error", "force_disagreement")

    @renamed_argument("neighbours", "neighbors")
    @renamed_argument("engine", "implementation")
    def __init__(
        self,
        model: str | Path = "water",
        *,
        precision: str = "single",
        backend: str = "auto",
        implementation: str = "auto",
        cudaGraphs: bool = False,  # noqa: N803
        neighbors: int | None = None,
        committee: bool = True,
    ) -> None:
        if cudaGraphs:
            backend, implementation = fit_for_cuda_graphs(
                backend, implementation, neighbors
            )
        elif neighbors is not None:
            raise ValueError("neighbors is what cudaGraphs=True has room for")
        register_plugins()
        self.backend = resolve(backend)
        self.model = load_model(model)
        if self.model.n_members > 1 and not committee:
            self.model = self.model.member(0)
        self.evaluator = Evaluator(
            self.model, precision=precision, implementation=implementation
        )
        self.precision = precision
        self.config = self.model.config
        self.metadata = self.model.metadata
        room = (neighbors or default_room(self.config.cutoff)) if cudaGraphs else None
        self._maker = ForceMaker(self.evaluator, self.backend, room)
        if self.config.force_mode == "direct":
            warnings.warn(
                f"energy is not conserved: the model '{self.metadata['name']}' has "
                "direct forces, which are not the slope of its energy, so that a "
                "molecule without a thermostat heats up or cools down; for dynamics "
                "train with force_mode: conservative or both",
                stacklevel=2,
            )

    @property
    def implementation(self) -> str:
        """The implementation in use: "compiled", "triton" or "torchscript".

        TorchScript, from when the chosen one has failed.  With PythonForce that shows
        at the first step.
        """
        return self.evaluator.implementation

    def __repr__(self) -> str:
        """Say which model this is, and what computes it."""
        return (
            f"SE3Potential({self.metadata['name']!r}, precision={self.precision!r}, "
            f"backend={self.backend!r}, implementation={self.implementation!r}), "
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
        atoms = ModelAtoms.of(self.model, topology)
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        vectors = topology.getPeriodicBoxVectors()
        if vectors is not None:
            system.setDefaultPeriodicBoxVectors(*vectors)
        self._maker.add(system, atoms, 0, energy, scale, periodic=False)
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
        depends on the positions, see :meth:`estimate_memory`.

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
        chosen = ModelAtoms.of(self.model, topology, atoms, system.getNumParticles())
        periodic = system.usesPeriodicBoundaryConditions()
        self._maker.add(system, chosen, forceGroup, energy, scale, periodic)

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
            ValueError: As for :meth:`addForces`; a potential of this kind acts on a
                chosen atom already; a chosen atom is constrained to one
                that is not chosen; a virtual site depends on atoms of both kinds; a
                classical force cannot be taken out; or it may be a restraint.
        """
        chosen = ModelAtoms.of(self.model, topology, atoms, system.getNumParticles())
        refuse_second_model(system, chosen.indices)
        bonds = [(first.index, second.index) for first, second, *_ in topology.bonds()]
        mixed = without_internal_terms(system, chosen.indices, bonds, restraints)
        require_nothing_inside(mixed, chosen.indices, restraints)
        periodic = system.usesPeriodicBoundaryConditions()
        self._maker.add(mixed, chosen, forceGroup, energy, scale, periodic)
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
        chosen = ModelAtoms.of(self.model, topology, atoms)
        return self._maker.force(chosen, forceGroup, energy, scale, periodic)

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
        chosen = ModelAtoms.of(self.model, topology, atoms)
        return CommitteeEvaluator(
            self._maker.settings(chosen, "interaction", None, periodic)
        )

    def energy_and_forces(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        """Return :meth:`Evaluator.energy_and_forces` of a molecule or of a box."""
        return self.evaluator.energy_and_forces(numbers, positions, box)

    def force_uncertainty(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> np.ndarray:
        """Return :meth:`Evaluator.force_uncertainty`, of a committee."""
        return self.evaluator.force_uncertainty(numbers, positions, box)

    def deviation(
        self, numbers: Any, positions: Any, box: np.ndarray | None = None
    ) -> Deviation:
        """Return :meth:`Evaluator.deviation`, of a committee."""
        return self.evaluator.deviation(numbers, positions, box)

    def force_disagreement(self, numbers: Any, positions: Any) -> np.ndarray:
        """Return :meth:`Evaluator.force_disagreement`."""
        return self.evaluator.force_disagreement(numbers, positions)

    def estimate_memory(
        self, positions: np.ndarray, box: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Return :meth:`Evaluator.estimate_memory`, CUDA graphs included."""
        edges = recorded_edges(self._maker.room, len(positions), box is not None)
        return self.evaluator.estimate_memory(positions, box, edges=edges)

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

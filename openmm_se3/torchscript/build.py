"""The TorchScript module of one force: a model, its atoms, a box or none."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openmm_se3.compiled.cache import warn_once
from openmm_se3.compiled.force import compiled_force
from openmm_se3.implementation import (
    choose_implementation,
    compile_implementation,
    is_required,
)
from openmm_se3.malloc import keep_freed_memory
from openmm_se3.model_file import PRECISIONS, ModelFile
from openmm_se3.neighbors import (
    Capacity,
    default_room,
    fixed_pairs,
    neighbor_pairs,
)
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.renamed_fields import with_new_names
from openmm_se3.single_point import DENSE_ATOMS
from openmm_se3.threads import threads_for
from openmm_se3.torch_state import require_torchscript, scripted, usual_torch
from openmm_se3.torchscript.modules import (
    GenericForce,
    ScaledForce,
    ScaledPeriodicForce,
    specialize,
)
from openmm_se3.torchscript.self_check import (
    CALLS,
    ExportError,
    positions_in_box,
    random_positions,
    require_equal,
)
from openmm_se3.triton.force import triton_force
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

# A module for any number of atoms is compared with the network on at most so many.
CHECKED_ATOMS = 24
# A recorded module with so many edges and more is compared in fewer calls.
MANY_EDGES, FEW_CALLS = 4_000, 4


# Implementations that failed here: hash of the weights, precision and implementation.
# They are not tried again for the next System.
_failed: set[tuple[str, str, str]] = set()


@dataclasses.dataclass(frozen=True)
class CUDAGraphs:
    """What a force needs to know for CUDA graphs.

    Attributes:
        neighbors: Room for so many neighbors of an atom.
        box: Box vectors as rows, A; None without a box.
    """

    neighbors: int
    box: tuple[tuple[float, float, float], ...] | None


def takes_all_pairs(n_atoms: int, periodic: bool) -> bool:
    """Tell whether TorchScript takes all pairs of atoms instead of a neighbor list."""
    return not periodic and n_atoms <= DENSE_ATOMS


@dataclasses.dataclass(frozen=True)
class ForceSettings:
    """Everything that decides what one force computes.

    Attributes:
        model: The model.
        precision: "single" or "double", of the network; energies are always summed in
            float64.
        species: Index of each atom's element in the model's elements [n_atoms].
        atoms: Particle of the System that each atom is [n_atoms].
        n_particles: Particles of the System.
        periodic: The System has a box.
        offset: Added to the energy, eV.
        implementation: "compiled", "triton", "torchscript", or "auto": Triton where it
            serves the GPU, compiled where that works and there is no GPU, else
            TorchScript.
        scale: Name of the global parameter that multiplies energy and forces; None for
            none.
        cuda_graphs: Let TorchForce record the force as a CUDA graph; None for not.
    """

    model: ModelFile
    precision: str
    species: tuple[int, ...]
    atoms: tuple[int, ...]
    n_particles: int
    periodic: bool
    offset: float
    implementation: str = "auto"
    scale: str | None = None
    cuda_graphs: CUDAGraphs | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was pickled, in the XML of an older version for example."""
        vars(self).update(with_new_names("ForceSettings", state))

    @property
    def static(self) -> bool:
        """Tell whether the force is recorded for exactly these atoms, all pairs."""
        return takes_all_pairs(len(self.atoms), self.periodic)


def build_module(settings: ForceSettings) -> torch.jit.ScriptModule:
    """Return the module of a force, compared with the network it was made from.

    Raises:
        CompileError: It is to be compiled, and that does not work here.
        ExportError: The module does not reproduce the network.
        RuntimeError: TorchScript is turned off.
        ValueError: There is too little room for neighbors.
    """
    require_torchscript()
    with usual_torch():
        module = _triton_module(settings) or compiled_module(settings)
        module = module or _torchscript_module(settings)
        if settings.scale is None:
            return module
        wrapper = ScaledPeriodicForce if settings.periodic else ScaledForce
        return scripted(wrapper(module))


def in_use(implementation: str, model: ModelFile, precision: str) -> str:
    """Return the implementation in use: TorchScript where the chosen one has failed.

    Args:
        implementation: The chosen one.
        model: The model.
        precision: "single" or "double".
    """
    key = (model.metadata["weights_sha256"], precision, implementation)
    return "torchscript" if key in _failed else implementation


def _has_failed(settings: ForceSettings, implementation: str) -> bool:
    return in_use(implementation, settings.model, settings.precision) != implementation


def _note_failure(settings: ForceSettings, implementation: str) -> None:
    digest = settings.model.metadata["weights_sha256"]
    _failed.add((digest, settings.precision, implementation))


def compiled_module(settings: ForceSettings) -> torch.jit.ScriptModule | None:
    """Return a compiled module, or None where TorchScript is to be used.

    Raises:
        CompileError: It is to be compiled, and that does not work here.
        ExportError: It is to be compiled, and does not reproduce the network.
    """
    implementation, config = settings.implementation, settings.model.config
    required = is_required(implementation, "compiled")
    if not required and _has_failed(settings, "compiled"):
        return None
    if compile_implementation(implementation, config, settings.precision) != "compiled":
        if choose_implementation(implementation, config) == "compiled":
            _note_failure(settings, "compiled")
        return None
    network = settings.model.network(torch.float64)
    try:
        module = compiled_force(network, settings.precision)
        return _for_atoms(module, network, settings)
    except ExportError as error:
        if required:
            raise
        _note_failure(settings, "compiled")
        warn_once(f"{error}; going on with TorchScript, which is slower")
        return None


def _torchscript_module(settings: ForceSettings) -> torch.jit.ScriptModule:
    """Return a module of TorchScript: recorded for its atoms, or for any.

    Raises:
        ExportError: It does not reproduce the network.
        ValueError: There is too little room for neighbors.
    """
    keep_freed_memory()
    network = settings.model.network(PRECISIONS[settings.precision])
    if settings.static or settings.cuda_graphs is not None:
        with threads_for(len(settings.atoms)):
            return _recorded_module(network, settings)
    return _for_atoms(scripted(GenericForce(network)), network, settings)


def _triton_module(settings: ForceSettings) -> torch.jit.ScriptModule | None:
    """Return a module of Triton's kernels, or None where they are not used or fail.

    Raises:
        CompileError: They are to be used, and do not serve this network here.
        Exception: They are to be used, and fail.
    """
    implementation, config = settings.implementation, settings.model.config
    # Only chosen at first: C++ is compiled where it is used.
    if choose_implementation(implementation, config) != "triton":
        return None
    required = is_required(implementation, "triton")
    if not required and _has_failed(settings, "triton"):
        return None
    compile_implementation(implementation, config, settings.precision)
    network = settings.model.network(torch.float64)
    try:
        module = triton_force(network, settings.precision, _room(settings))
        return _for_atoms(module, network, settings)
    except Exception as error:  # of Triton, its compiler, the driver, or the comparison
        if required:
            raise
        _note_failure(settings, "triton")
        warn_once(f"{error}; going on with TorchScript, which is slower")
        return None


def _room(settings: ForceSettings) -> int:
    """Return the neighbors that an atom has room for in a list of fixed length."""
    graphs = settings.cuda_graphs
    room = default_room(settings.model.config.cutoff)
    room = room if graphs is None else graphs.neighbors
    return room if settings.periodic else min(room, max(len(settings.atoms) - 1, 1))


def _few_atoms(settings: ForceSettings) -> ForceSettings:
    """Return settings for the first atoms, alone in a System without a box."""
    few = min(len(settings.species), CHECKED_ATOMS)
    return dataclasses.replace(
        settings,
        species=settings.species[:few],
        atoms=tuple(range(few)),
        n_particles=few,
        periodic=False,
    )


def _recorded_module(
    network: SE3Transformer, settings: ForceSettings
) -> torch.jit.ScriptModule:
    species, atoms = torch.tensor(settings.species), torch.tensor(settings.atoms)
    cutoff, n_atoms = network.config.cutoff, len(atoms)
    graphs = settings.cuda_graphs
    own, box, capacity, calls = random_positions(n_atoms, cutoff), None, None, CALLS
    if graphs is not None and not settings.static:
        cell = None
        if graphs.box is not None:
            cell = torch.tensor(graphs.box, dtype=torch.float64)
            box = cell / NM_TO_ANGSTROM
            own = positions_in_box(n_atoms, box)
        capacity = Capacity.of(n_atoms, cutoff, cell, graphs.neighbors)
        _require_room(NM_TO_ANGSTROM * own, cutoff, cell, capacity)
        if n_atoms * capacity.neighbors >= MANY_EDGES:
            calls = FEW_CALLS
    example = torch.zeros(settings.n_particles, 3, dtype=torch.float64)
    example[atoms] = own
    module = specialize(
        network,
        species,
        atoms,
        settings.n_particles,
        settings.offset,
        example,
        box,
        capacity,
    )
    eager = eager_force(network, settings)
    found, expected = (
        f if box is None else partial(f, box=box) for f in (module, eager)
    )
    require_equal(found, expected, example, settings.precision, calls)
    return module


def _require_room(
    positions: Tensor, cutoff: float, cell: Tensor | None, capacity: Capacity
) -> None:
    """Refuse a capacity that does not suffice for atoms that are spread evenly.

    Raises:
        ValueError: It does not.
    """
    most = int(fixed_pairs(positions, cutoff, cell, capacity)[1][0])
    if most > capacity.neighbors:
        raise ValueError(
            f"atoms spread evenly have up to {most} neighbors within the cutoff, and "
            f"there is room for {capacity.neighbors}: give SE3Potential a larger "
            f"neighbors, such as {most + most // 4}"
        )


def _for_atoms(
    module: torch.jit.ScriptModule, network: SE3Transformer, settings: ForceSettings
) -> torch.jit.ScriptModule:
    """Return a module for any atoms, told its own once it has proved itself on few."""
    few = _few_atoms(settings)
    _set_atoms(module, few)
    example = random_positions(few.n_particles, few.model.config.cutoff)
    with threads_for(few.n_particles):
        require_equal(module, eager_force(network, few), example, few.precision, CALLS)
    _set_atoms(module, settings)
    return module


def _set_atoms(module: torch.jit.ScriptModule, settings: ForceSettings) -> None:
    module.set_atoms(
        torch.tensor(settings.species), torch.tensor(settings.atoms), settings.offset
    )


class eager_force:  # noqa: N801  (used like a function)
    """The same force computed by the network itself, the slow and certain way.

    Args:
        network: The network, in evaluation mode.
        settings: What to compute.
    """

    def __init__(self, network: SE3Transformer, settings: ForceSettings) -> None:
        self.field = ForceField(network)
        self.settings = settings
        self.species = torch.tensor(settings.species)
        self.atoms = torch.tensor(settings.atoms)

    def __call__(
        self, positions: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy [1] (kJ/mol) and forces [n_particles, 3] (kJ/mol/nm).

        Args:
            positions: Positions of all particles [n_particles, 3], nm.
            box: Box vectors as rows [3, 3], nm; None without a box.
        """
        x = positions.detach()[self.atoms] * NM_TO_ANGSTROM
        cell = None if box is None else box * NM_TO_ANGSTROM
        edges = neighbor_pairs(x, self.field.network.config.cutoff, cell)
        energy, forces = self.field(x, self.species, edges)
        result = torch.zeros_like(positions.detach())
        result[self.atoms] = forces.to(result.dtype) * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
        energy = (energy + self.settings.offset) * EV_TO_KJ_PER_MOL
        return energy.to(positions.dtype), result

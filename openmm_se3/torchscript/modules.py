"""TorchScript modules that OpenMM calls, in OpenMM's units.

TorchForce hands over all positions of the System [n_particles, 3] in nm (float64 on the
Reference and CPU platforms, float32 on GPUs), and the box vectors as rows [3, 3] if the
force is periodic.  It reads back the energy in kJ/mol and the forces [n_particles, 3]
in kJ/mol/nm through raw pointers: they must be contiguous and in the positions'
precision.

Two modules do the same:

* :class:`GenericForce`, scripted: any number of atoms, a box or none, edges from a
  cell list.  It is what ``model.pt`` holds.
* :func:`specialize`: given atoms, energy and forces recorded as one graph of tensor
  operations of fixed shapes, without autograd or Python at run time: of all pairs of a
  few atoms, for which it is several times faster, or of as many neighbors as there is
  room for, for CUDA graphs.

:class:`ScaledForce` multiplies either by a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from openmm_se3.neighbors import Capacity, Edges, all_pairs, fixed_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import recording, scripted
from openmm_se3.torchscript.graph_passes import simplify
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

# Operations of the norm nonlinearity (2.9) whose arguments TorchScript cannot record.
TAKEN_APART = [
    torch.ops.aten.native_layer_norm,
    torch.ops.aten.native_layer_norm_backward,
]


class GenericForce(nn.Module):
    """A network as OpenMM calls it; species are set when a System is made.

    Args:
        network: The network, in evaluation mode.
    """

    def __init__(self, network: SE3Transformer) -> None:
        super().__init__()
        import vesin_torch  # noqa: F401  (registers torch.classes.vesin)

        self.force_field = ForceField(network)
        self.length = NM_TO_ANGSTROM
        self.energy = EV_TO_KJ_PER_MOL
        self.force = EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
        # A^3 for an atom; in less, the list of neighbors would fill the memory.
        self.room = 4.0 / 3.0 * math.pi * network.config.cutoff**3 / 10_000.0
        # Cutoff, both directions of a pair, sorted, algorithm, skin, threads (0 = all).
        self.neighbor_list = torch.classes.vesin._NeighborList(
            network.config.cutoff, True, True, "auto", 0.0, 0
        )
        nothing = torch.zeros(0, dtype=torch.int64)
        self.register_buffer("species", nothing)
        self.register_buffer("atoms", nothing)
        self.register_buffer("offset", torch.zeros(1, dtype=torch.float64))

    @torch.jit.export
    def set_atoms(self, species: Tensor, atoms: Tensor, offset: float) -> None:
        """Say which particles of the System the force acts on.

        Args:
            species: Index of each atom's element in the model's elements [n_atoms].
            atoms: Particle of the System that each atom is [n_atoms].
            offset: Added to the energy, eV.
        """
        self.species = species
        self.atoms = atoms
        self.offset = torch.full([1], offset, dtype=torch.float64)

    def forward(
        self, positions: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy [1], kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

        Args:
            positions: Positions of all particles [n_particles, 3], nm.
            box: Box vectors as rows [3, 3], nm; None without a box.
        """
        if self.species.shape[0] == 0:
            raise RuntimeError(
                "this model does not know its atoms: call set_atoms, or make a file "
                "for one topology with 'openmm-se3 export --topology'"
            )
        if not self.force_field.network.direct:
            require_gradients()
        require_precision(positions)
        x = positions.detach().index_select(0, self.atoms) * self.length
        points = x.to(torch.float64)
        if box is None:
            cell = torch.zeros(3, 3, dtype=torch.float64, device=x.device)
        else:
            cell = box.detach().to(torch.float64) * self.length
            least = self.room * self.atoms.shape[0]
            if not cell.is_cuda and float(cell.diagonal().prod()) < least:
                raise RuntimeError(
                    "the box has collapsed: each atom would have more than 10,000 "
                    "neighbors within the cutoff"
                )
        periodic = torch.tensor(box is not None)
        center, neighbor, images = self.neighbor_list.compute(
            points, cell, periodic, "ijS", True
        )
        shifts = (images.to(torch.float64) @ cell).to(x.dtype)
        edges = Edges(center, neighbor, shifts, "list")
        energy, forces = self.force_field(x, self.species, edges)
        # Not recorded, like the network's result: TorchScript drops a detach when it
        # freezes a module, and a parameter's derivative must not go into the network.
        with torch.no_grad():
            result = torch.zeros_like(positions)
            forces = (self.force * forces).to(result.dtype)
            result = result.index_add(0, self.atoms, forces)
            energy = (self.energy * (energy + self.offset)).to(positions.dtype)
        require_finite(energy)
        return energy, result


def specialize(
    network: SE3Transformer,
    species: Tensor,
    atoms: Tensor,
    n_particles: int,
    offset: float,
    example: Tensor,
    box: Tensor | None = None,
    capacity: Capacity | None = None,
) -> torch.jit.ScriptModule:
    """Return a module for given atoms, of static shapes.

    The forward and backward passes of the network are recorded as one list of tensor
    operations, in which everything that does not depend on positions is a constant.

    Args:
        network: The network, in evaluation mode.
        species: Index of each atom's element in the model's elements [n_atoms].
        atoms: Particle of the System that each atom is [n_atoms].
        n_particles: Particles of the System.
        offset: Added to the energy, eV.
        example: Positions [n_particles, 3], nm, float64; atoms must not coincide.
        box: With a capacity: box vectors as rows [3, 3], nm, float64; None without a
            box.
        capacity: Room for edges; None for all pairs, without a box.
    """
    n_atoms = len(species)
    everything = bool(torch.equal(atoms, torch.arange(n_particles)))
    field, pairs = ForceField(network), all_pairs(n_atoms)

    def chosen(positions: Tensor) -> Tensor:
        own = positions if everything else positions.index_select(0, atoms)
        return own * NM_TO_ANGSTROM

    def results(
        energy: Tensor, forces: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        forces = (EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM * forces).to(positions.dtype)
        if not everything:
            forces = torch.zeros_like(positions).index_add(0, atoms, forces)
        energy = EV_TO_KJ_PER_MOL * (energy + offset)
        return energy.to(positions.dtype), forces.contiguous()

    def of_all_pairs(positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = field(chosen(positions), species, pairs)
        return results(energy, forces, positions)

    if capacity is None:
        graph = _recorded(of_all_pairs, example.detach())
        return scripted(WithoutGradients(graph, n_particles))
    room, cutoff = capacity.neighbors, network.config.cutoff

    def of_neighbors(positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = chosen(positions)
        lattice = None if box is None else cell * NM_TO_ANGSTROM
        edges, needed = fixed_pairs(x, cutoff, lattice, capacity)
        energy, forces = field(x, species, edges)
        # Wrong numbers are none, also on a GPU, where nobody looks at what is needed.
        enough = (needed[0] <= room) & (needed[1] <= 1.0)
        energy, forces = (torch.where(enough, r, math.nan) for r in (energy, forces))
        return *results(energy, forces, positions), needed

    unused = torch.eye(3, dtype=torch.float64)
    cell = unused if box is None else box.detach()
    graph = _recorded(of_neighbors, example.detach(), cell)
    return scripted(WithinCapacity(graph, n_particles, room))


def _recorded(
    function: Callable[..., tuple[Tensor, ...]], *example: Tensor
) -> torch.jit.ScriptModule:
    """Return a function of tensors as a graph of tensor operations."""
    table: Any = get_decompositions(TAKEN_APART)
    # Of this mode are the shapes that make_fx notes.  Without it make_fx makes a mode
    # for every operation, which takes longer than all the rest.
    shapes = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    # Anomaly mode would put its own checks into the backward pass that is recorded.
    with recording(), torch.autograd.set_detect_anomaly(False):
        with tracing(shapes):
            graph = make_fx(function, table)(*example)
        simplify(graph, *example)
        with torch.no_grad():
            return torch.jit.trace(graph.eval(), example, check_trace=False)


class WithoutGradients(nn.Module):
    """Calls a graph without recording anything for autograd, in its own precision.

    TorchForce hands over positions that require gradients, and TorchScript drops a
    ``detach`` when it freezes a module; without this every operation would be recorded.
    Conversions in the graph itself are those of the example that it was recorded with.

    Args:
        graph: The graph.
        n_particles: Particles that it was recorded with; those after them feel nothing.
    """

    def __init__(self, graph: torch.jit.ScriptModule, n_particles: int) -> None:
        super().__init__()
        self.graph = graph
        self.n_particles = n_particles

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces for positions [n_particles, 3]."""
        with torch.no_grad():
            require_precision(positions)
            known = positions[: self.n_particles]
            energy, forces = self.graph(known.to(torch.float64))
            require_finite(energy)
            return energy.to(positions.dtype), for_all(forces, positions)


class WithinCapacity(nn.Module):
    """:class:`WithoutGradients` for a graph that has room for so many neighbors.

    Args:
        graph: Returns, beside energy and forces, what :func:`fixed_pairs` needs.
        n_particles: Particles that it was recorded with; those after them feel nothing.
        room: Neighbors of an atom that there is room for.
    """

    def __init__(
        self, graph: torch.jit.ScriptModule, n_particles: int, room: int
    ) -> None:
        super().__init__()
        self.graph = graph
        self.n_particles = n_particles
        self.room = room

    def forward(
        self, positions: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy and forces for positions [n_particles, 3] and a box [3, 3]."""
        with torch.no_grad():
            require_precision(positions)
            x = positions[: self.n_particles].to(torch.float64)
            cell = x.new_zeros((3, 3)) if box is None else box.to(x.dtype)
            energy, forces, needed = self.graph(x, cell)
            if not needed.is_cuda:
                most, searched = int(needed[0]), float(needed[1])
                if most > self.room:
                    raise RuntimeError(
                        f"an atom has {most} neighbors within the cutoff, and there "
                        f"is room for {self.room}: give SE3Potential "
                        f"neighbors={most + most // 8}, or leave out cudaGraphs"
                    )
                if searched > 1.0:
                    raise RuntimeError(
                        "the box has become so small that neighbors are missed: make "
                        "the System anew from a box of this size, or leave out "
                        "cudaGraphs"
                    )
            require_finite(energy)
            return energy.to(positions.dtype), for_all(forces, positions)


def for_all(forces: Tensor, positions: Tensor) -> Tensor:
    """Return forces [n_particles, 3] of the particles that OpenMM has now.

    The plugin reads as many rows as there are particles, whatever a module returns.

    Args:
        forces: Forces of the first particles [n, 3].
        positions: Positions of all particles [n_particles, 3].
    """
    forces = forces.to(positions.dtype)
    more = positions.shape[0] - forces.shape[0]
    if more == 0:
        return forces
    return torch.cat([forces, forces.new_zeros((more, 3))])


def require_gradients() -> None:
    """Refuse to run where the program around OpenMM has turned gradients off.

    Raises:
        RuntimeError: Names the cause and the fix.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "torch.no_grad() or torch.inference_mode() is in force where OpenMM calls "
            "the model, whose forces are gradients: leave it before the simulation "
            "steps, or use backend='pythonforce'"
        )


def require_precision(positions: Tensor) -> None:
    """Refuse to run where the program around OpenMM has ``torch.autocast`` on.

    TorchScript cannot ask, and autocast sits below it: a product tells.

    Args:
        positions: Positions, of which one number is multiplied with itself.

    Raises:
        RuntimeError: Names the cause and the fix.
    """
    number = positions.detach()[:1, :1].to(torch.float32)
    if torch.mm(number, number).dtype != torch.float32:
        raise RuntimeError(
            "torch.autocast is in force where OpenMM calls the model, whose forces "
            "would lose precision: leave it before the simulation steps"
        )


def require_finite(energy: Tensor) -> None:
    """Refuse an energy that is not finite, which OpenMM would go on with.

    Not on a GPU, where waiting for the number would rule out CUDA graphs.

    Raises:
        RuntimeError: The energy is NaN or infinite.
    """
    if not energy.is_cuda and not math.isfinite(float(energy)):
        raise RuntimeError(
            "the model's energy is NaN or infinite: a position or the box is no number"
        )


class ScaledForce(nn.Module):
    """A module times a global parameter of OpenMM's Context.

    OpenMM hands over the parameter as a tensor of no or of one dimension, in float32 or
    float64, by platform.  Only the product is recorded for autograd, so that the
    derivative with respect to the parameter needs no second evaluation.

    Args:
        module: A module of this file.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, positions: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return energy and forces for positions [n_particles, 3]."""
        return scaled(self.module(positions), scale)


class ScaledPeriodicForce(nn.Module):
    """:class:`ScaledForce` with a box, after which OpenMM puts the parameter."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, positions: Tensor, box: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return energy and forces for positions [n_particles, 3] and a box [3, 3]."""
        return scaled(self.module(positions, box), scale)


def scaled(result: tuple[Tensor, Tensor], scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return energy and forces times a parameter, the energy differentiable by it."""
    energy, forces = result
    require_gradients()
    with torch.no_grad():
        forces = forces * scale.to(forces.dtype)
    return energy * scale.to(energy.dtype), forces

"""The network's kernels as OpenMM calls them on an NVIDIA GPU."""

from __future__ import annotations

import functools
import json
import math

import torch
from torch import Tensor, nn

from openmm_se3.compiled import weights as processor_pack
from openmm_se3.compiled.weights import radial_tables
from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.model_file import PRECISIONS
from openmm_se3.nn.committee import members_of
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import scripted
from openmm_se3.triton import kernels
from openmm_se3.triton.network import Network
from openmm_se3.triton.pack import Weights, constants
from openmm_se3.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

# Intervals of the tables of radial functions: what they change is below the rounding of
# the precision.  Fewer than on processors: neighbors that follow each other by distance
# then read the same numbers.
TABLE_INTERVALS = {"single": 128, "double": 3072}

LIBRARY = torch.library.Library("openmm_se3_triton", "DEF")
LIBRARY.define(
    "energy_and_forces(Tensor positions, Tensor box, Tensor species, Tensor atoms, "
    "Tensor offset, Tensor weights, Tensor tables, Tensor constants, str shape, "
    "int room, float length, float unit) -> (Tensor, Tensor)"
)
LIBRARY.define("on_gpu(Tensor tensor, Tensor positions) -> Tensor")


@functools.cache
def _network(shape: str) -> Network:
    return Network(from_dict(ModelConfig, json.loads(shape), "model"))


@torch.library.impl(LIBRARY, "energy_and_forces", "CompositeExplicitAutograd")
def energy_and_forces(
    positions: Tensor,
    box: Tensor,
    species: Tensor,
    atoms: Tensor,
    offset: Tensor,
    weights: Tensor,
    tables: Tensor,
    constants: Tensor,
    shape: str,
    room: int,
    length: float,
    unit: float,
) -> tuple[Tensor, Tensor]:
    """Return energy [1] and forces of the particles [n_particles, 3].

    Tensors that are elsewhere are copied to the GPU, and results to where the positions
    are.  The box is empty where there is none, ``shape`` the network's configuration as
    JSON; other arguments are those of
    :meth:`openmm_se3.triton.network.Network.energy_and_forces`.
    """
    if len(species) == 0 or len(atoms) != len(species):
        raise RuntimeError(
            "this model does not know its atoms: call set_atoms with a species for each"
        )
    device = kernels.device_for(positions)
    there = positions.detach().to(device).contiguous()
    cell = box.detach().to(device).contiguous() if box.numel() else None
    species, atoms, offset = (t.to(device) for t in (species, atoms, offset))
    weights, tables = weights.to(device), tables.to(device)
    with torch.no_grad(), kernels.current(device):
        energy, forces = _network(shape).energy_and_forces(
            there,
            cell,
            species,
            atoms,
            offset,
            weights,
            tables,
            constants.to(device),
            room,
            length,
            unit,
        )
    if not positions.is_cuda:  # somebody waits for the numbers
        energy, forces = energy.to(positions.device), forces.to(positions.device)
        require_numbers(energy, room)
    return energy, forces


def require_numbers(energy: Tensor, room: int) -> None:
    """Refuse an energy that is not finite.

    Raises:
        RuntimeError: Names the causes and the fixes.
    """
    if not math.isfinite(float(energy)):
        raise RuntimeError(
            "the model's energy is NaN or infinite: a position or the box is no "
            "number, the box has collapsed, or an atom has more neighbors within the "
            f"cutoff than the {room} that there is room for; in the last case give "
            f"SE3Potential neighbors={2 * room} with cudaGraphs=True, or "
            "implementation='torchscript'"
        )


@torch.library.impl(LIBRARY, "on_gpu", "CompositeExplicitAutograd")
def on_gpu(tensor: Tensor, positions: Tensor) -> Tensor:
    """Return a tensor on the GPU that computes for these positions."""
    return tensor.detach().to(kernels.device_for(positions)).clone()


@torch.library.register_fake(  # type: ignore[untyped-decorator]
    "openmm_se3_triton::on_gpu"
)
def _copy(tensor: Tensor, positions: Tensor) -> Tensor:
    return torch.empty_like(tensor, device=positions.device)


@torch.library.register_fake(  # type: ignore[untyped-decorator]
    "openmm_se3_triton::energy_and_forces"
)
def _shapes(positions: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return positions.new_empty(1), torch.empty_like(positions)


def triton_force(
    network: SE3Transformer, precision: str, room: int
) -> torch.jit.ScriptModule:
    """Return a module that OpenMM can call once it has been told its atoms.

    Its methods are those of :class:`openmm_se3.torchscript.modules.GenericForce`.

    Args:
        network: The network or committee, in float64 and evaluation mode.
        precision: "single" or "double".
        room: Neighbors that an atom has room for.
    """
    return scripted(TritonForce(network, precision, room))


class TritonForce(nn.Module):
    """See :func:`triton_force`."""

    def __init__(self, network: SE3Transformer, precision: str, room: int) -> None:
        super().__init__()
        dtype = PRECISIONS[precision]
        members = members_of(network)
        # Members have the same radial basis, whose functions are fixed.
        tables = processor_pack.RadialTables(members[0], TABLE_INTERVALS[precision])
        integers = torch.zeros(0, dtype=torch.int64)
        numbers = torch.zeros(0, dtype=torch.float64)
        # Attributes, not buffers, which OpenMM would move with what is made of them.
        # Those of each member [n_members, n].
        weights = [Weights.of(member).flat() for member in members]
        self.weights = torch.stack(weights).to(dtype)
        self.constants = torch.stack([constants(member) for member in members])
        self.species, self.atoms, self.offset = integers, integers, numbers
        self.basis, self.polynomial = tables.basis, tables.polynomial
        self.radial = [
            [weight.detach() for weight in processor_pack.radial_weights(member)]
            for member in members
        ]
        # On the GPU, made where they are first needed: tables are many times as large
        # as what they are made of, and OpenMM reads a System's XML slowly.
        self.tables = torch.zeros(0, dtype=dtype)
        self.own_species, self.own_atoms = integers.clone(), integers.clone()
        self.own_offset, self.own_constants = numbers.clone(), numbers.clone()
        self.own_weights = self.tables.clone()
        self.no_box = numbers
        self.shape = json.dumps(to_dict(network.config))
        self.room = room
        self.length = NM_TO_ANGSTROM
        self.energy = EV_TO_KJ_PER_MOL

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
        # Not to be written to a file.
        self.tables = torch.zeros(0, dtype=self.tables.dtype)
        self.own_species, self.own_atoms = species[:0].clone(), species[:0].clone()
        self.own_offset = self.offset[:0].clone()
        self.own_constants = self.offset[:0].clone()
        self.own_weights = self.tables.clone()

    def forward(
        self, positions: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy [1], kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

        Args:
            positions: Positions of all particles [n_particles, 3], nm.
            box: Box vectors as rows [3, 3], nm; None without a box.
        """
        if self.tables.shape[0] == 0:
            of_members = [
                radial_tables(self.basis, self.polynomial, radial)
                for radial in self.radial
            ]
            tables = torch.stack(of_members).to(self.weights.dtype)
            self.tables = torch.ops.openmm_se3_triton.on_gpu(tables, positions)
            self.own_species = torch.ops.openmm_se3_triton.on_gpu(
                self.species, positions
            )
            self.own_atoms = torch.ops.openmm_se3_triton.on_gpu(self.atoms, positions)
            self.own_offset = torch.ops.openmm_se3_triton.on_gpu(self.offset, positions)
            self.own_weights = torch.ops.openmm_se3_triton.on_gpu(
                self.weights, positions
            )
            self.own_constants = torch.ops.openmm_se3_triton.on_gpu(
                self.constants, positions
            )
        # TorchForce hands over positions that require gradients.
        with torch.no_grad():
            energy, forces = torch.ops.openmm_se3_triton.energy_and_forces(
                positions,
                self.no_box if box is None else box,
                self.own_species,
                self.own_atoms,
                self.own_offset,
                self.own_weights,
                self.tables,
                self.own_constants,
                self.shape,
                self.room,
                self.length,
                self.energy,
            )
        return energy, forces

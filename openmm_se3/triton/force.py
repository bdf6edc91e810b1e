"""The network's kernels as OpenMM calls them on an NVIDIA GPU."""

from __future__ import annotations

import functools
import json

import torch
from torch import Tensor, nn

from openmm_se3.compiled import pack as processor_pack
from openmm_se3.compiled.pack import radial_tables
from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.modelfile import PRECISIONS
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
    return energy.to(positions.device), forces.to(positions.device)


@torch.library.register_fake(  # type: ignore[untyped-decorator]
    "openmm_se3_triton::energy_and_forces"
)
def _shapes(positions: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return positions.new_empty(1), torch.empty_like(positions)


def triton_force(
    network: SE3Transformer, precision: str, room: int
) -> torch.jit.ScriptModule:
    """Return a module that OpenMM can call once it has been told its atoms.

    Its methods are those of :class:`openmm_se3.export.modules.GenericForce`.

    Args:
        network: The network, in float64 and evaluation mode.
        precision: "single" or "double".
        room: Neighbors that an atom has room for.
    """
    return torch.jit.script(TritonForce(network, precision, room).eval())


class TritonForce(nn.Module):
    """See :func:`triton_force`."""

    weights: Tensor
    constants: Tensor

    def __init__(self, network: SE3Transformer, precision: str, room: int) -> None:
        super().__init__()
        dtype = PRECISIONS[precision]
        tables = processor_pack.RadialTables(network, TABLE_INTERVALS[precision])
        nothing = torch.zeros(0, dtype=torch.int64)
        self.register_buffer("weights", Weights.of(network).flat().to(dtype))
        self.register_buffer("constants", constants(network))
        self.register_buffer("species", nothing)
        self.register_buffer("atoms", nothing)
        self.register_buffer("offset", torch.zeros(1, dtype=torch.float64))
        # Tables are made where they are first needed: they are many times as large as
        # what they are made of, and OpenMM reads a System's XML slowly.
        self.basis, self.polynomial = tables.basis, tables.polynomial
        self.radial = [w.detach() for w in processor_pack.radial_weights(network)]
        self.tables = torch.zeros(0, dtype=dtype)
        self.no_box = torch.zeros(0, dtype=torch.float64)
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
        self.tables = self.tables[:0].clone()  # not to be written to a file

    def forward(
        self, positions: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energy [1], kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

        Args:
            positions: Positions of all particles [n_particles, 3], nm.
            box: Box vectors as rows [3, 3], nm; None without a box.
        """
        if self.tables.shape[0] == 0:
            tables = radial_tables(self.basis, self.polynomial, self.radial)
            self.tables = tables.to(self.weights.device, self.weights.dtype)
        energy, forces = torch.ops.openmm_se3_triton.energy_and_forces(
            positions,
            self.no_box if box is None else box,
            self.species,
            self.atoms,
            self.offset,
            self.weights,
            self.tables,
            self.constants,
            self.shape,
            self.room,
            self.length,
            self.energy,
        )
        return energy, forces

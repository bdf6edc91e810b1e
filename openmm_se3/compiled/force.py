"""The compiled network as OpenMM calls it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_se3.compiled import pack
from openmm_se3.compiled.library import load_library
from openmm_se3.compiled.pack import radial_tables
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.modelfile import PRECISIONS
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

# Intervals of the tables of radial functions: what they change is below the rounding of
# the precision.
TABLE_INTERVALS = {"single": 256, "double": 3072}


def compiled_force(network: SE3Transformer, precision: str) -> torch.jit.ScriptModule:
    """Return a module that OpenMM can call once it has been told its atoms.

    Its methods are those of :class:`openmm_se3.export.modules.GenericForce`.  It
    computes on the CPU; positions on another device are copied there and back.

    Args:
        network: The network, in float64 and evaluation mode.
        precision: "single" or "double".

    Raises:
        CompileError: The network cannot be compiled here.
    """
    namespace = load_library(network.config, precision)
    operator = getattr(torch.ops, namespace).energy_and_forces

    class CompiledForce(nn.Module):
        """Made here because TorchScript has to find the operator by its name."""

        def __init__(self) -> None:
            super().__init__()
            dtype = PRECISIONS[precision]
            weights = pack.weights(pack.parts_of(network))
            tables = pack.RadialTables(network, TABLE_INTERVALS[precision])
            nothing = torch.zeros(0, dtype=torch.int64)
            # Attributes, not buffers: OpenMM moves these to the device of its platform,
            # and the operator reads the processor's memory.
            self.weights = weights.to(dtype)
            self.constants = pack.constants(network)
            # Tables are made when they are first needed: they are many times as large
            # as what they are made of, and OpenMM reads a System's XML slowly.
            self.basis, self.polynomial = tables.basis, tables.polynomial
            self.radial = [weight.detach() for weight in pack.radial_weights(network)]
            self.tables = torch.zeros(0, dtype=dtype)
            self.species, self.atoms = nothing, nothing
            self.in_order = True
            self.offset = 0.0
            self.length = NM_TO_ANGSTROM
            self.energy = EV_TO_KJ_PER_MOL
            self.force = EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM

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
            self.in_order = torch.equal(atoms, torch.arange(atoms.shape[0]))
            self.offset = offset
            self.tables = self.tables[:0].clone()  # not to be written to a file

        def forward(
            self, positions: Tensor, box: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            """Return energy [1], kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

            Args:
                positions: Positions of all particles [n_particles, 3], nm.
                box: Box vectors as rows [3, 3], nm; None without a box.
            """
            all_in_order = self.in_order and len(self.atoms) == len(positions)
            x = positions.detach().to("cpu", torch.float64) * self.length
            if not all_in_order:
                x = x.index_select(0, self.atoms)
            if self.tables.shape[0] == 0:
                tables = radial_tables(self.basis, self.polynomial, self.radial)
                self.tables = tables.to(self.tables.dtype)
            cell = torch.zeros([0], dtype=torch.float64)
            if box is not None:
                cell = box.detach().to("cpu", torch.float64) * self.length
            energy, forces = operator(
                x, cell, self.species, self.weights, self.tables, self.constants
            )
            energy = self.energy * (energy + self.offset)
            forces = (self.force * forces).to(positions)
            if not all_in_order:
                forces = torch.zeros_like(positions.detach()).index_add(
                    0, self.atoms.to(positions.device), forces
                )
            return energy.to(positions), forces

    return torch.jit.script(CompiledForce().eval())

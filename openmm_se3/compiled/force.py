"""The compiled network as OpenMM calls it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_se3.compiled import weights as pack
from openmm_se3.compiled.library import load_library
from openmm_se3.compiled.weights import radial_tables
from openmm_se3.model_file import PRECISIONS
from openmm_se3.nn.committee import members_of
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import scripted
from openmm_se3.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM

# Intervals of the tables of radial functions: what they change is below the rounding of
# the precision.
TABLE_INTERVALS = {"single": 256, "double": 3072}
# The same of a committee.  The tables of four members with 256 would not stay in a
# processor's cache, which costs a tenth of a step; what 128 change (2e-5 eV/A for
# water) is far below what members deviate by.
COMMITTEE_INTERVALS = {"single": 128, "double": 3072}


def compiled_force(network: SE3Transformer, precision: str) -> torch.jit.ScriptModule:
    """Return a module that OpenMM can call once it has been told its atoms.

    Its methods are those of :class:`openmm_se3.torchscript.modules.GenericForce`.  It
    computes on the CPU; positions on another device are copied there and back.

    Args:
        network: The network or committee, in float64 and evaluation mode.
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
            members = members_of(network)
            weights = [pack.weights(pack.parts_of(member)) for member in members]
            # Members have the same radial basis, whose functions are fixed.
            intervals = COMMITTEE_INTERVALS if len(members) > 1 else TABLE_INTERVALS
            tables = pack.RadialTables(members[0], intervals[precision])
            nothing = torch.zeros(0, dtype=torch.int64)
            # Attributes, not buffers: OpenMM moves these to the device of its platform,
            # and the operator reads the processor's memory.
            # Those of each member [n_members, n].
            self.weights = torch.stack(weights).to(dtype)
            self.constants = torch.stack([pack.constants(m) for m in members])
            # Tables are made when they are first needed: they are many times as large
            # as what they are made of, and OpenMM reads a System's XML slowly.
            self.basis, self.polynomial = tables.basis, tables.polynomial
            self.radial = [
                [weight.detach() for weight in pack.radial_weights(member)]
                for member in members
            ]
            self.tables = torch.zeros(0, dtype=dtype)
            self.species, self.atoms = nothing, nothing
            self.no_box = torch.zeros(0, dtype=torch.float64)
            self.offset = 0.0
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
            if self.tables.shape[0] == 0:
                tables = [
                    radial_tables(self.basis, self.polynomial, radial)
                    for radial in self.radial
                ]
                self.tables = torch.cat(tables).to(self.tables.dtype)
            # Nothing else happens here: for a few atoms an operation of PyTorch takes
            # a hundredth of the time of a step.
            energy, forces = operator(
                positions,
                self.no_box if box is None else box,
                self.species,
                self.atoms,
                self.weights,
                self.tables,
                self.constants,
                self.length,
                self.energy,
                self.offset,
            )
            return energy, forces

    return scripted(CompiledForce())

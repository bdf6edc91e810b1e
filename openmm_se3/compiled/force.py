"""The compiled network as OpenMM calls it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_se3.compiled import pack
from openmm_se3.compiled.library import load_library
from openmm_se3.model.transformer import SE3Transformer
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

# Intervals of the tables of radial functions: what they change is below the rounding of
# the precision.
TABLE_INTERVALS = {"single": 256, "double": 3072}
PRECISIONS = {"single": torch.float32, "double": torch.float64}


def compiled_force(
    network: SE3Transformer,
    precision: str,
    species: Tensor,
    atoms: Tensor,
    n_particles: int,
    offset: float,
) -> torch.jit.ScriptModule:
    """Return a module that OpenMM can call, as those of :mod:`~.export.modules`.

    It computes on the CPU; positions on another device are copied there and back.

    Args:
        network: The network, in float64 and evaluation mode.
        precision: "single" or "double".
        species: Index of each atom's element in the model's elements [n_atoms].
        atoms: Particle of the System that each atom is [n_atoms].
        n_particles: Particles of the System.
        offset: Added to the energy, eV.

    Raises:
        CompileError: The network cannot be compiled here.
    """
    namespace = load_library(network, precision)
    operator = getattr(torch.ops, namespace).energy_and_forces

    class CompiledForce(nn.Module):
        """Made here because TorchScript has to find the operator by its name."""

        def __init__(self) -> None:
            super().__init__()
            self.species: Tensor
            self.atoms: Tensor
            dtype = PRECISIONS[precision]
            tables = pack.tables(network, TABLE_INTERVALS[precision])
            self.register_buffer("weights", pack.weights(network).to(dtype))
            self.register_buffer("tables", tables.to(dtype))
            self.register_buffer("constants", pack.constants(network))
            self.register_buffer("species", species)
            self.register_buffer("atoms", atoms)
            self.everything = bool(torch.equal(atoms, torch.arange(n_particles)))
            self.offset = offset
            self.length = NM_TO_ANGSTROM
            self.energy = EV_TO_KJ_PER_MOL
            self.force = EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM

        def forward(
            self, positions: Tensor, box: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            """Return energy [1], kJ/mol, and forces [n_particles, 3], kJ/mol/nm.

            Args:
                positions: Positions of all particles [n_particles, 3], nm.
                box: Box vectors as rows [3, 3], nm; None without a box.
            """
            x = positions.detach().to("cpu", torch.float64) * self.length
            if not self.everything:
                x = x.index_select(0, self.atoms)
            cell = torch.zeros([0], dtype=torch.float64)
            if box is not None:
                cell = box.detach().to("cpu", torch.float64) * self.length
            energy, forces = operator(
                x, cell, self.species, self.weights, self.tables, self.constants
            )
            energy = self.energy * (energy + self.offset)
            forces = (self.force * forces).to(positions)
            if not self.everything:
                forces = torch.zeros_like(positions.detach()).index_add(
                    0, self.atoms.to(positions.device), forces
                )
            return energy.to(positions), forces

    return torch.jit.script(CompiledForce().eval())

"""Positions in, energies and forces out: the network and its derivative.

E = sum_i E_i + sum over edges of the repulsion
F_i = -dE/dx_i, or the network's direct forces
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer


class ForceField(nn.Module):
    """Energies and forces of a network for atoms at given positions.

    Training, export, validation and the OpenMM force all go through this one class, so
    that what is measured is what runs.  Relative vectors are formed in the positions'
    own precision and only then cast to the network's: positions far from the origin
    lose nothing.

    Args:
        network: The network; it stays the caller's.
    """

    def __init__(self, network: SE3Transformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        positions: Tensor,
        species: Tensor,
        edges: Edges,
        molecule: Tensor | None = None,
        n_molecules: int = 1,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the energy of each molecule and the force on each atom.

        Args:
            positions: Positions [n_atoms, 3], A.
            species: Index of each atom's element in ``config.elements`` [n_atoms].
            edges: The edges.
            molecule: Molecule of each atom [n_atoms]; None where there is only one.
            n_molecules: Number of molecules.
            create_graph: Keep what is needed to differentiate the forces, for training.

        Returns:
            Energies relative to isolated atoms [n_molecules], float64, eV; forces
            [n_atoms, 3], eV/A, in the network's precision.
        """
        energies, forces, _ = self.with_direct_forces(
            positions, species, edges, molecule, n_molecules, create_graph, head=False
        )
        return energies, forces

    def with_direct_forces(
        self,
        positions: Tensor,
        species: Tensor,
        edges: Edges,
        molecule: Tensor | None = None,
        n_molecules: int = 1,
        create_graph: bool = False,
        head: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`forward` does and the direct forces beside it.

        These are [n_atoms, 3], eV/A, where ``force_mode`` is "both" and ``head`` is
        true, and [0, 3] otherwise.
        """
        vectors = self.edge_vectors(positions, edges).detach()
        if self.network.direct:
            atomic, forces = self.energies_and_direct_forces(
                species, vectors, edges, create_graph, head
            )
            direct = forces.new_zeros((0, 3))
        elif torch.jit.is_scripting():
            # TorchScript has no enable_grad; TorchForce leaves gradients on.
            atomic, slope, direct = self.energies_and_slope(
                species, vectors, edges, create_graph, head
            )
            forces = forces_of_edges(slope, edges, species.shape[0])
        else:
            with torch.enable_grad():
                atomic, slope, direct = self.energies_and_slope(
                    species, vectors, edges, create_graph, head
                )
                forces = forces_of_edges(slope, edges, species.shape[0])
        if not create_graph:
            atomic, forces, direct = atomic.detach(), forces.detach(), direct.detach()
        return sum_by_molecule(atomic, molecule, n_molecules), forces, direct

    def energies(
        self,
        positions: Tensor,
        species: Tensor,
        edges: Edges,
        molecule: Tensor | None = None,
        n_molecules: int = 1,
    ) -> Tensor:
        """Return the energy of each molecule [n_molecules], eV, without forces.

        Arguments are those of :meth:`forward`.
        """
        vectors = self.edge_vectors(positions, edges)
        atomic, _ = self.network(species, vectors, edges)
        return sum_by_molecule(atomic, molecule, n_molecules)

    def edge_vectors(self, positions: Tensor, edges: Edges) -> Tensor:
        """Return x_j - x_i of each edge [n_edges, 3], in the network's precision."""
        vectors = positions.index_select(0, edges.neighbor)
        vectors = vectors - positions.index_select(0, edges.center)
        shifts = edges.shifts
        if shifts is not None:
            vectors = vectors + shifts
        return vectors.to(self.network.embedding.weight.dtype)

    def in_chunks(self, edges: Edges, create_graph: bool) -> bool:
        """Tell whether there are so many edges that they are computed in chunks."""
        many = edges.center.shape[0] > self.network.edges_at_a_time
        return many and edges.layout == "list" and not create_graph

    def energies_and_direct_forces(
        self,
        species: Tensor,
        vectors: Tensor,
        edges: Edges,
        create_graph: bool,
        head: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return energies [n_atoms] and forces [n_atoms, 3] that are no gradients."""
        if not self.in_chunks(edges, create_graph):
            return self.network(species, vectors, edges, head)
        if not hasattr(self.network, "members"):
            atomic, _, forces = self.network.in_chunks(species, vectors, edges, head)
            return atomic, forces
        energies: list[Tensor] = []
        directs: list[Tensor] = []
        for member in self.network.members:  # type: ignore[union-attr]
            atomic, _, forces = member.in_chunks(species, vectors, edges, head)
            energies.append(atomic)
            directs.append(forces)
        return torch.stack(energies).mean(0), torch.stack(directs).mean(0)

    def energies_and_slope(
        self,
        species: Tensor,
        vectors: Tensor,
        edges: Edges,
        create_graph: bool,
        head: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return energies [n_atoms], dE/d(x_j - x_i) [n_edges, 3], direct forces."""
        if not hasattr(self.network, "members"):
            if self.in_chunks(edges, create_graph):
                return self.network.in_chunks(species, vectors, edges, head)
            vectors = vectors.requires_grad_()
            atomic, direct = self.network(species, vectors, edges, head)
            return atomic, slope_of(atomic, vectors, create_graph), direct
        # Each is differentiated before the next is computed: the memory is that of one.
        energies: list[Tensor] = []
        slopes: list[Tensor] = []
        forces: list[Tensor] = []
        for member in self.network.members:  # type: ignore[union-attr]
            if self.in_chunks(edges, create_graph):
                atomic, slope, direct = member.in_chunks(species, vectors, edges, head)
                slopes.append(slope)
            else:
                vectors = vectors.requires_grad_()
                atomic, direct = member(species, vectors, edges, head)
                slopes.append(slope_of(atomic, vectors, create_graph))
            energies.append(atomic if create_graph else atomic.detach())
            forces.append(direct if create_graph else direct.detach())
        return (
            torch.stack(energies).mean(0),
            torch.stack(slopes).mean(0),
            torch.stack(forces).mean(0),
        )


def slope_of(atomic: Tensor, vectors: Tensor, create_graph: bool) -> Tensor:
    """Return dE/d(x_j - x_i) [n_edges, 3] of the sum of atomic energies [n_atoms]."""
    (slope,) = torch.autograd.grad([atomic.sum()], [vectors], create_graph=create_graph)
    assert slope is not None  # for TorchScript, which types it as optional
    return slope


def forces_of_edges(slope: Tensor, edges: Edges, n_atoms: int) -> Tensor:
    """Return -dE/dx_i [n_atoms, 3] from dE/d(x_j - x_i) [n_edges, 3].

    What an edge pushes its neighbor, it pushes its center the other way: the net force
    vanishes to rounding.
    """
    forces = slope.new_zeros(n_atoms, 3).index_add(0, edges.center, slope)
    return forces.index_add(0, edges.neighbor, -slope)


def sum_by_molecule(
    atomic: Tensor, molecule: Tensor | None, n_molecules: int
) -> Tensor:
    """Return the sum of atomic energies [n_atoms] over each molecule [n_molecules]."""
    if molecule is None:
        return atomic.sum(0, keepdim=True)
    return atomic.new_zeros(n_molecules).index_add(0, molecule, atomic)

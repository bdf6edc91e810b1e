"""Several networks of one shape that are used as one: the mean of their results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openmm_se3.neighbors import Edges
from openmm_se3.nn.transformer import SE3Transformer


class Committee(SE3Transformer):
    """The mean energy and the mean forces of several networks.

    It has the methods of a network, so that whatever computes a network computes a
    committee.  Edges are found once for all members.

    Args:
        members: Networks of one shape, in evaluation mode.
    """

    def __init__(self, members: Sequence[SE3Transformer]) -> None:
        nn.Module.__init__(self)  # without weights of its own
        first = members[0]
        self.config = first.config
        self.n_species = first.n_species
        self.direct, self.both = first.direct, first.both
        self.members = nn.ModuleList(members)
        # What callers ask of a network: its precision, its device and its layers.
        self.edges_at_a_time = first.edges_at_a_time
        self.embedding = first.embedding
        self.attention = first.attention
        self.register_buffer("isolated", first.isolated, persistent=False)
        self._store_isolated()

    def forward(
        self,
        species: Tensor,
        vectors: Tensor,
        edges: Edges,
        head: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean atomic energies and direct forces; see SE3Transformer."""
        energies: list[Tensor] = []
        direct: list[Tensor] = []
        for member in self.members:
            own = member(species, vectors, edges, head)
            energies.append(own[0])
            direct.append(own[1])
        return torch.stack(energies).mean(0), torch.stack(direct).mean(0)

    def _store_isolated(self) -> None:
        self.isolated = torch.stack([m.isolated for m in members_of(self)]).mean(0)


def members_of(network: SE3Transformer) -> list[SE3Transformer]:
    """Return the members of a committee, or a network alone."""
    if not isinstance(network, Committee):
        return [network]
    return [m for m in network.members if isinstance(m, SE3Transformer)]

"""The SE(3)-Transformer: species and edges in, atomic energies (and direct forces) out.

    species -> {0} -> attention -> {0..lmax} -> ... -> attention -> {0} or {0, 1}

The sum of the type-0 outputs is the energy; the type-1 outputs are the direct forces,
if these are wanted.  Where forces are "both", the type-1 outputs come from a layer of
their own beside the last one, so that energy and conservative forces are the same with
and without it:

    ... -> {0..lmax} -> attention -> {0}       energy, conservative forces
                     -> attention -> {0, 1}    direct forces
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from openmm_se3._moved import warn_renamed
from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import Edges
from openmm_se3.nn.activation import ACTIVATIONS
from openmm_se3.nn.attention import (
    AttentionLayer,
    by_center,
    feature_degrees,
    max_harmonic,
    sum_over_neighbors,
)
from openmm_se3.nn.chunked_network import Chunked
from openmm_se3.nn.edge_chunks import Geometry
from openmm_se3.nn.kernel import SphericalHarmonics
from openmm_se3.nn.layers import Gate, NormNonlinearity
from openmm_se3.nn.radial import BesselBasis, DistanceBasis, Envelope, SharpCutoff
from openmm_se3.nn.zbl import ZBLRepulsion

# Added to squared distances (A^2): atoms on top of each other give no NaN, and at
# bonding distances it is below the rounding of float64.
DISTANCE_EPSILON = 1e-16


class SE3Transformer(Chunked):
    """Atomic energies and direct forces of a set of atoms.

    Energies are relative to isolated atoms: what the network gives for an atom without
    neighbors is subtracted by species, so that an isolated atom has exactly zero,
    unless the configuration has ``isolated_atoms: learned``.

    A new network is in float64, which its constants need; ``.float()`` makes it fast.
    A float64 network with the weights of a float32 one is a new one that loads them.

    Args:
        config: Shape and equations of the network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.isolated: Tensor
        self.config = config
        self.n_species = len(config.elements)
        self.direct = config.force_mode == "direct"
        self.both = config.force_mode == "both"
        self.energy_scale = config.energy_scale
        self.subtract_isolated = config.isolated_atoms == "zero"
        self.distance_epsilon = DISTANCE_EPSILON
        if config.embedding == "learned":
            embedding = nn.Embedding(self.n_species, config.channels)
        else:
            embedding = nn.Embedding.from_pretrained(torch.eye(self.n_species))
        self.embedding = embedding
        self.envelope: nn.Module
        if config.envelope == "smooth":
            self.envelope = Envelope(config.cutoff)
        else:
            self.envelope = SharpCutoff(config.cutoff)
        self.radial_basis: nn.Module
        if config.radial_basis == "bessel":
            self.radial_basis = BesselBasis(config.cutoff, config.radial_functions)
        else:
            self.radial_basis = DistanceBasis(config.cutoff)
        self.harmonics = SphericalHarmonics(max_harmonic(config))
        self.has_zbl = config.zbl
        self.zbl = ZBLRepulsion(config.elements)

        degrees = feature_degrees(config)
        channels = [embedding.embedding_dim] + [config.channels] * (config.layers - 1)
        attention: list[nn.Module] = []
        nonlinearities: list[nn.Module] = []
        nonlinearity = Gate if config.nonlinearity == "gate" else NormNonlinearity
        linear = config.readout == "linear"
        for k_max, l_max, n in zip(degrees[:-1], degrees[1:], channels, strict=True):
            attention.append(AttentionLayer(config, k_max, l_max, n))
            nonlinearities.append(nonlinearity(l_max, config.channels))
        if linear:
            nonlinearities[-1] = nn.Identity()
        self.attention = nn.ModuleList(attention)
        self.nonlinearities = nn.ModuleList(nonlinearities)
        self.energy_head: nn.Module
        if linear:
            self.energy_head = nn.Linear(config.channels, 1, bias=False)
        else:
            self.energy_head = nn.Sequential(
                nn.Linear(config.channels, config.channels),
                ACTIVATIONS[config.activation](),
                nn.Linear(config.channels, 1, bias=False),
            )
        self.force_head = nn.Linear(config.channels, 1, bias=False)
        # None where there is no such layer, which TorchScript then leaves out.
        self.head_attention: AttentionLayer | None = None
        self.head_nonlinearity: nn.Module | None = None
        if self.both:
            self.head_attention = AttentionLayer(config, degrees[-2], 1, channels[-1])
            self.head_nonlinearity = (
                nn.Identity() if linear else nonlinearity(1, config.channels)
            )
        self.set_chunks()
        # Energy of isolated atoms as the network gives it; computed by eval().
        isolated = torch.zeros(self.n_species, dtype=torch.float64)
        self.register_buffer("isolated", isolated, persistent=False)
        self.double()

    def forward(
        self,
        species: Tensor,
        vectors: Tensor,
        edges: Edges,
        head: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return atomic energies and direct forces.

        Args:
            species: Index of each atom's element in ``config.elements`` [n_atoms].
            vectors: x_j - x_i of each edge [n_edges, 3], A.
            edges: The edges.
            head: Compute the direct forces where ``force_mode`` is "both".

        Returns:
            Energies relative to isolated atoms [n_atoms], float64, eV; direct forces
            [n_atoms, 3], eV/A, or [0, 3] where there are none.
        """
        features, directed, repulsion = self.features(species, vectors, edges, head)
        energies = self.energies_of(species, features, repulsion)
        return energies, self.direct_forces(directed, head)

    def energies_of(self, species: Tensor, f: Tensor, zbl: Tensor) -> Tensor:
        """Return energies relative to isolated atoms [n_atoms], float64, eV.

        Args:
            species: Index of each atom's element [n_atoms].
            f: The last features [dim, n_atoms, channels].
            zbl: ZBL energy of each atom [n_atoms], eV.
        """
        if self.training:
            isolated = self.isolated_energies(species)
        else:
            isolated = self.isolated
        energies = self.atomic_energies(f)
        return energies - isolated.index_select(0, species) + zbl

    def direct_forces(self, directed: Tensor, head: bool) -> Tensor:
        """Return direct forces [n_atoms, 3], eV/A, or [0, 3] where there are none."""
        if self.direct or (self.both and head):
            return self.force_head(directed[1:4]).squeeze(2).T * self.energy_scale
        return directed.new_zeros((0, 3))

    def energy_and_forces(
        self,
        positions: Tensor,
        species: Tensor,
        centre: Tensor,
        neighbour: Tensor,
        shifts: Tensor | None = None,
        molecule: Tensor | None = None,
        n_molecules: int = 1,
        create_graph: bool = False,
        dense: bool = False,
        paired: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return energies and forces as :class:`ForceField` does; an old name."""
        from openmm_se3.nn.force_field import ForceField

        warn_renamed("SE3Transformer.energy_and_forces", "nn.force_field.ForceField")
        layout = "dense" if dense else "paired" if paired else "list"
        edges = Edges(centre, neighbour, shifts, layout)
        field = ForceField(self)
        return field(positions, species, edges, molecule, n_molecules, create_graph)

    def features(
        self, species: Tensor, vectors: Tensor, edges: Edges, head: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last features, those of direct forces, and the ZBL energy.

        Features are [dim, n_atoms, channels]; one layer makes them for energies and
        direct forces alike, unless ``force_mode`` is "both".
        """
        harmonics, radial_basis, envelope, distance = self.geometry(vectors, edges)
        features = self.embedding(species).unsqueeze(0)  # [1, n_atoms, channels]
        before = features
        for attention, nonlinearity in zip(self.attention, self.nonlinearities):
            before = features
            features = attention(features, harmonics, radial_basis, envelope, edges)
            features = nonlinearity(features)
        directed = features
        if self.head_attention is not None and self.head_nonlinearity is not None:
            if head:
                directed = self.head_attention(
                    before, harmonics, radial_basis, envelope, edges
                )
                directed = self.head_nonlinearity(directed)
        return features, directed, self.repulsion(species, distance, edges)

    def geometry(self, vectors: Tensor, edges: Edges) -> Geometry:
        """Return what all layers need of the vectors of edges [n_edges, 3], A."""
        distance = torch.sqrt(vectors.square().sum(1) + self.distance_epsilon)
        harmonics = self.harmonics(vectors / distance.unsqueeze(1))
        envelope = self.envelope(distance)
        # Both edges of a pair have the same distance.
        n_distances = len(distance)
        if edges.layout == "paired":
            n_distances = n_distances // 2
        radial_basis = self.radial_basis(distance[:n_distances])
        return Geometry(harmonics, radial_basis, envelope, distance)

    def repulsion(self, species: Tensor, r: Tensor, edges: Edges) -> Tensor:
        """Return the ZBL energy of each atom [n_atoms], float64, eV."""
        n_atoms = species.shape[0]
        if not self.has_zbl:
            return torch.zeros(n_atoms, dtype=torch.float64, device=r.device)
        pairs = by_center(self.zbl(species, r, edges).to(torch.float64), edges, n_atoms)
        return sum_over_neighbors(pairs, edges, n_atoms)

    def atomic_energies(self, features: Tensor) -> Tensor:
        """Return the energy head's output [n_atoms] for features, float64, eV."""
        energies = self.energy_head(features[0]).squeeze(1).to(torch.float64)
        return energies * self.energy_scale

    def isolated_energies(self, like: Tensor) -> Tensor:
        """Return what is subtracted for an isolated atom of each species [n_species].

        That is what the network gives for it, or zero where nothing is subtracted.
        """
        if not self.subtract_isolated:
            return torch.zeros(self.n_species, dtype=torch.float64, device=like.device)
        species = torch.arange(self.n_species, device=like.device)
        nothing = species[:0]
        vectors = self.embedding.weight.new_zeros((0, 3))
        edges = Edges(nothing, nothing, None, "list")
        features, _, _ = self.features(species, vectors, edges, head=False)
        return self.atomic_energies(features)

    def train(self, mode: bool = True) -> SE3Transformer:
        """Switch to training, or to evaluation, which stores isolated energies."""
        super().train(mode)
        self._store_isolated()
        return self

    def _apply(self, *args: Any, **kwargs: Any) -> SE3Transformer:
        # Another precision gives slightly different isolated energies.
        super()._apply(*args, **kwargs)
        self._store_isolated()
        return self

    def _store_isolated(self) -> None:
        if not self.training:
            with torch.no_grad():
                self.isolated = self.isolated_energies(self.isolated)

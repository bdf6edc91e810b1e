"""An SE(3)-Transformer that predicts how charged particles move on.

    (charge, velocity) -> {0, 1} -> attention -> {0..lmax} -> ... -> attention -> {0, 1}

Charges are features of degree 0, velocities of degree 1; two type-1 outputs are the
displacement and the change of velocity.  The layers are those of the force field.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nbody.particles import HALF_WIDTH
from openmm_se3.config import ModelConfig
from openmm_se3.neighbors import Edges, all_pairs
from openmm_se3.nn.attention import AttentionLayer, max_harmonic
from openmm_se3.nn.kernel import SphericalHarmonics
from openmm_se3.nn.layers import Gate
from openmm_se3.nn.radial import BesselBasis, Envelope
from openmm_se3.nn.transformer import DISTANCE_EPSILON

# Longer than the diagonal of the box: every particle sees all others.
CUTOFF = 4.0 * HALF_WIDTH
N_VECTORS = 2  # displacement, change of velocity


def layer_config(**changes: object) -> ModelConfig:
    """Return the shape of the layers; elements and energies have no meaning here."""
    shape: dict[str, object] = {
        "elements": ("H",),
        "cutoff": CUTOFF,
        "channels": 32,
        "key_channels": 16,
        "heads": 4,
        "lmax": 2,
        "jmax": 2,
        "radial_functions": 16,
        "zbl": False,
        "self_interaction": "attentive",
    }
    return ModelConfig(**{**shape, **changes})  # type: ignore[arg-type]


class ParticleTransformer(nn.Module):
    """Displacements and changes of velocity of particles.

    Args:
        config: Shape of the layers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels
        self.charge = nn.Parameter(torch.randn(2, channels))
        self.velocity = nn.Parameter(torch.randn(channels))
        self.envelope = Envelope(config.cutoff)
        self.radial_basis = BesselBasis(config.cutoff, config.radial_functions)
        self.harmonics = SphericalHarmonics(max_harmonic(config))
        degrees = [1] + [config.lmax] * (config.layers - 1) + [1]
        pairs = list(zip(degrees[:-1], degrees[1:], strict=True))
        self.attention = nn.ModuleList(
            AttentionLayer(config, k, l, channels) for k, l in pairs
        )
        self.gates = nn.ModuleList(Gate(l, channels) for _, l in pairs)
        self.head = nn.Linear(channels, N_VECTORS, bias=False)
        self.double()

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Return displacements and changes of velocity [n, n_particles, 2, 3].

        Args:
            positions: Positions [n, n_particles, 3].
            velocities: Velocities [n, n_particles, 3].
            charges: Charges [n, n_particles], +1 or -1.
        """
        n, n_particles, _ = positions.shape
        center, neighbor, _, _ = all_pairs(n_particles, positions.device)
        first = n_particles * torch.arange(n, device=positions.device)[:, None]
        edges = Edges((first + center).flatten(), (first + neighbor).flatten())
        x, v = positions.flatten(0, 1), velocities.flatten(0, 1)
        vectors = x.index_select(0, edges.neighbor) - x.index_select(0, edges.center)
        distance = torch.sqrt(vectors.square().sum(1) + DISTANCE_EPSILON)
        harmonics = self.harmonics(vectors / distance.unsqueeze(1))
        envelope, radial = self.envelope(distance), self.radial_basis(distance)
        scalars = self.charge.index_select(0, (charges.flatten() > 0).long())
        features = torch.cat(
            [scalars.unsqueeze(0), v.T.unsqueeze(2) * self.velocity]
        )  # [4, n * n_particles, channels]
        for attention, gate in zip(self.attention, self.gates, strict=True):
            features = gate(attention(features, harmonics, radial, envelope, edges))
        vectors = self.head(features[1:4])  # [3, n * n_particles, 2]
        return vectors.permute(1, 2, 0).unflatten(0, (n, n_particles))

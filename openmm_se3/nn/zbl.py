"""Repulsion of nuclei at distances far below any bond.

The universal potential of Ziegler, Biersack and Littmark (ZBL, 1985, "The Stopping and
Range of Ions in Solids"), switched off smoothly well inside bonding distance, so that
it changes nothing where there are labels and stops atoms from falling into each other
where there are none.

    E_ij = Z_i Z_j e^2 / (4 pi eps0 r) phi(r / a) u(r / r_off)
    a = 0.46850 A / (Z_i^0.23 + Z_j^0.23)
    phi(x) = 0.18175 exp(-3.19980 x) + 0.50986 exp(-0.94229 x)
             + 0.28022 exp(-0.40290 x) + 0.02817 exp(-0.20162 x)

All elements of :mod:`openmm_se3.elements` have it; their covalent radii give r_off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_se3.elements import COVALENT_RADII, numbers_of
from openmm_se3.neighbors import Edges
from openmm_se3.nn.radial import Envelope
from openmm_se3.units import FINE_STRUCTURE_COULOMB

SCREENING_LENGTH = 0.46850  # A
EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
# The repulsion ends at this share of the sum of covalent radii: 0.78 A for O-H, 0.50 A
# for H-H, 1.06 A for O-O.
REACH = 0.8


class ZBLRepulsion(nn.Module):
    """Half of the ZBL energy of each pair goes to each of its atoms.

    Args:
        elements: Chemical symbols, by species.
    """

    def __init__(self, elements: tuple[str, ...]) -> None:
        super().__init__()
        self.pairs: Tensor
        self.exponents: Tensor
        self.weights: Tensor
        numbers = torch.tensor(numbers_of(elements)).double()
        radii = torch.tensor([COVALENT_RADII[e] for e in elements], dtype=torch.float64)
        screening = SCREENING_LENGTH / (numbers[:, None] ** 0.23 + numbers**0.23)
        charge = 0.5 * FINE_STRUCTURE_COULOMB * numbers[:, None] * numbers
        reach = REACH * (radii[:, None] + radii)
        n = len(elements)
        self.n_species = n
        # One row a pair of species: half the charge product, 1 / a, 1 / r_off.
        pairs = torch.stack([charge, 1.0 / screening, 1.0 / reach], dim=-1)
        self.register_buffer("pairs", pairs.view(n * n, 3), persistent=False)
        self.register_buffer(
            "exponents", -torch.tensor(EXPONENTS, dtype=torch.float64), persistent=False
        )
        self.register_buffer(
            "weights", torch.tensor(WEIGHTS, dtype=torch.float64), persistent=False
        )
        self.envelope = Envelope(1.0)

    def forward(self, species: Tensor, distance: Tensor, edges: Edges) -> Tensor:
        """Return the energy of each edge [n_edges], eV.

        Args:
            species: Species of the atoms [n_atoms].
            distance: Lengths of the edges [n_edges], A.
            edges: The edges.
        """
        pair = species.index_select(0, edges.center) * self.n_species
        pair = pair + species.index_select(0, edges.neighbor)
        charge, inverse_a, inverse_reach = self.pairs.index_select(0, pair).unbind(1)
        x = (distance * inverse_a).unsqueeze(1) * self.exponents
        screened = torch.exp(x) @ self.weights
        return charge / distance * screened * self.envelope(distance * inverse_reach)

"""An exported module must equal the network it was made from.

TorchScript recompiles itself during the first calls (profile-guided optimization), and
has given wrong gradients after them, so that one call proves nothing: modules are
compared over twenty calls with changing positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)

CALLS = 20
# Largest difference of energies (eV an atom) and forces (eV/A), by precision; relative
# to the largest expected where that is above 1.  Rounding makes a hundredth of it at
# the distances compared; what TorchScript gets wrong is of the order of the forces.
TOLERANCE = {"single": 3e-4, "double": 1e-9}
DISPLACEMENT = 0.005  # nm


class ExportError(RuntimeError):
    """An exported module does not reproduce its network."""


def random_positions(n_atoms: int, cutoff: float = 7.0) -> Tensor:
    """Return positions for a network of a cutoff (A): [n_atoms, 3], nm, float64.

    Neighbors are about half a cutoff apart.  Atoms closer than any in the training
    data would let a network amplify rounding a thousandfold: two atoms alone at 1.7 A
    are no part of any molecule.
    """
    side = _side(n_atoms)
    return 0.5 * cutoff / NM_TO_ANGSTROM * _uneven_grid(torch.arange(n_atoms), side)


def positions_in_box(n_atoms: int, box: Tensor) -> Tensor:
    """Return positions that fill a box evenly [n_atoms, 3], nm, float64.

    Args:
        n_atoms: Number of atoms.
        box: Box vectors as rows [3, 3], nm, float64.
    """
    side = _side(n_atoms)
    cells = torch.arange(n_atoms) * side**3 // n_atoms
    return _uneven_grid(cells, side) / side @ box


def _side(n_atoms: int) -> int:
    """Return the side of the smallest cube of so many cells."""
    side = 1
    while side**3 < n_atoms:
        side += 1
    return side


def _uneven_grid(index: Tensor, side: int) -> Tensor:
    """Return points near cells of a cube of cells [n_atoms, 3], float64."""
    generator = torch.Generator().manual_seed(len(index))
    grid = torch.stack([index % side, index // side % side, index // side**2], dim=1)
    jitter = torch.rand(grid.shape, generator=generator, dtype=torch.float64)
    return grid + 0.2 * jitter


def largest_difference(
    module: Callable[[Tensor], tuple[Tensor, Tensor]],
    expected: Callable[[Tensor], tuple[Tensor, Tensor]],
    positions: Tensor,
    calls: int = CALLS,
) -> float:
    """Return the largest difference of two modules over several calls.

    Args:
        module: Called as OpenMM calls it, with positions that require gradients.
        expected: What it should equal.
        positions: Start positions [n_particles, 3], nm.
        calls: Number of calls.

    Returns:
        The larger of the differences in energy (eV an atom) and in force (eV/A), each
        divided by the largest such value expected if that is above 1.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(calls):
        noise = torch.randn(positions.shape, generator=generator, dtype=torch.float64)
        x = positions + DISPLACEMENT * noise.to(positions)
        energy, forces = module(x.clone().requires_grad_())
        energy_expected, forces_expected = expected(x)
        pairs = (
            (energy, energy_expected, EV_TO_KJ_PER_MOL * len(x)),
            (forces, forces_expected, EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM),
        )
        finite = torch.isfinite(energy).all() and torch.isfinite(forces).all()
        if not finite or energy.requires_grad or forces.requires_grad:
            return float("inf")
        for found, wanted, one in pairs:
            size = max(1.0, float(wanted.abs().max()) / one)
            worst = max(worst, float((found - wanted).abs().max()) / one / size)
    return worst


def require_equal(
    module: Callable[[Tensor], tuple[Tensor, Tensor]],
    expected: Callable[[Tensor], tuple[Tensor, Tensor]],
    positions: Tensor,
    precision: str,
    calls: int = CALLS,
) -> float:
    """Return the largest difference of a module and its network.

    Raises:
        ExportError: It is above the tolerance of the precision, "single" or "double".
    """
    difference = largest_difference(module, expected, positions, calls)
    if not difference <= TOLERANCE[precision]:
        raise ExportError(
            f"the exported module differs from the network by {difference:.1e} eV or "
            f"eV/A for {len(positions)} atoms (limit {TOLERANCE[precision]:.0e}); "
            f"torch {torch.__version__} may not be fit for it: see 'openmm-se3 doctor'"
        )
    return difference

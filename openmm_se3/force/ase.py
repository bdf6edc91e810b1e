"""The potential as an ASE calculator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ase.calculators.calculator import Calculator, all_changes

if TYPE_CHECKING:
    from ase import Atoms

    from openmm_se3.force.potential import SE3Potential


class SE3Calculator(Calculator):
    """ASE calculator of a free molecule: energy relative to isolated atoms, forces.

    Args:
        potential: The potential.
    """

    def __init__(self, potential: SE3Potential) -> None:
        super().__init__()
        self.implemented_properties = ["energy", "forces"]
        self.potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Compute energy (eV) and forces (eV/A).

        Raises:
            ValueError: The atoms are periodic, or of elements the model does not know.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        if self.atoms.pbc.any():
            raise ValueError(
                "the ASE calculator is for free molecules: set atoms.pbc = False, or "
                "use OpenMM for periodic boxes"
            )
        energy, forces = self.potential.energy_and_forces(
            self.atoms.numbers, self.atoms.positions
        )
        self.results = {"energy": energy, "forces": forces}

"""The potential as an ASE calculator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
)
from ase.stress import full_3x3_to_voigt_6_stress
from openmm import app

from openmm_se3.data.formats.charges import (
    CHARGE_KEYS,
    MULTIPLICITY_KEYS,
    SPIN_KEYS,
)
from openmm_se3.force.evaluator import Evaluator
from openmm_se3.force.system_checks import warn_of_free_molecules, warn_of_missing_atoms

if TYPE_CHECKING:
    from ase import Atoms

    from openmm_se3.force.potential import SE3Potential

# Sums of initial charges and moments are rounded to whole electrons.
HALF_AN_ELECTRON = 0.5


def _number(value: Any) -> float:
    """Return an entry of ``atoms.info`` as a number, NaN if it is none."""
    try:
        return float(np.asarray(value, dtype=float).item())
    except (TypeError, ValueError):
        return float("nan")


class SE3Calculator(Calculator):
    """ASE calculator: energy relative to isolated atoms, forces and stress.

    The atoms may be a molecule, or periodic in one, two or three directions; stress
    needs three, and a model with conservative forces.  Of a committee there are also
    ``energy_std`` (eV) and ``forces_std`` [n_atoms] (eV/A), the deviations of its
    members, which are computed when they are asked for:
    ``calculator.get_property("forces_std", atoms)``.

    Args:
        potential: The potential, or an Evaluator, which needs no OpenMM plugin.
    """

    def __init__(self, potential: SE3Potential | Evaluator) -> None:
        super().__init__()
        self.potential = potential
        self.evaluator = (
            potential if isinstance(potential, Evaluator) else potential.evaluator
        )
        self.model = self.evaluator.model
        self.implemented_properties = ["energy", "free_energy", "forces"]
        if self.model.config.force_mode != "direct":
            self.implemented_properties.append("stress")
        if self.model.n_members > 1:
            self.implemented_properties += ["energy_std", "forces_std"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Compute energy, eV, and forces, eV/A; stress, eV/A^3, if it is asked for.

        So are the deviations of a committee's members.

        Raises:
            NotEnoughMemoryError: That takes more memory than there is.
            PropertyNotImplementedError: Stress without a box in all directions.
            ValueError: The atoms are of elements that the model does not know, have a
                charge or spin that it does not describe, or a periodic direction
                without a cell vector.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self._require_state(self.atoms)
        box = self._box(self.atoms)
        numbers, positions = self.atoms.numbers, self.atoms.positions
        if system_changes or "energy" not in self.results:
            energy, forces = self.evaluator.energy_and_forces(numbers, positions, box)
            # There is no electronic temperature: both energies are the same.
            self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if "numbers" in system_changes or "pbc" in system_changes:
            self._warn(self.atoms)
        if {"energy_std", "forces_std"}.intersection(properties):
            deviation = self.evaluator.deviation(numbers, positions, box)
            self.results["energy_std"] = deviation.energy_std
            self.results["forces_std"] = deviation.forces_std
        if "stress" in properties:
            if not self.atoms.pbc.all():
                raise PropertyNotImplementedError(
                    "stress needs atoms that are periodic in all three directions: set "
                    "atoms.cell and atoms.pbc = True"
                )
            derivative = self.evaluator.strain_derivative(numbers, positions, box)
            self.results["stress"] = full_3x3_to_voigt_6_stress(
                derivative / self.atoms.get_volume()
            )

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation.

        Raises:
            ValueError: The atoms have a charge or spin that the model does not
                describe, which ASE would not count as a change.
        """
        self._require_state(atoms)
        return list(super().check_state(atoms, tol))

    def _box(self, atoms: Atoms) -> np.ndarray | None:
        """Return box vectors as rows [3, 3], A; None for a free molecule.

        An open direction gets a vector so long that no atom sees its image.
        """
        if not atoms.pbc.any():
            return None
        rows = np.array(atoms.cell[atoms.pbc], dtype=float)
        if np.linalg.matrix_rank(rows) < len(rows):
            raise ValueError(
                f"atoms.pbc is {atoms.pbc.tolist()}, but the cell vectors of these "
                f"directions span no space: {rows.tolist()}; set atoms.cell, or "
                "atoms.pbc = False"
            )
        box = np.array(atoms.cell, dtype=float)
        # Orthogonal to the periodic directions and to each other.
        open_directions = np.linalg.svd(rows)[2][len(rows) :]
        for index, direction in zip(
            np.flatnonzero(~atoms.pbc), open_directions, strict=True
        ):
            extent = float(np.ptp(atoms.positions @ direction))
            box[index] = (extent + 2.0 * self.model.config.cutoff) * direction
        return box

    def _require_state(self, atoms: Atoms) -> None:
        """Refuse charges and spins other than those of the model's training data."""
        level = self.model.metadata["level_of_theory"]
        model = self.model.metadata["name"]
        charge, spin = level.get("charge", 0), level.get("spin", 0)
        for key, value in atoms.info.items():
            name = str(key).lower()
            allowed: tuple[int, ...]
            if name in CHARGE_KEYS:
                allowed = (charge,)
            elif name in SPIN_KEYS:
                # Unpaired electrons or, as some programs have it, the multiplicity.
                allowed = (spin, spin + 1)
            elif name in MULTIPLICITY_KEYS:
                allowed = (spin + 1,)
            else:
                continue
            if value is None:
                continue
            if _number(value) not in allowed:
                raise ValueError(
                    f"atoms.info[{key!r}] is {value}; the model {model!r} describes a "
                    f"charge of {charge} and {spin} unpaired electrons only: take "
                    "another model, or remove the entry"
                )
        for what, values, allowed_sum in (
            ("initial charges", atoms.get_initial_charges(), charge),
            ("initial magnetic moments", atoms.get_initial_magnetic_moments(), spin),
        ):
            total = float(np.sum(values))
            if values.any() and abs(total - allowed_sum) > HALF_AN_ELECTRON:
                raise ValueError(
                    f"the {what} of the atoms add up to {total:g}; the model {model!r} "
                    f"describes {allowed_sum} only: take another model, or set them to "
                    "zero"
                )

    def _warn(self, atoms: Atoms) -> None:
        """Warn of what createSystem warns of."""
        topology = app.Topology()
        residue = topology.addResidue("MOL", topology.addChain())
        for number in atoms.numbers:
            element = app.Element.getByAtomicNumber(int(number))
            topology.addAtom(element.symbol, element, residue)
        warn_of_missing_atoms(self.model, topology, list(range(len(atoms))))
        if not atoms.pbc.any():
            warn_of_free_molecules(self.model)

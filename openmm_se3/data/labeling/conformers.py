"""Conformers of a molecule: distance geometry, then MMFF94, pruned.

ETKDG: Riniker and Landrum 2015, https://doi.org/10.1021/acs.jcim.5b00654.  MMFF94:
Halgren 1996; UFF where it has no parameters for an atom.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_se3.units import KCAL_PER_MOL_TO_EV

if TYPE_CHECKING:
    from rdkit import Chem

MINIMIZER_STEPS = 500
EMBEDDED_PER_KEPT = 3  # conformers made for each that is kept
SAME_CONFORMER = 0.5  # A, RMSD of heavy atoms


class NoConformerError(ValueError):
    """RDKit finds no three-dimensional structure of a molecule."""


class MMFF:
    """Energy and forces of one molecule by MMFF94, or UFF where that has no parameters.

    Args:
        mol: Molecule with hydrogens and one conformer.

    Raises:
        NoConformerError: Neither force field knows its atoms.
    """

    def __init__(self, mol: Chem.Mol) -> None:
        from rdkit.Chem import rdForceFieldHelpers

        self._mol = mol
        self._properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if self._properties is None and not rdForceFieldHelpers.UFFHasAllMoleculeParams(
            mol
        ):
            raise NoConformerError("neither MMFF94 nor UFF has parameters for it")
        self._field = self.field(mol)

    def field(self, mol: Chem.Mol) -> Any:
        """Return RDKit's force field for the first conformer of ``mol``."""
        from rdkit.Chem import rdForceFieldHelpers

        if self._properties is None:
            field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
        else:
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, self._properties)
        field.Initialize()
        return field

    def minimized(
        self,
        positions: np.ndarray,
        torsions: dict[tuple[int, ...], float] | None = None,
    ) -> np.ndarray:
        """Return positions [n_atoms, 3] (A) after a minimization.

        Args:
            positions: Start [n_atoms, 3], A.
            torsions: Dihedral angles to hold, degrees, by their four atoms.
        """
        from rdkit import Chem

        mol = Chem.Mol(self._mol, confId=-1)
        set_positions(mol, positions)
        field = self.field(mol)
        add = (
            field.UFFAddTorsionConstraint
            if self._properties is None
            else field.MMFFAddTorsionConstraint
        )
        for atoms, angle in (torsions or {}).items():
            add(*atoms, False, angle - 1.0, angle + 1.0, 1000.0)
        field.Minimize(maxIts=MINIMIZER_STEPS)
        return np.array(field.Positions()).reshape(-1, 3)

    def energy(self, positions: np.ndarray) -> float:
        """Return the energy, eV."""
        return float(self._field.CalcEnergy(positions.ravel().tolist())) * (
            KCAL_PER_MOL_TO_EV
        )

    def forces(self, positions: np.ndarray) -> np.ndarray:
        """Return the forces [n_atoms, 3], eV/A."""
        flat = positions.ravel().tolist()
        # CalcGrad takes distances between atoms from the call before, whatever its
        # argument; CalcEnergy sets them.
        self._field.CalcEnergy(flat)
        gradient = self._field.CalcGrad(flat)
        return -KCAL_PER_MOL_TO_EV * np.array(gradient).reshape(-1, 3)


def set_positions(mol: Chem.Mol, positions: np.ndarray) -> None:
    """Give a molecule these positions [n_atoms, 3], A, as its only conformer."""
    from rdkit import Chem

    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=float))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer)


def conformers(
    mol: Chem.Mol, count: int, seed: int, energy_window: float = 0.6
) -> tuple[Chem.Mol, list[np.ndarray]]:
    """Return minimized conformers, the lowest in energy first.

    A conformer that the molecule has already is the only one that is returned, as it
    is.  Others that are within ``SAME_CONFORMER`` of a lower one, or higher than
    ``energy_window``, are left out.

    Args:
        mol: Molecule with hydrogens; stereochemistry is kept.
        count: Most conformers.
        seed: Seed of the distance geometry.
        energy_window: Most energy above the lowest conformer, eV.

    Returns:
        The molecule with the first of them, and the positions [n_atoms, 3] (A) of all.

    Raises:
        NoConformerError: There are none.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    mol = Chem.Mol(mol)
    if mol.GetNumConformers():
        return mol, [mol.GetConformer().GetPositions()]
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed % (1 << 31)
    parameters.maxIterations = 100
    found = rdDistGeom.EmbedMultipleConfs(mol, EMBEDDED_PER_KEPT * count, parameters)
    if not len(found):
        raise NoConformerError("distance geometry finds no structure")
    starts = [mol.GetConformer(i).GetPositions() for i in found]
    set_positions(mol, starts[0])
    field = MMFF(mol)
    minima = [field.minimized(start) for start in starts]
    energies = np.array([field.energy(minimum) for minimum in minima])
    heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
    kept: list[np.ndarray] = []
    for index in np.argsort(energies):
        if energies[index] > energies.min() + energy_window or len(kept) == count:
            break
        if all(_rmsd(minima[index], other, heavy) > SAME_CONFORMER for other in kept):
            kept.append(minima[index])
    set_positions(mol, kept[0])
    return mol, kept


def _rmsd(a: np.ndarray, b: np.ndarray, chosen: np.ndarray) -> float:
    """Return the root mean square distance of chosen atoms after superposition, A."""
    from scipy.spatial.transform import Rotation

    if chosen.sum() < 2:
        return 0.0
    x, y = (p[chosen] - p[chosen].mean(axis=0) for p in (a, b))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Atoms on a line leave the rotation about it open.
        warnings.simplefilter("ignore")
        _, distance = Rotation.align_vectors(x, y)
    return float(distance / np.sqrt(chosen.sum()))

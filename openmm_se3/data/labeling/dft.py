"""DFT energies and forces with PySCF."""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.units import (
    BOHR_TO_ANGSTROM,
    HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM,
    HARTREE_TO_EV,
)

if TYPE_CHECKING:
    from pyscf import dft, gto, scf

# Ground-state number of unpaired electrons (2S) of isolated atoms.
ATOM_SPIN = {1: 1, 2: 0, 3: 1, 4: 0, 5: 1, 6: 2, 7: 3, 8: 2, 9: 1, 10: 0}
ATOM_SPIN.update({14: 2, 15: 3, 16: 2, 17: 1, 35: 1, 53: 1})

# The coarse grid and threshold of the first SCF, which only makes a starting density.
COARSE_GRID_LEVEL = 1
COARSE_SCF_TOLERANCE = 1e-6

# Forces of a free molecule add up to zero; more than this (eV/A) means a broken label.
MAX_NET_FORCE = 2e-4

# Nuclei closer than this (A) are a mistake in the structure; the shortest bond of all,
# in H2, is 0.74 A long.
MIN_DISTANCE = 0.3

# An isolated atom gets at least this many SCF cycles, whatever the frames get.
ATOM_MAX_CYCLES = 200


class LabelError(RuntimeError):
    """A frame that cannot be labeled; the message says why."""


@dataclasses.dataclass(frozen=True)
class Label:
    """Energy and forces of one frame.

    Attributes:
        energy: Total electronic energy, eV.
        forces: Forces -dE/dx [n_atoms, 3], eV/A.
    """

    energy: float
    forces: np.ndarray


def has_dispersion(method: str) -> bool:
    """Tell whether the name of a functional ends with a dispersion correction."""
    return re.search(r"-d[34]\w*$", method.lower()) is not None


@functools.cache
def has_core_potential(number: int, basis: str) -> bool:
    """Tell whether a basis leaves core electrons of an element to a potential.

    PySCF never adds the potential by itself: iodine in def2-TZVPPD would be computed
    with 53 electrons in a basis for 25.
    """
    from ase.data import chemical_symbols
    from pyscf import gto

    try:
        return bool(gto.basis.load_ecp(basis, chemical_symbols[number]))
    except (RuntimeError, KeyError):  # what PySCF raises where there is none
        return False


def build_molecule(
    numbers: np.ndarray, positions: np.ndarray, level: LevelOfTheory
) -> gto.Mole:
    """Return the PySCF molecule of one frame.

    Args:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        level: Level of theory.
    """
    from ase.data import chemical_symbols
    from pyscf import gto

    core_potentials = {
        chemical_symbols[z]: level.basis
        for z in set(numbers.tolist())
        if has_core_potential(z, level.basis)
    }
    return gto.M(
        atom=list(zip(numbers.tolist(), positions / BOHR_TO_ANGSTROM, strict=True)),
        unit="Bohr",
        basis=level.basis,
        ecp=core_potentials,
        cart=level.cartesian,
        charge=level.charge,
        spin=level.spin,
        verbose=0,
    )


def converge(molecule: gto.Mole, level: LevelOfTheory) -> dft.rks.RKS | scf.uhf.UHF:
    """Return a converged Kohn-Sham calculation.

    Open shells of Hartree-Fock have no grid, and PySCF cannot do them with one.

    The SCF starts on a coarse grid, which takes a third of the time and leaves three or
    four iterations to the fine one; the result is the same to the SCF threshold.

    Raises:
        LabelError: The SCF did not converge on the fine grid.
    """
    from pyscf import dft, scf

    if molecule.spin and level.method.lower() == "hf":
        field = scf.UHF(molecule)
    else:
        field = dft.UKS(molecule) if molecule.spin else dft.RKS(molecule)
        field.xc = level.method
    if has_dispersion(level.method):
        field.nlc = 0  # D3 and D4 stand in for the nonlocal correlation of wB97M-V
    if level.density_fit:
        field = field.density_fit()
    field.max_cycle = level.max_cycles
    density = None
    if hasattr(field, "grids"):
        field.grids.level = COARSE_GRID_LEVEL
        field.conv_tol = COARSE_SCF_TOLERANCE
        field.kernel()
        density = field.make_rdm1()
        field.grids.reset()
        field.grids.level = level.grid_level
    field.conv_tol = level.scf_tolerance
    field.kernel(density)
    if not field.converged:
        raise LabelError(f"SCF not converged in {level.max_cycles} cycles")
    return field


def label_frame(
    numbers: np.ndarray, positions: np.ndarray, level: LevelOfTheory
) -> Label:
    """Return the DFT energy and forces of one frame.

    Args:
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], A.
        level: Level of theory.

    Raises:
        LabelError: Atoms lie on top of each other, the SCF did not converge, PySCF
            gave up on this frame, or the forces do not add up to zero.
    """
    check_distances(positions)
    try:
        field = converge(build_molecule(numbers, positions, level), level)
        gradient = field.nuc_grad_method()
        if hasattr(field, "grids"):
            gradient.grid_response = level.grid_response
        forces = -gradient.kernel() * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    except (LabelError, NotImplementedError):
        raise
    except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        # Such as a singular overlap matrix: this frame's fault, as check_level passed.
        raise LabelError(f"{type(error).__name__}: {error}") from error
    if not (np.isfinite(field.e_tot) and np.isfinite(forces).all()):
        raise LabelError("energy or forces are not finite")
    net_force = float(np.abs(forces.sum(axis=0)).max())
    if level.grid_response and net_force > MAX_NET_FORCE:
        raise LabelError(
            f"net force {net_force:.2e} eV/A instead of zero; a tighter SCF tolerance "
            "or a finer grid helps"
        )
    return Label(energy=float(field.e_tot) * HARTREE_TO_EV, forces=forces)


def check_distances(positions: np.ndarray) -> None:
    """Refuse atoms that lie on top of each other.

    Args:
        positions: Positions [n_atoms, 3], A.

    Raises:
        LabelError: Two atoms are closer than ``MIN_DISTANCE``.
    """
    from scipy.spatial import cKDTree

    pairs = cKDTree(positions).query_pairs(MIN_DISTANCE, output_type="ndarray")
    if len(pairs):
        vectors = positions[pairs[:, 0]] - positions[pairs[:, 1]]
        distances = np.linalg.norm(vectors, axis=1)
        i, j = pairs[distances.argmin()]
        raise LabelError(f"atoms {i} and {j} are {distances.min():.3f} A apart")


def ground_state_spin(number: int) -> int:
    """Return the number of unpaired electrons of an isolated atom.

    Raises:
        ValueError: It is not tabulated here.
    """
    if number not in ATOM_SPIN:
        raise ValueError(
            f"no ground-state spin tabulated for atomic number {number}; "
            f"known: {sorted(ATOM_SPIN)}"
        )
    return ATOM_SPIN[number]


def isolated_atom_energy(number: int, level: LevelOfTheory) -> float:
    """Return the energy (eV) of an isolated atom in its ground-state multiplicity.

    The atom is one unrestricted Kohn-Sham determinant, not a spherical average: an open
    p shell keeps a direction, and the grid and the fitting basis move the energy by up
    to 1e-4 eV with it.

    Raises:
        ValueError: The multiplicity of the element is not tabulated here.
        LabelError: The SCF did not converge.
    """
    level = dataclasses.replace(
        level,
        charge=0,
        spin=ground_state_spin(number),
        max_cycles=max(level.max_cycles, ATOM_MAX_CYCLES),
    )
    molecule = build_molecule(np.array([number]), np.zeros((1, 3)), level)
    try:
        return float(converge(molecule, level).e_tot) * HARTREE_TO_EV
    except LabelError as error:
        raise LabelError(f"isolated atom {molecule.atom_symbol(0)}: {error}") from error


def check_level(level: LevelOfTheory, elements: Iterable[int]) -> None:
    """Find out cheaply whether PySCF can compute a level of theory at all.

    Looks up the functional and the basis of every element, then computes the forces of
    a diatomic of the lightest element, roughly.

    Args:
        level: Level of theory.
        elements: Atomic numbers that will occur.

    Raises:
        ValueError: Names what PySCF cannot do.
    """
    from ase.data import chemical_symbols, covalent_radii
    from pyscf import gto
    from pyscf.dft import libxc

    elements = sorted(elements)
    try:
        libxc.parse_xc(level.method)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"PySCF knows no functional {level.method!r} ({error}); its names are "
            "those of libxc, such as wb97x, pbe0 or b3lyp"
        ) from error
    for number in elements:
        symbol = chemical_symbols[number]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an advertisement for another package
                gto.basis.load(level.basis, symbol)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"PySCF has no basis set {level.basis!r} for {symbol} ({error})"
            ) from error
        ground_state_spin(number)
    lightest = elements[0]
    spin = min(level.spin, 2 - level.spin % 2)
    rough = dataclasses.replace(
        level, grid_level=0, scf_tolerance=1e-6, charge=spin % 2, spin=spin
    )
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0 * covalent_radii[lightest]]])
    try:
        label_frame(np.array([lightest, lightest]), positions, rough)
    except Exception as error:
        if isinstance(error, LabelError) and error.__cause__ is None:
            return  # it ran to the end, and its accuracy does not matter
        raise ValueError(
            f"PySCF cannot compute forces with {level}: {type(error).__name__}: {error}"
        ) from error

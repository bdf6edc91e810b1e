"""Do the numbers fit together?  Wrong units and signs, caught before the first epoch.

Each check needs no knowledge of the level of theory:

* **lengths**: the nearest neighbor of an atom is about one bond away,
  r / (R_i + R_j) near 1 with covalent radii R.  Bohr read as A gives 1.9, nm 0.1.
* **bonds pull back**: between bonded atoms the force along the bond falls with its
  length r; the slope of (f_i - f_j) . r_ij / |r_ij| over r is -2k with a force constant
  k of 10 to 60 eV/A^2.  A gradient has the other sign, hartree/A is 27 times too small.
* **work**: between two similar frames the energy changes by minus the work of the
  forces, E_b - E_a = -1/2 sum (f_a + f_b) . (x_b - x_a).  Energies and forces in
  different units do not.
* **strain**: frames of one composition differ in energy by about the strain that their
  forces tell of, sum f^2 / 2k, where isomers and weak bonds do not hide it.  Energies
  in hartree or kcal/mol beside forces in eV/A are 27 times too small or 23 too large.
* **slope**: pair potentials fitted to the forces give energies of other frames, also
  of frames that do not resemble each other (:mod:`~openmm_se3.data.checks.pair_fit`).
* **binding**: no atom is bound or strained by more than some 15 eV against isolated
  atoms.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from openmm_se3.data.checks.pair_fit import energy_slope
from openmm_se3.data.dataset import formula
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.nearest import nearest_atoms
from openmm_se3.geometry import minimum_image
from openmm_se3.units import BOHR_TO_ANGSTROM, ENERGY_UNITS
from openmm_se3.units import FORCE_UNITS as ALL_FORCE_UNITS

SAMPLE = 400  # frames looked at
WINDOW = 40  # frames of one block among which similar ones are looked for
FEWEST = 20  # bonds or pairs of frames from which anything is concluded

LENGTH_RANGE = (0.7, 1.4)  # of r / (R_i + R_j), median
STIFFNESS_RANGE, STIFFNESS_USUAL = (3.5, 200.0), (12.0, 70.0)  # eV/A^2
WORK_RANGE = (0.5, 1.6)
SLOPE_RANGE, SLOPE_USUAL = (0.68, 1.6), (0.75, 1.5)
STRAIN_RANGE = (0.2, 10.0)
STRAIN_USUAL = (0.6, 4.0)  # 0.9 to 2.8 in molecules, clusters and a liquid
STRAIN_SURE = 0.4  # correlation from which energies are believed to be of the strain
BINDING_LIMIT = 15.0  # eV per atom
SURE = 0.5  # correlation from which a slope is believed
SIMILAR = 0.3  # A, root mean square displacement between frames of a pair

# By how much a number is too large if its unit was taken for another.
LENGTHS_MISREAD = {
    1.0 / BOHR_TO_ANGSTROM: "positions in bohr were read as A",
    BOHR_TO_ANGSTROM: "positions in A were read as bohr",
    0.1: "positions in nm were read as A",
    10.0: "positions in A were read as nm",
}
# Units of forces that files have: energies per A, and atomic units.
FORCE_UNITS = {
    name: size
    for name, size in ALL_FORCE_UNITS.items()
    if name.endswith("/angstrom") or name == "hartree/bohr"
}
FORCES_MISREAD, ENERGIES_MISREAD = (
    {
        units[read] / units[true]: f"{what} in {true} read as {read}"
        for true, read in itertools.permutations(units, 2)
    }
    for what, units in (("forces", FORCE_UNITS), ("energies", ENERGY_UNITS))
)
# Mistakes with forces that the force constants of bonds do not show.
BESIDE_FORCES = {
    **ENERGIES_MISREAD,
    1.0 / BOHR_TO_ANGSTROM: "forces in hartree/bohr read as hartree/angstrom "
    "(force_unit, --force-unit)",
    BOHR_TO_ANGSTROM: "forces in hartree/angstrom read as hartree/bohr",
}
BONDED = 1.3  # times the sum of covalent radii


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: What was looked at.
        value: What was found; None if the data do not show it.
        expected: Lowest and highest plausible value.
        advice: What a value outside probably means.
    """

    name: str
    value: float | None
    expected: tuple[float, float]
    advice: str

    @property
    def passed(self) -> bool:
        """Tell whether nothing speaks against the data."""
        low, high = self.expected
        return self.value is None or low <= self.value <= high

    @property
    def verdict(self) -> str:
        """Return "pass", "FAIL", or "not checked" where the data do not show it."""
        if self.value is None:
            return "not checked"
        return "pass" if self.passed else "FAIL"


def unit_checks(
    frames: Frames, self_energies: Mapping[int, float] | None = None
) -> list[Finding]:
    """Return the checks of a data set, on a random sample of its frames.

    Raises:
        ValueError: A value is impossible, such as a position that is not finite.
    """
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(frames))[:SAMPLE])
    sample = list(frames[chosen])
    for frame in sample:
        if (fault := frame.fault()) is not None:
            raise ValueError(f"{frame.trajectory}, {fault}; take it out of the data")
    bonds = [bond for frame in sample for bond in nearest_bonds(frame)]
    force_constant = stiffness(bonds)
    result = [
        _finding(
            "nearest neighbor over the sum of covalent radii",
            float(np.median([b.ratio for b in bonds])) if bonds else None,
            LENGTH_RANGE,
            LENGTH_RANGE,
            LENGTHS_MISREAD,
        ),
        _finding(
            "force constant of bonds, eV/A^2",
            force_constant,
            STIFFNESS_RANGE,
            STIFFNESS_USUAL,
            FORCES_MISREAD,
        ),
        _finding(
            "energy differences over the work of the forces",
            work_ratio(frames, rng),
            WORK_RANGE,
            WORK_RANGE,
            BESIDE_FORCES,
        ),
        _finding(
            "energy differences over those of pairs fitted to the forces",
            energy_slope(sample),
            SLOPE_RANGE,
            SLOPE_USUAL,
            BESIDE_FORCES,
        ),
        _finding(
            "spread of energies over that of the strain",
            strain_ratio(sample, force_constant),
            STRAIN_RANGE,
            STRAIN_USUAL,
            BESIDE_FORCES,
        ),
    ]
    if self_energies:
        energy = frames.column("energy") - frames.isolated_energies(self_energies)
        binding = np.abs(
            energy[np.isfinite(energy)] / frames.n_atoms[np.isfinite(energy)]
        )
        result.append(
            Finding(
                "energy against isolated atoms, median size, eV per atom",
                float(np.median(binding)) if len(binding) else None,
                (0.0, BINDING_LIMIT),
                "energies and self-energies are of different units or levels of theory",
            )
        )
    return result


def _finding(
    name: str,
    value: float | None,
    expected: tuple[float, float],
    usual: tuple[float, float],
    misread: Mapping[float, str],
) -> Finding:
    """Return a finding whose advice names the mistakes that the value fits.

    Args:
        name: As in :class:`Finding`.
        value: The same.
        expected: The same.
        usual: Where the value is in nearly all data that are right.
        misread: Mistakes, by the factor that they bring.
    """
    if value is None:
        return Finding(name, value, expected, "")
    causes = []
    if value < 0.0:
        causes.append(
            "the gradient was read as the force, or the reverse: gradient: true or "
            "false (--gradient, --no-gradient)"
        )
    if not expected[0] <= abs(value) <= expected[1]:
        fitting = [
            text
            for factor, text in misread.items()
            if usual[0] <= abs(value) / factor <= usual[1]
        ]
        causes.append(
            f"fits {' or '.join(fitting)}"
            if fitting
            else "fits no mistake of units that is known here"
        )
    return Finding(name, value, expected, "; ".join(causes))


def require_plausible(
    frames: Frames, self_energies: Mapping[int, float] | None = None
) -> None:
    """Refuse data whose units or signs cannot be right.

    Raises:
        ValueError: Names each check that failed, with the value and what it means.
    """
    failed = [f for f in unit_checks(frames, self_energies) if not f.passed]
    if failed:
        raise ValueError(
            "the data are not plausible: "
            + "; ".join(
                f"{f.name} is {f.value:.3g}, expected {f.expected[0]:g} to "
                f"{f.expected[1]:g} ({f.advice})"
                for f in failed
            )
        )


@dataclasses.dataclass(frozen=True)
class Bond:
    """Two bonded atoms: elements, length (A), its ratio to radii, and the pull."""

    elements: tuple[int, int]
    length: float
    ratio: float
    push: float  # (f_i - f_j) . r_ij / |r_ij|, eV/A; NaN without forces


def nearest_bonds(frame: Frame) -> Iterator[Bond]:
    """Yield the bond of each atom to its nearest neighbor, by radii."""
    if len(frame.numbers) < 2:
        return
    found = nearest_atoms(frame)
    for i, j, vector, ratio in zip(
        found.center, found.neighbor, found.vector, found.ratio, strict=True
    ):
        length = float(np.linalg.norm(vector))
        push = np.nan
        if frame.forces is not None and length > 0.0:
            push = float((frame.forces[i] - frame.forces[j]) @ vector / length)
        low, high = sorted((int(frame.numbers[i]), int(frame.numbers[j])))
        yield Bond((low, high), length, float(ratio), push)


def stiffness(bonds: list[Bond]) -> float | None:
    """Return the force constant k (eV/A^2) of the kind of bond that shows it best."""
    best, surest = None, SURE
    kinds = {bond.elements for bond in bonds}
    for kind in kinds:
        pairs = np.array(
            [
                (b.length, b.push)
                for b in bonds
                if b.elements == kind and b.ratio < BONDED and np.isfinite(b.push)
            ]
        )
        if len(pairs) < FEWEST or pairs.std(0).min() < 1e-6:
            continue
        length, push = (pairs - pairs.mean(0)).T
        correlation = (length @ push) / np.sqrt((length @ length) * (push @ push))
        if abs(correlation) > surest:
            surest = abs(correlation)
            best = float(-(length @ push) / (length @ length) / 2.0)
    return best


def strain_ratio(sample: list[Frame], force_constant: float | None) -> float | None:
    """Return the spread of energies within compositions over that of sum f^2 / 2k.

    Args:
        sample: Frames.
        force_constant: k, eV/A^2; None or nonsense where forces do not show it.
    """
    if force_constant is None or force_constant <= 0.0:
        return None
    groups: dict[str, list[tuple[float, float]]] = {}
    for frame in sample:
        if frame.forces is None:
            continue
        strain = float((frame.forces**2).sum()) / (2.0 * force_constant)
        if np.isfinite([frame.energy, strain]).all():
            groups.setdefault(formula(frame.numbers), []).append((frame.energy, strain))
    parts = [np.array(g) - np.mean(g, axis=0) for g in groups.values() if len(g) > 1]
    pairs = np.concatenate([np.zeros((0, 2)), *parts])
    if len(pairs) < FEWEST or pairs.std(0).min() == 0.0:
        return None
    energy, strain_energy = pairs.T
    sizes = np.linalg.norm(energy), np.linalg.norm(strain_energy)
    if energy @ strain_energy < STRAIN_SURE * sizes[0] * sizes[1]:
        return None
    return float(sizes[0] / sizes[1])


def work_ratio(frames: Frames, rng: np.random.Generator) -> float | None:
    """Return the slope of energy differences over minus the work of the forces."""
    changes, works = [], []
    blocks = list(frames.by_block())
    for number in rng.permutation(len(blocks)):
        index, rows = blocks[number]
        # Frames of one trajectory, if there are such, resemble each other most.
        codes = frames.blocks[frames.block[index[0]]].trajectory.codes[rows]
        together = index[np.argsort(codes, kind="stable")]
        start = int(rng.integers(max(len(together) - WINDOW, 0) + 1))
        pairs = _similar_pairs(list(frames[together[start : start + WINDOW]]))
        changes += [b.energy - a.energy for a, b in pairs]
        works += [_work(a, b) for a, b in pairs]
        if len(works) >= SAMPLE:
            break
    change, work = np.array(changes), np.array(works)
    known = np.isfinite(change) & np.isfinite(work)
    change, work = change[known], work[known]
    if len(work) < FEWEST or not work.any() or not change.any():
        return None
    correlation = (change @ work) / np.sqrt((change @ change) * (work @ work))
    if abs(correlation) < SURE:
        return None
    return float((change @ work) / (work @ work))


def _similar_pairs(frames: list[Frame]) -> list[tuple[Frame, Frame]]:
    """Return each frame with the one most like it, turned onto it, if there is one."""
    frames = [f for f in frames if f.forces is not None and np.isfinite(f.energy)]
    pairs = []
    for i, first in enumerate(frames):
        turned = [_turned_onto(first, other) for other in frames[i + 1 :]]
        moved = [np.sqrt((_moved(first, f) ** 2).sum(-1).mean()) for f in turned]
        if moved and 0.0 < min(moved) < SIMILAR:
            pairs.append((first, turned[int(np.argmin(moved))]))
    return pairs


def _turned_onto(a: Frame, b: Frame) -> Frame:
    """Return frame b moved and rotated as near to frame a as it can be.

    Kabsch 1976, https://doi.org/10.1107/S0567739476001873.  Periodic frames stay.
    """
    if a.box is not None or b.forces is None:
        return b
    x, y = a.positions - a.positions.mean(0), b.positions - b.positions.mean(0)
    u, _, vt = np.linalg.svd(y.T @ x)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ flip @ vt
    return dataclasses.replace(
        b, positions=y @ rotation + a.positions.mean(0), forces=b.forces @ rotation
    )


def _moved(a: Frame, b: Frame) -> np.ndarray:
    """Return the displacements from one frame to another [n_atoms, 3], A."""
    return minimum_image(b.positions - a.positions, a.box)


def _work(a: Frame, b: Frame) -> float:
    """Return minus the work of the forces from one frame to another, eV."""
    assert a.forces is not None and b.forces is not None
    return float(-0.5 * ((a.forces + b.forces) * _moved(a, b)).sum())

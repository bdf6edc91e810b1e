"""What a data set holds: counts, ranges, what is missing, doubled or far out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from openmm_se3.data.charged_frames import is_charged
from openmm_se3.data.checks.near_duplicates import NearDuplicates, near_duplicates
from openmm_se3.data.checks.units import Finding, unit_checks
from openmm_se3.data.dataset import Dataset, formula
from openmm_se3.data.frames import SPLITS, Frame, Frames
from openmm_se3.data.nearest import nearest_atoms
from openmm_se3.data.self_energies import SelfEnergies
from openmm_se3.data.splits import distribution
from openmm_se3.elements import symbols_of

SAMPLE = 20_000  # frames whose positions and forces are read
# Far out: atoms nearer to each other than this share of their covalent radii, a force
# beyond this (eV/A), an energy so many spreads from the median of its formula.
NEAREST, LARGEST_FORCE, SPREADS = 0.5, 30.0, 8.0


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Facts about a data set; energies in eV, lengths in A, forces in eV/A.

    Attributes:
        level: Level of theory.
        frames: Number of frames.
        looked_at: Frames whose positions and forces were read; a random sample of very
            large sets.
        splits: Frames by split.
        distribution: Frames by kind and temperature in each split, where they have
            any.
        formulas: Frames by formula, most frequent first.
        trajectories: Number of different trajectories.
        elements: Atoms by element.
        sizes: Smallest and largest number of atoms.
        periodic: Frames in a box.
        charged: Frames with a charge or unpaired electrons.
        notes: What was found or decided while reading.
        energy: Lowest and highest energy against isolated atoms, per atom.
        nearest: Shortest distance between two atoms.
        force_rms, force_max: Root mean square and largest force component.
        no_energy: Frames without an energy.
        no_forces: Frames without forces, of those looked at.
        doubled: Frames whose structure another frame has too.
        outliers: What is far out, by frame.
        total: Mean and standard deviation of the energies; Table 3.1 of the thesis.
        interaction: The same after subtracting the self-energies.
        self_energies: The self-energies.
        unit_checks: Checks of units and signs.
        near_duplicates: Of validation and test to training structures.
    """

    level: str
    frames: int
    looked_at: int
    splits: dict[str, int]
    distribution: dict[str, list[int]]
    formulas: dict[str, int]
    trajectories: int
    elements: dict[str, int]
    sizes: tuple[int, int]
    periodic: int
    charged: int
    notes: tuple[str, ...]
    energy: tuple[float, float]
    nearest: float
    force_rms: float
    force_max: float
    no_energy: int
    no_forces: int
    doubled: int
    outliers: list[str]
    total: tuple[float, float]
    interaction: tuple[float, float]
    self_energies: SelfEnergies
    unit_checks: list[Finding]
    near_duplicates: NearDuplicates


def inspect(dataset: Dataset, chosen: SelfEnergies) -> Inspection:
    """Return the facts about a data set.

    Args:
        dataset: The data.
        chosen: Self-energies to subtract.
    """
    frames = dataset.frames
    energy = frames.column("energy")
    interaction = energy - frames.isolated_energies(chosen.energies)
    per_atom = interaction / frames.n_atoms
    rng = np.random.default_rng(0)  # of the sample of very large sets
    sample = frames[np.sort(rng.permutation(len(frames))[:SAMPLE])]
    looked = _look(sample)
    split = frames.column("split")
    return Inspection(
        level=str(dataset.level),
        frames=len(frames),
        looked_at=len(sample),
        splits={name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
        distribution=distribution(frames),
        formulas=_formulas(frames),
        trajectories=_trajectories(frames),
        elements=_elements(frames),
        sizes=(int(frames.n_atoms.min()), int(frames.n_atoms.max())),
        periodic=_count(frames, [block.box is not None for block in frames.blocks]),
        charged=int(is_charged(frames).sum()),
        notes=dataset.notes,
        energy=(_ignoring_nan(np.min, per_atom), _ignoring_nan(np.max, per_atom)),
        nearest=looked.nearest,
        force_rms=looked.force_rms,
        force_max=looked.force_max,
        no_energy=int(np.isnan(energy).sum()),
        no_forces=looked.no_forces,
        doubled=looked.doubled,
        outliers=[*_energy_outliers(frames, per_atom), *looked.outliers],
        total=(_ignoring_nan(np.mean, energy), _ignoring_nan(np.std, energy)),
        interaction=(
            _ignoring_nan(np.mean, interaction),
            _ignoring_nan(np.std, interaction),
        ),
        self_energies=chosen,
        unit_checks=unit_checks(frames, chosen.energies),
        near_duplicates=near_duplicates(frames),
    )


@dataclasses.dataclass(frozen=True)
class _Looked:
    nearest: float
    force_rms: float
    force_max: float
    no_forces: int
    doubled: int
    outliers: list[str]


def _look(sample: Frames) -> _Looked:
    """Read the positions and forces of frames."""
    nearest, largest, squares, count, missing = np.inf, 0.0, 0.0, 0, 0
    outliers: list[str] = []
    seen: set[bytes] = set()
    for frame in sample:
        # To a thousandth: a copy that went through a text file is a copy.
        key = frame.numbers.tobytes() + np.round(frame.positions, 3).tobytes()
        seen.add(key)
        distance, share = _nearest(frame)
        nearest = min(nearest, distance)
        if share < NEAREST:
            outliers.append(f"{frame.trajectory}: two atoms {distance:.2f} A apart")
        forces = frame.forces
        if forces is None or not np.isfinite(forces).all():
            missing += 1
            continue
        squares += float(np.square(forces).sum())
        count += forces.size
        biggest = float(np.abs(forces).max())
        largest = max(largest, biggest)
        if biggest > LARGEST_FORCE:
            outliers.append(f"{frame.trajectory}: a force of {biggest:.0f} eV/A")
    rms = float(np.sqrt(squares / count)) if count else float("nan")
    return _Looked(
        nearest,
        rms,
        largest if count else float("nan"),
        missing,
        len(sample) - len(seen),
        outliers,
    )


def _nearest(frame: Frame) -> tuple[float, float]:
    """Return the shortest distance (A) and its share of the sum of covalent radii."""
    if len(frame.numbers) < 2:
        return np.inf, np.inf
    found = nearest_atoms(frame)
    return float(found.distance.min()), float(found.ratio.min())


def _energy_outliers(frames: Frames, per_atom: np.ndarray) -> list[str]:
    """Name frames whose energy is far from all others of their formula."""
    members: dict[str, list[np.ndarray]] = {}
    for index, _ in frames.by_block():
        name = formula(frames.blocks[frames.block[index[0]]].numbers)
        members.setdefault(name, []).append(index)
    found = []
    for name, parts in members.items():
        index = np.concatenate(parts)
        index = index[np.isfinite(per_atom[index])]
        if len(index) < 10:
            continue
        values = per_atom[index]
        median = np.median(values)
        # The spread of the middle half, as a standard deviation.
        low, high = np.percentile(values, [25.0, 75.0])
        spread = max((high - low) / 1.349, 1e-6)
        for i in index[np.abs(values - median) > SPREADS * spread]:
            found.append(
                f"{frames[int(i)].trajectory}: {per_atom[i] - median:+.2f} eV per atom "
                f"from the median of {name}"
            )
    return found


def _formulas(frames: Frames) -> dict[str, int]:
    counts: dict[str, int] = {}
    for index, _ in frames.by_block():
        name = formula(frames.blocks[frames.block[index[0]]].numbers)
        counts[name] = counts.get(name, 0) + len(index)
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _elements(frames: Frames) -> dict[str, int]:
    counts: dict[int, int] = {}
    for index, _ in frames.by_block():
        numbers, times = np.unique(
            frames.blocks[frames.block[index[0]]].numbers, return_counts=True
        )
        for number, n in zip(numbers.tolist(), times.tolist(), strict=True):
            counts[number] = counts.get(number, 0) + n * len(index)
    present = sorted(counts)
    return {s: counts[z] for s, z in zip(symbols_of(present), present, strict=True)}


def _trajectories(frames: Frames) -> int:
    names = set()
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        used = np.unique(block.trajectory.codes[rows])
        names |= {(block.source, block.trajectory.names[code]) for code in used}
    return len(names)


def _count(frames: Frames, of_block: list[bool]) -> int:
    return int(np.array(of_block, dtype=bool)[frames.block].sum())


def _ignoring_nan(function: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(function(known)) if len(known) else float("nan")

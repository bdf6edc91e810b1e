"""Energies of isolated atoms, which are subtracted before a network sees an energy.

They come with our own data, are given, are computed with DFT, or are fitted: the least
squares solution of

    E_frame = sum over elements Z of n_Z(frame) E_Z

which says how much of an energy the composition alone explains.  For a run that starts
from a trained model they are fitted to what this model leaves of the energies.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping

import numpy as np

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.elements import numbers_of, symbols_of

Choice = typing.Literal["auto", "least-squares", "isolated"]


@dataclasses.dataclass(frozen=True)
class SelfEnergies:
    """Energies of isolated atoms and where they come from.

    Attributes:
        energies: eV, by atomic number.
        origin: "data", "given", "isolated atoms", "least squares", or what they were
            fitted to.
        warning: What the user should know; empty if there is nothing.
    """

    energies: dict[int, float]
    origin: str
    warning: str = ""


def self_energies(
    dataset: Dataset, choice: Choice | Mapping[str, float] = "auto"
) -> SelfEnergies:
    """Return the self-energies of a data set.

    Args:
        dataset: The data.
        choice: "auto" takes those of the data, and fits those of other elements;
            "least-squares" fits all of them to the training frames; "isolated" computes
            them with PySCF at the level of the data; a mapping gives them in eV by
            chemical symbol.

    Raises:
        ValueError: An element of the data is not among those given, or the level of the
            data is only known by name.
    """
    elements = sorted({int(z) for b in dataset.frames.blocks for z in b.numbers})
    if isinstance(choice, Mapping):
        numbers = numbers_of(choice)
        given = dict(zip(numbers, map(float, choice.values()), strict=True))
        lacking = symbols_of(z for z in elements if z not in given)
        if lacking:
            raise ValueError(f"data.self_energies lacks {lacking}, which the data hold")
        return SelfEnergies(given, "given")
    if choice == "isolated":
        return SelfEnergies(_isolated(dataset, elements), "isolated atoms")
    known = dataset.self_energies if choice == "auto" else {}
    if known and known.keys() >= set(elements):
        return SelfEnergies(known, "data")
    train = dataset.select("train")  # what is tested must not have been fitted to
    return least_squares(train if len(train) else dataset.frames, known)


def least_squares(
    frames: Frames, known: Mapping[int, float] | None = None
) -> SelfEnergies:
    """Fit the energies of isolated atoms to the energies of frames.

    Where the compositions do not tell elements apart (pure water: two H for each O) the
    solution of smallest norm is returned, with a warning.

    Args:
        frames: The frames.
        known: Energies that are given (eV), by atomic number; only others are fitted.

    Raises:
        ValueError: No frame has an energy.
    """
    known = known or {}
    present = {int(z) for b in frames.blocks for z in b.numbers}
    elements = sorted(present - known.keys())
    energy = frames.column("energy") - frames.isolated_energies(
        {**dict.fromkeys(present, 0.0), **known}
    )
    solution, rank = _fit(frames, energy, elements)
    warning = ""
    if rank < len(elements):
        warning = (
            f"the compositions do not tell the energies of {symbols_of(elements)} "
            f"apart (rank {rank} of {len(elements)}): of all fits that are as good the "
            "one of smallest norm is taken, and an isolated atom's energy means nothing"
        )
    return SelfEnergies(
        {**known, **dict(zip(elements, solution.tolist(), strict=True))},
        "data, others by least squares" if known else "least squares",
        warning,
    )


def left_by(
    frames: Frames,
    interaction: np.ndarray,
    before: Mapping[int, float],
    name: str,
) -> SelfEnergies:
    """Fit the energies of isolated atoms to what a trained model leaves of energies.

    The model's interaction energies and these self-energies are together as near to
    the energies as they can be.  Where the compositions do not tell elements apart, the
    model's own self-energies change as little as possible, and elements that no frame
    holds keep theirs.

    Args:
        frames: The frames.
        interaction: The model's interaction energies [n_frames], eV.
        before: The model's self-energies by atomic number, eV.
        name: What to call the model.

    Raises:
        ValueError: No frame has an energy.
    """
    elements = sorted({int(z) for b in frames.blocks for z in b.numbers})
    left = frames.column("energy") - interaction - frames.isolated_energies(before)
    changes, _ = _fit(frames, left, elements)
    changed = {
        z: before[z] + float(change)
        for z, change in zip(elements, changes, strict=True)
    }
    return SelfEnergies({**before, **changed}, f"fitted to what {name} leaves")


def _fit(
    frames: Frames, energy: np.ndarray, elements: list[int]
) -> tuple[np.ndarray, int]:
    """Fit energies of elements to energies of frames by least squares.

    Args:
        frames: The frames.
        energy: Energies [n_frames], eV; NaN where unknown.
        elements: Atomic numbers of the elements to fit.

    Returns:
        Energies of the elements [n_elements], eV, the shortest of all solutions, and
        how many of them the compositions tell apart.

    Raises:
        ValueError: No energy is known.
    """
    counts, means, weights = [], [], []
    for index, _ in frames.by_block():
        finite = energy[index][np.isfinite(energy[index])]
        if len(finite):
            numbers = frames.blocks[frames.block[index[0]]].numbers
            counts.append([(numbers == z).sum() for z in elements])
            means.append(finite.mean())
            weights.append(np.sqrt(len(finite)))
    if not counts:
        raise ValueError("no frame has an energy, so self-energies cannot be fitted")
    weight = np.array(weights)
    matrix = np.array(counts, dtype=float) * weight[:, None]
    # numpy before 2 would take a smaller bound, and miss that the rank is too low.
    solution, _, rank, _ = np.linalg.lstsq(matrix, np.array(means) * weight, rcond=None)
    return solution, int(rank)


def _isolated(dataset: Dataset, elements: list[int]) -> dict[int, float]:
    from openmm_se3.data.labeling.dft import isolated_atom_energy

    if not isinstance(dataset.level, LevelOfTheory):
        if dataset.level.name != "wB97X/6-31G(d)":
            raise ValueError(
                f"isolated atoms cannot be computed at {dataset.level}, known by name "
                "only; give self-energies in eV, or fit them (least-squares)"
            )
        level = LevelOfTheory()  # which reproduces that level of the ANI data sets
    else:
        level = dataset.level
    return {z: isolated_atom_energy(z, level) for z in elements}

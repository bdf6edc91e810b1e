"""Do energies and forces of unrelated frames belong together?  A fit of pairs.

Pair potentials, sums of Gaussians in the distance for each pair of elements within and
between molecules, are fitted to the forces alone.  The energies that they give to other
frames of the same composition must differ as the labels do: a slope far from 1 means
that energies and forces have different units.  The part between molecules is given a
slope of its own, because pairs describe it poorly.

For molecules, clusters and liquids with right units the slope is 0.8 to 1.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from openmm_se3.data.frames import Frame
from openmm_se3.elements import COVALENT_RADII, symbols_of
from openmm_se3.geometry import minimum_image

REACH, STEP = 4.0, 0.25  # A: longest pair, and spacing and width of the Gaussians
CENTERS = np.arange(2 * STEP, REACH, STEP)
FRAMES, ATOMS, FEWEST, MOST_ATOMS = 200, 5000, 20, 250
RIDGE = 1e-3
FOLDS = 3  # energies of a frame come from fits to the others
# The slope is believed if it explains so much of the energies, and its relative error
# is below this.
EXPLAINED, ERROR = 0.85, 0.05

Kind = tuple[int, int, bool]


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Pairs of one frame: atoms, kind, functions and their negative derivatives."""

    frame: Frame
    kinds: list[Kind]
    i: np.ndarray
    j: np.ndarray
    values: np.ndarray  # [n_pairs, n_centers]
    forces: np.ndarray  # on atom i [n_pairs, 3, n_centers]


def energy_slope(frames: Sequence[Frame]) -> float | None:
    """Return the slope of energy differences over those that the forces give.

    Args:
        frames: Frames, of several compositions or of one.

    Returns:
        The slope, 1 if energies and forces belong together; None if the fit does not
        show it.
    """
    used = [
        frame
        for frame in frames
        if frame.forces is not None
        and np.isfinite(frame.forces).all()
        and np.isfinite(frame.energy)
        and 1 < len(frame.numbers) <= MOST_ATOMS
    ][:FRAMES]
    atoms = np.cumsum([len(frame.numbers) for frame in used])
    used = used[: int((atoms <= ATOMS).sum())]
    if len(used) < FEWEST:
        return None
    parts = [_pairs(frame) for frame in used]
    kinds = {k: i for i, k in enumerate(sorted({k for p in parts for k in p.kinds}))}
    if not kinds:
        return None
    size = len(kinds) * len(CENTERS)
    within, between = np.zeros((2, len(used), size))
    squares, sums = np.zeros((FOLDS, size, size)), np.zeros((FOLDS, size))
    for row, part in enumerate(parts):
        place = np.array([kinds[kind] for kind in part.kinds], dtype=int)
        inside = np.array([kind[2] for kind in part.kinds], dtype=bool)
        for energies, chosen in ((within, inside), (between, ~inside)):
            sorted_in = energies[row].reshape(len(kinds), -1)
            np.add.at(sorted_in, place[chosen], part.values[chosen])
        assert part.frame.forces is not None
        n_atoms = len(part.frame.numbers)
        matrix = np.zeros((n_atoms, len(kinds), 3, len(CENTERS)))
        np.add.at(matrix, (part.i, place), part.forces)
        np.add.at(matrix, (part.j, place), -part.forces)
        matrix = matrix.transpose(0, 2, 1, 3).reshape(3 * n_atoms, size)
        squares[row % FOLDS] += matrix.T @ matrix
        sums[row % FOLDS] += matrix.T @ part.frame.forces.ravel()
    predicted = np.zeros((len(used), 2))
    for fold in range(FOLDS):
        square = squares.sum(0) - squares[fold]
        ridge = RIDGE * max(np.trace(square) / size, 1e-12)
        weights = np.linalg.solve(
            square + ridge * np.eye(size), sums.sum(0) - sums[fold]
        )
        predicted[fold::FOLDS, 0] = within[fold::FOLDS] @ weights
        predicted[fold::FOLDS, 1] = between[fold::FOLDS] @ weights
    return _slope(used, predicted)


def _slope(frames: Sequence[Frame], predicted: np.ndarray) -> float | None:
    """Return the slope of the energies over the first column, where it is sure.

    Args:
        frames: The frames.
        predicted: Energies within and between molecules [n_frames, 2], eV.
    """
    groups: dict[tuple[bytes, int], list[int]] = {}
    for row, frame in enumerate(frames):
        # Each fit has a zero of its own.
        key = np.sort(frame.numbers).tobytes(), row % FOLDS
        groups.setdefault(key, []).append(row)
    energy = np.array([frame.energy for frame in frames])
    for rows in groups.values():
        energy[rows] -= energy[rows].mean()
        predicted[rows] -= predicted[rows].mean(axis=0)
    size = np.abs(predicted).max(axis=0)
    if not energy.any() or not size[0]:
        return None
    columns = predicted if size[1] > 1e-9 * size[0] else predicted[:, :1]
    slopes = np.linalg.lstsq(columns, energy, rcond=None)[0]
    left = float(((energy - columns @ slopes) ** 2).sum())
    freedom = len(frames) - len(groups) - len(slopes)
    if freedom < FEWEST // 2 or left > (1.0 - EXPLAINED) * float(energy @ energy):
        return None
    variance = np.linalg.pinv(columns.T @ columns)[0, 0] * left / freedom
    slope = float(slopes[0])
    return slope if np.sqrt(variance) < ERROR * abs(slope) else None


def _pairs(frame: Frame) -> _Pairs:
    n_atoms = len(frame.numbers)
    i, j = np.triu_indices(n_atoms, 1)
    vectors = minimum_image(frame.positions[i] - frame.positions[j], frame.box)
    lengths = np.linalg.norm(vectors, axis=1)
    radii = np.array([COVALENT_RADII[s] for s in symbols_of(frame.numbers)])
    ratios = np.full((n_atoms, n_atoms), np.inf)
    ratios[i, j] = ratios[j, i] = lengths / (radii[i] + radii[j])
    near = (lengths < REACH) & (lengths > 0.0)
    i, j, vectors, lengths = i[near], j[near], vectors[near], lengths[near]
    # A molecule: atoms that are each other's nearest, whatever the distance, so that
    # stretched bonds stay in it.
    nearest = ratios.argmin(axis=1)
    links = csr_array((np.ones(n_atoms), (np.arange(n_atoms), nearest)))
    links.resize(n_atoms, n_atoms)
    molecule = connected_components(links, directed=False)[1]
    elements = np.sort(frame.numbers[np.stack([i, j])], axis=0).T.tolist()
    same = (molecule[i] == molecule[j]).tolist()
    steps = (lengths[:, None] - CENTERS) / STEP
    gauss = np.exp(-0.5 * steps**2)
    fade = 0.5 + 0.5 * np.cos(np.pi * lengths / REACH)[:, None]
    slope = -0.5 * np.pi / REACH * np.sin(np.pi * lengths / REACH)[:, None]
    derivative = gauss * (slope - fade * steps / STEP)
    return _Pairs(
        frame,
        [(int(a), int(b), bool(s)) for (a, b), s in zip(elements, same, strict=True)],
        i,
        j,
        gauss * fade,
        -derivative[:, None, :] * (vectors / lengths[:, None])[:, :, None],
    )

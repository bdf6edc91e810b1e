"""Values that no structure and no label has: damage, or another unit."""

from __future__ import annotations

import numpy as np

# Longer distances overflow the integers of
# cell lists, and thinner boxes have millions of images within a cutoff.
MAX_LENGTH, MIN_BOX = 1e6, 0.1  # A
MAX_ENERGY, MAX_FORCE = 1e6, 1e5  # eV per atom, eV/A


def fault_of(
    positions: np.ndarray,
    energy: np.ndarray,
    forces: np.ndarray | None,
    box: np.ndarray | None,
) -> tuple[int, str] | None:
    """Return the first frame with an impossible value, and which; None without one.

    NaN stands for an unknown energy or force.

    Args:
        positions: Positions [n_frames, n_atoms, 3], A.
        energy: Energies [n_frames], eV.
        forces: Forces [n_frames, n_atoms, 3], eV/A; None if there are none.
        box: Lattice vectors as rows [n_frames, 3, 3], A; None without a box.
    """
    n_atoms = max(positions.shape[1], 1)
    limits = (
        ("a position", "A", positions, MAX_LENGTH, False),
        ("a box vector", "A", box, MAX_LENGTH, False),
        ("an energy", "eV", energy, MAX_ENERGY * n_atoms, True),
        ("a force", "eV/A", forces, MAX_FORCE, True),
    )
    for what, unit, values, limit, may_lack in limits:
        if values is None or not values.size:
            continue
        sizes = np.abs(values).reshape(len(values), -1)
        good = (sizes <= limit) | (np.isnan(sizes) if may_lack else False)
        if not good.all():
            row, place = np.argwhere(~good)[0]
            value = values.reshape(len(values), -1)[row, place]
            return int(
                row
            ), f"{what} is {value:g} {unit}, at most {limit:g} is possible"
    if box is not None and len(box):
        thin = np.flatnonzero(plane_distances(box).min(axis=1) < MIN_BOX)
        if len(thin):
            row = int(thin[0])
            return row, (
                f"the box {box[row].tolist()} has no volume, or is thinner than "
                f"{MIN_BOX} A; free molecules have no box"
            )
    return None


def plane_distances(box: np.ndarray) -> np.ndarray:
    """Return the distances of opposite faces of boxes [n, 3], A; 0 if they are flat.

    Args:
        box: Lattice vectors as rows [n, 3, 3], A.
    """
    a, b, c = np.moveaxis(box, 1, 0)
    areas = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
    areas = np.linalg.norm(areas, axis=2)
    volume = np.abs(np.einsum("ni,ni->n", a, np.cross(b, c)))
    return np.divide(
        volume[:, None], areas, out=np.zeros_like(areas), where=areas > 0.0
    )

"""Labeled frames as plain arrays, which every environment can read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from openmm_se3.files import atomic_write

# What a network that computes in float32 may lose when it reads a file.
TOLERANCES = {
    "positions": 2e-6,  # A
    "boxes": 2e-6,  # A
    "energies": 2e-5,  # eV
    "forces": 1e-5,  # eV/A
}


@dataclasses.dataclass(frozen=True)
class Labels:
    """Frames one after another.

    Attributes:
        n_atoms: Atoms of each frame [n_frames].
        numbers: Atomic numbers of all frames [n_atoms_total].
        positions: Positions [n_atoms_total, 3], A.
        boxes: Lattice vectors as rows [n_frames, 3, 3], A; zeros without a box.
        energies: Energies [n_frames], eV.
        forces: Forces [n_atoms_total, 3], eV/A.
    """

    n_atoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    energies: np.ndarray
    forces: np.ndarray

    def __len__(self) -> int:
        return len(self.n_atoms)

    def atoms(self, frames: np.ndarray) -> np.ndarray:
        """Return the indices of the atoms of some frames, one frame after another."""
        ends = np.cumsum(self.n_atoms)
        return np.concatenate(
            [np.arange(ends[i] - self.n_atoms[i], ends[i]) for i in frames]
        )

    def take(self, frames: np.ndarray) -> Labels:
        """Return some of the frames."""
        atoms = self.atoms(frames)
        return Labels(
            self.n_atoms[frames],
            self.numbers[atoms],
            self.positions[atoms],
            self.boxes[frames],
            self.energies[frames],
            self.forces[atoms],
        )

    def first(self, most_atoms: int) -> np.ndarray:
        """Return frames of at most so many atoms, spread evenly; all if they fit."""
        share = min(1.0, most_atoms / self.n_atoms.sum())
        count = max(1, int(share * len(self)))
        return np.linspace(0, len(self) - 1, count).astype(int)

    def save(self, path: Path) -> None:
        """Write the arrays as a NumPy archive."""
        with atomic_write(path) as temporary:
            np.savez(temporary, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Labels:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)

    def require_equal(self, read: Labels, reader: str) -> None:
        """Compare with what another program has read from its file of these frames.

        Raises:
            ValueError: Frames are missing or in another order, or a label differs by
                more than rounding, as with another unit or sign.
        """
        for name in ("n_atoms", "numbers"):
            if not np.array_equal(getattr(self, name), getattr(read, name)):
                raise ValueError(f"{reader} has read other frames: {name} differ")
        for name, tolerance in TOLERANCES.items():
            ours, theirs = getattr(self, name), getattr(read, name)
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"{reader} has read {name} of shape {theirs.shape}, written were "
                    f"{ours.shape}"
                )
            worst = np.abs(ours - theirs).max()
            if not worst < tolerance:
                raise ValueError(
                    f"{reader} has read {name} that differ by {worst:.2g} from those "
                    f"written (allowed: {tolerance:g}); check units and sign"
                )

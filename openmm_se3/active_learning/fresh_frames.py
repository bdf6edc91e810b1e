"""Errors on fresh frames: labeled, and never trained on before they are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.active_learning.arrays import read_arrays, write_arrays
from openmm_se3.active_learning.candidates import METADYNAMICS
from openmm_se3.active_learning.committee import Atoms, Committee
from openmm_se3.data.frames import Frames
from openmm_se3.units import EV_TO_KCAL_PER_MOL

RESAMPLES = 1000  # of the bootstrap
INTERVAL = 90.0  # percent
QUANTITIES = (
    "force_mae",
    "force_mae_low",
    "force_mae_high",
    "force_rmse",
    "force_mae_worst",
    "energy_mae_centered",
)


@dataclasses.dataclass(frozen=True)
class Fresh:
    """Labels of fresh frames and what the committee says, in kcal/mol and A.

    Attributes:
        numbers: Atomic numbers of all atoms [n_atoms].
        frame: Frame of each atom [n_atoms].
        positions: Positions [n_atoms, 3], A.
        temperature: K [n_frames].
        biased: Whether a frame is one of metadynamics [n_frames].
        energy, predicted_energy: Against isolated atoms [n_frames], kcal/mol.
        forces, predicted_forces: [n_atoms, 3], kcal/mol/A.
        deviation: Standard deviation of the force on each atom [n_atoms], kcal/mol/A,
            not calibrated.
    """

    numbers: np.ndarray
    frame: np.ndarray
    positions: np.ndarray
    temperature: np.ndarray
    biased: np.ndarray
    energy: np.ndarray
    predicted_energy: np.ndarray
    forces: np.ndarray
    predicted_forces: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, committee: Committee, frames: Frames) -> Fresh:
        """Compare a committee with labels."""
        listed = list(frames)
        atoms = Atoms([frame.numbers for frame in listed])
        positions = np.concatenate([frame.positions for frame in listed])
        predicted = committee.predict(atoms, positions)
        energies = np.array([frame.energy for frame in listed])
        scale = EV_TO_KCAL_PER_MOL
        return cls(
            numbers=atoms.numbers,
            frame=atoms.molecule,
            positions=positions,
            temperature=np.array([frame.temperature for frame in listed]),
            biased=np.array([frame.kind == METADYNAMICS for frame in listed]),
            energy=scale * (energies - committee.isolated_energies(atoms)),
            predicted_energy=scale * predicted.energies.mean(axis=0),
            forces=scale
            * np.concatenate([np.asarray(frame.forces) for frame in listed]),
            predicted_forces=scale * predicted.mean_forces,
            deviation=scale * predicted.atom_deviations,
        )

    def save(self, path: Path) -> None:
        """Write the arrays."""
        write_arrays(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Fresh:
        """Read what :meth:`save` wrote."""
        arrays = read_arrays(path)
        # Campaigns of earlier versions have none.
        arrays.setdefault("biased", np.zeros(len(arrays["temperature"]), dtype=bool))
        return cls(**arrays)

    @property
    def errors(self) -> np.ndarray:
        """Errors of the forces [n_atoms, 3], kcal/mol/A."""
        return np.asarray(self.predicted_forces - self.forces)

    def by_frame(self) -> np.ndarray:
        """Return the mean absolute force error of each frame [n_frames]."""
        sizes = np.abs(self.errors).mean(axis=1)
        counts = np.bincount(self.frame)
        return np.asarray(np.bincount(self.frame, sizes) / counts)


def errors_by_temperature(
    fresh: Fresh,
    temperatures: Sequence[float],
    seed: int,
    biased_at: float | None = None,
) -> list[dict[str, Any]]:
    """Return errors at each temperature, with intervals from a bootstrap of frames.

    Where no walker left a frame, they are infinite.

    Args:
        fresh: Labels and predictions.
        temperatures: K.
        seed: Seed of the bootstrap.
        biased_at: Temperature of metadynamics, K, whose frames are a last row with
            ``biased``; None without any.
    """
    groups = [(heat, False) for heat in temperatures]
    if biased_at is not None:
        groups.append((biased_at, True))
    rng = np.random.default_rng([seed, 3])
    by_frame = fresh.by_frame()
    energy = fresh.predicted_energy - fresh.energy
    table: list[dict[str, Any]] = []
    for temperature, biased in groups:
        chosen = np.flatnonzero(
            (fresh.temperature == temperature) & (fresh.biased == biased)
        )
        which: dict[str, Any] = {"temperature": float(temperature)}
        if biased:
            which["biased"] = True
        if not len(chosen):
            table.append(
                {
                    **which,
                    "frames": 0,
                    **dict.fromkeys(QUANTITIES, float("inf")),
                }
            )
            continue
        drawn = rng.integers(len(chosen), size=(RESAMPLES, len(chosen)))
        means = by_frame[chosen][drawn].mean(axis=1)
        tail = (100.0 - INTERVAL) / 2.0
        low, high = np.percentile(means, (tail, 100.0 - tail))
        atoms = np.isin(fresh.frame, chosen)
        e = energy[chosen] - energy[chosen].mean()
        table.append(
            {
                **which,
                "frames": len(chosen),
                "force_mae": round(float(by_frame[chosen].mean()), 5),
                "force_mae_low": round(float(low), 5),
                "force_mae_high": round(float(high), 5),
                "force_rmse": round(
                    float(np.sqrt(np.square(fresh.errors[atoms]).mean())), 5
                ),
                "force_mae_worst": round(float(by_frame[chosen].max()), 5),
                "energy_mae_centered": round(float(np.abs(e).mean()), 5),
            }
        )
    return table


def calibration(tests: Sequence[Fresh]) -> float:
    """Return the ratio of the true force errors to the deviation, at least 1.

    The root mean square over atoms of |error|, divided by that of the deviation.
    """
    errors = np.concatenate([np.square(f.errors).sum(axis=1) for f in tests])
    deviations = np.concatenate([np.square(f.deviation) for f in tests])
    if not deviations.mean() > 0.0:
        return 1.0
    return max(1.0, float(np.sqrt(errors.mean() / deviations.mean())))

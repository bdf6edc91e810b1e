"""Self-energies by least squares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data_files import numbered

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.self_energies import least_squares, self_energies


def test_least_squares_finds_the_energies_of_atoms() -> None:
    rng = np.random.default_rng(0)
    exact = {1: -13.6, 6: -1030.0, 8: -2042.0}
    molecules = [[1, 1, 8], [6, 1, 1, 1, 1], [6, 8], [6, 8, 8], [1, 8]]
    frames = [
        Frame(
            np.array(numbers),
            rng.normal(size=(len(numbers), 3)),
            sum(exact[z] for z in numbers),
            None,
        )
        for numbers in molecules
        for _ in range(3)
    ]
    missing = dataclasses.replace(frames[0], energy=float("nan"))
    fitted = least_squares(Frames.of([*frames, missing]))
    assert fitted.energies == pytest.approx(exact) and not fitted.warning


def test_every_frame_counts_alike_in_the_fit() -> None:
    """Where no self-energies explain all energies, frames decide, not formulas."""
    rng = np.random.default_rng(2)
    counts = {(1, 1): 9, (1, 8): 4, (1, 1, 8): 1, (8, 8): 2}
    rows, energies = [], []
    for numbers, n_frames in counts.items():
        for _ in range(n_frames):
            rows.append([numbers.count(1), numbers.count(8)])
            energies.append(rng.normal(scale=3.0) - 10.0 * sum(numbers))
    expected = np.linalg.lstsq(np.array(rows, float), np.array(energies))[0]
    frames = [
        dataclasses.replace(numbered("t", numbers), energy=energies.pop(0))
        for numbers, n_frames in counts.items()
        for _ in range(n_frames)
    ]
    fitted = least_squares(Frames.of(frames))
    assert [fitted.energies[1], fitted.energies[8]] == pytest.approx(expected.tolist())


def test_pure_water_gives_the_smallest_energies_and_a_warning(
    dataset: Dataset,
) -> None:
    fitted = self_energies(dataset, "least-squares")
    assert "rank 1 of 2" in fitted.warning
    # Of all (H, O) with 2 H + O fixed, the shortest has H = 2 O.
    assert fitted.energies[1] == pytest.approx(2.0 * fitted.energies[8])
    mean = dataset.frames.column("energy") / (dataset.frames.n_atoms / 3)
    total = 2 * fitted.energies[1] + fitted.energies[8]
    assert total == pytest.approx(mean.mean(), abs=0.2)
    assert self_energies(dataset).energies == dataset.self_energies
    given = self_energies(dataset, {"H": -13.0, "O": -2000.0})
    assert given.energies == {1: -13.0, 8: -2000.0}
    with pytest.raises(ValueError, match=r"lacks \['O'\]"):
        self_energies(dataset, {"H": -13.0})


def test_self_energies_are_fitted_to_training_frames_alone(dataset: Dataset) -> None:
    """What is tested must not have been fitted to, however wrong it is."""
    exact = {1: -13.6, 8: -2042.0}
    energies = {"train": 0.0, "validation": 50.0, "test": -90.0}
    frames = [
        Frame(
            np.array(numbers),
            np.random.default_rng(0).normal(size=(len(numbers), 3)),
            sum(exact[z] for z in numbers) + energies[split],
            None,
            split=split,
        )
        for numbers in ([1, 1, 8], [1, 8], [8, 8])
        for split in energies
    ]
    data = dataclasses.replace(dataset, frames=Frames.of(frames), self_energies={})
    for choice in ("auto", "least-squares"):
        fitted = self_energies(data, choice)
        assert fitted.energies == pytest.approx(exact)
        assert fitted.origin == "least squares"

"""Sampled water molecules and clusters, and the data of the shipped models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from cheap_labels import ROOT, Serial, kind
from click.testing import CliRunner

from openmm_se3.cli import main
from openmm_se3.data.frames import Frame
from openmm_se3.data.labeling.provenance import read_provenance
from openmm_se3.data.labeling.water_sampler import (
    APPROACH_DISTANCES,
    PLANS,
    Plan,
    has_bad_contact,
    sample_water,
)
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import read_datasets

MONOMERS = Plan((300.0,), trajectories=5, frames=2, distortions=240)

TINY = Plan((300.0,), trajectories=1, frames=2, distortions=2)

DIMERS = Plan((500.0,), trajectories=1, frames=2, approaches=6, rings=6)


@pytest.fixture(scope="module")
def monomers() -> list[Atoms]:
    return sample_water(1, 11, Serial(), MONOMERS)


@pytest.fixture(scope="module")
def dimers() -> list[Atoms]:
    return sample_water(2, 11, Serial(), DIMERS)


def test_monomers_cover_the_range(monomers: list[Atoms]) -> None:
    assert len(kind(monomers, "md")) == 10
    distorted = kind(monomers, "distortion")
    lengths = np.array([a.get_distances(0, [1, 2]) for a in distorted])
    angles = np.array([a.get_angle(1, 0, 2) for a in distorted])
    assert lengths.min() >= 0.75 and lengths.max() <= 1.6
    assert angles.min() >= 60.0 and angles.max() <= 180.0
    assert lengths.min() < 0.8 and lengths.max() > 1.5
    assert angles.min() < 70.0 and angles.max() > 170.0
    thermal = np.array([a.get_distances(0, [1, 2]) for a in kind(monomers, "md")])
    assert 0.85 < thermal.min() and thermal.max() < 1.1
    assert {a.info["temperature"] for a in kind(monomers, "md")} == {300.0}


def test_dimers_approach_without_overlap(dimers: list[Atoms]) -> None:
    for atoms in dimers:
        assert atoms.get_chemical_symbols() == ["O", "H", "H"] * 2
    approach = kind(dimers, "approach")
    assert not any(has_bad_contact(atoms.positions) for atoms in approach)
    distances = np.array([atoms.get_distance(0, 3) for atoms in approach])
    assert distances.min() > APPROACH_DISTANCES[0] - 0.05
    assert APPROACH_DISTANCES[-1] - 0.05 < distances.max() < 8.05
    bad = dimers[0].positions.copy()
    bad[3:] += bad[1] - bad[3]
    assert has_bad_contact(bad)


def test_rings_have_two_bent_hydrogen_bonds(dimers: list[Atoms]) -> None:
    def bonded(atoms: Atoms) -> bool:
        towards = [
            min(atoms.get_distances(o, hs)) for o, hs in ((3, [1, 2]), (0, [4, 5]))
        ]
        return max(towards) < atoms.get_distance(0, 3)

    rings, approach = kind(dimers, "ring"), kind(dimers, "approach")
    assert len({atoms.info["trajectory"] for atoms in rings}) == 6
    assert not any(has_bad_contact(atoms.positions) for atoms in rings)
    assert all(bonded(atoms) for atoms in rings)
    assert not all(bonded(atoms) for atoms in approach)


def test_splits_keep_trajectories_whole(
    monomers: list[Atoms], dimers: list[Atoms]
) -> None:
    for structures in (monomers, dimers):
        splits: dict[str, set[str]] = {}
        for atoms in structures:
            name = atoms.info["trajectory"]
            splits.setdefault(name, set()).add(atoms.info["split"])
        assert all(len(found) == 1 for found in splits.values())
    by_kind = {
        name: {atoms.info["split"] for atoms in kind(monomers, name)}
        for name in ("md", "distortion")
    }
    assert by_kind["md"] == by_kind["distortion"] == {"train", "validation", "test"}


def test_seed_decides_the_structures() -> None:
    one, again, other = (sample_water(1, seed, Serial(), TINY) for seed in (11, 11, 12))
    assert [a.info for a in again] == [a.info for a in one]
    for left, right in zip(one, again, strict=True):
        assert (left.positions == right.positions).all()
    for left, right in zip(one, other, strict=True):
        assert np.abs(left.positions - right.positions).max() > 1e-3


def test_sample_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLANS, 1, TINY)
    output = tmp_path / "water1.xyz"
    words = f"sample water --molecules 1 --seed 11 -o {output} --workers 1".split()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "4 structures" in result.output
    expected = tmp_path / "expected.xyz"
    write(expected, sample_water(1, 11, Serial(), TINY), format="extxyz")
    assert output.read_text() == expected.read_text()
    made_by = read_provenance(output)
    assert made_by["command"] == (
        "openmm-se3 sample water --molecules 1 --seed 11 -o water1.xyz"
    )
    assert made_by["seed"] == 11
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--overwrite" in result.output
    output.write_text(output.read_text() + "\n")
    assert read_provenance(output) == {}, "the record belongs to another content"


def test_sampler_names_the_sizes_it_knows() -> None:
    with pytest.raises(ValueError, match="known sizes"):
        sample_water(7, 1, Serial())


def shape(frame: Frame) -> np.ndarray:
    """Return the sorted distances between atoms, by pair of elements."""
    vectors = frame.positions[:, None] - frame.positions[None]
    distances = np.linalg.norm(vectors, axis=-1)
    pairs = frame.numbers[:, None] + frame.numbers[None]
    upper = np.triu(np.ones_like(distances, dtype=bool), 1)
    return np.concatenate(
        [np.sort(distances[upper & (pairs == p)]) for p in (2, 9, 16)]
    )


DATA = sorted((ROOT / "models/water/data").glob("water*.h5"))


def test_committed_data() -> None:
    dataset = read_datasets(DATA)
    assert dataset.level == LevelOfTheory()
    # As docs/reference_data.md has them.
    counts = Counter(frame.split for frame in dataset.frames)
    assert counts == {"train": 2922, "validation": 273, "test": 450}
    by_size: dict[int, dict[str, list[np.ndarray]]] = {}
    for frame in dataset.frames:
        assert np.abs(frame.forces.sum(axis=0)).max() < 2e-4
        parts = by_size.setdefault(len(frame.numbers), {})
        parts.setdefault(frame.split, []).append(shape(frame))
    for size, parts in by_size.items():
        assert set(parts) == {"train", "validation", "test"}
        train = np.array(parts["train"])
        # A monomer has three internal coordinates, so that chance alone brings some of
        # a thousand within some 0.001 A; clusters have far more room.
        least = 1e-4 if size == 3 else 1e-2
        for split in ("validation", "test"):
            for other in parts[split]:
                difference = np.sqrt(((train - other) ** 2).mean(axis=1)).min()
                assert difference > least, (size, split)

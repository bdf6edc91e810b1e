"""Splits keep groups whole; near duplicates across them are found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from data_files import numbered, write_conformers, write_two_files

from openmm_se3.config import to_dict
from openmm_se3.data.checks import near_duplicates as resembling
from openmm_se3.data.checks.near_duplicates import near_duplicates
from openmm_se3.data.dataset import Dataset, formula
from openmm_se3.data.formats import ani as conformers
from openmm_se3.data.frames import SPLITS, Frame, Frames, join
from openmm_se3.data.load import (
    Source,
    read_source,
    read_sources,
    with_splits,
)
from openmm_se3.data.splits import (
    SplitConfig,
    distribution,
    group_numbers,
    make_splits,
    missed_shares,
    one_sided,
)
from openmm_se3.training.checkpoint import refuse_changes


def heated(groups: list[tuple[str, float]], frames_each: int = 5) -> Frames:
    """Return frames of one trajectory a group, each of a kind and a temperature."""
    rng = np.random.default_rng(0)
    return Frames.of(
        Frame(
            numbers=np.array([8, 1, 1]),
            positions=rng.normal(size=(3, 3)),
            energy=0.0,
            forces=np.zeros((3, 3)),
            trajectory=f"run-{number}",
            kind=kind,
            temperature=temperature,
        )
        for number, (kind, temperature) in enumerate(groups)
        for _ in range(frames_each)
    )


@pytest.mark.parametrize("seed", range(5))
def test_splits_have_a_share_of_each_kind_and_temperature(seed: int) -> None:
    runs = [("md", t) for t in (300.0, 500.0, 800.0)] * 10 + [
        ("bent", float("nan"))
    ] * 10
    frames = heated(runs)
    rule = SplitConfig(by="trajectory", fractions=(0.8, 0.1, 0.1), seed=seed)
    divided = with_splits(frames, make_splits(frames, rule))
    assert distribution(divided) == {
        name: [40, 5, 5] for name in ("bent", "md, 300 K", "md, 500 K", "md, 800 K")
    }
    assert one_sided(divided) == []
    by_chance = dataclasses.replace(rule, stratify=False)
    assert (make_splits(frames, by_chance) != make_splits(frames, rule)).any()


def test_what_a_split_lacks_is_named() -> None:
    frames = heated([("md", 300.0), ("md", 500.0), ("md", 800.0)])
    rule = SplitConfig(by="trajectory", fractions=(0.34, 0.33, 0.33))
    divided = with_splits(frames, make_splits(frames, rule))
    lines = one_sided(divided)
    assert len(lines) == 3
    for temperature in (300, 500, 800):
        assert [line for line in lines if f"{temperature} K: none in" in line]
    assert distribution(heated([("", float("nan"))] * 3)) == {}
    # Public data name each formula as a kind, which says nothing.
    own = formula(np.array([8, 1, 1]))
    assert distribution(heated([(own, float("nan"))] * 3)) == {}
    assert one_sided(heated([("", float("nan"))] * 3)) == []


def test_shares_that_groups_cannot_have_are_named() -> None:
    frames = heated([("md", 300.0)] * 3)
    rule = SplitConfig(by="trajectory", fractions=(0.9, 0.05, 0.05))
    divided = with_splits(frames, make_splits(frames, rule))
    assert missed_shares(divided, rule) == [
        "validation 33.3% instead of 5.0%",
        "test 33.3% instead of 5.0%",
    ]
    fitting = dataclasses.replace(rule, fractions=(0.4, 0.3, 0.3))
    divided = with_splits(frames, make_splits(frames, fitting))
    assert missed_shares(divided, fitting) == []
    # What the files say is nobody's wish to be missed.
    assert missed_shares(divided, SplitConfig(fractions=(0.9, 0.05, 0.05))) == []


@pytest.mark.parametrize("stratify", [True, False])
def test_runs_of_older_versions_keep_their_splits(stratify: bool) -> None:
    data = {"sha256": "a", "files": [], "options": []}
    common = {"model": {}, "training": {}, "data": data}
    rule = to_dict(SplitConfig(by="trajectory", stratify=stratify))
    before = {key: value for key, value in rule.items() if key != "stratify"}
    old = {**common, "choices": {"split": before}}
    new = {**common, "choices": {"split": rule}}
    if stratify:
        with pytest.raises(ValueError, match="stratify"):
            refuse_changes(old, new, Path("run"))
    else:
        refuse_changes(old, new, Path("run"))


def test_without_kinds_the_splits_are_as_they_were() -> None:
    frames = heated([("", float("nan"))] * 20)
    rule = SplitConfig(by="trajectory", seed=3)
    by_chance = dataclasses.replace(rule, stratify=False)
    assert (make_splits(frames, rule) == make_splits(frames, by_chance)).all()


def test_splits_keep_groups_whole_and_follow_the_seed(dataset: Dataset) -> None:
    frames = dataset.frames
    config = SplitConfig(by="trajectory", fractions=(0.7, 0.2, 0.1), seed=3)
    split = make_splits(frames, config)
    shares = np.bincount(split, minlength=3) / len(split)
    np.testing.assert_allclose(shares, config.fractions, atol=0.05)
    names = np.array([f.trajectory for f in frames])
    for name in set(names):
        assert len(set(split[names == name])) == 1
    assert (make_splits(frames, config) == split).all()
    other = make_splits(frames, dataclasses.replace(config, seed=4))
    assert (other != split).any()
    kept = make_splits(frames, SplitConfig())
    assert (kept == frames.column("split")).all()
    moved = with_splits(
        join([frames[::2], frames[1::2]]), np.r_[split[::2], split[1::2]]
    )
    assert (moved.column("split") == np.r_[split[::2], split[1::2]]).all()


def test_a_group_larger_than_a_split_trains() -> None:
    """Half of all frames are one trajectory; validation and test get the others."""
    large = [numbered("large")] * 50
    small = [numbered(f"t{index // 2}") for index in range(50)]
    for seed in range(10):
        config = SplitConfig(by="trajectory", seed=seed)
        split = make_splits(Frames.of(large + small), config)
        assert set(split[:50]) == {SPLITS.index("train")}
        assert np.bincount(split, minlength=3).tolist() == [80, 10, 10]


def test_what_is_one_group() -> None:
    """A trajectory is one of its file; a molecule is the same in all files."""
    frames = [numbered("t0"), numbered("t1"), numbered("t0", (1, 1, 8))]
    files = join(Frames.of(frames, source) for source in ("a.xyz", "b.xyz"))
    assert group_numbers(files, "trajectory").tolist() == [0, 1, 0, 2, 3, 2]
    files = join([files, Frames.of([numbered("t0", (8, 8))], "c.xyz")])
    assert group_numbers(files, "molecule").tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_a_file_put_into_one_split_is_not_divided(tmp_path: Path) -> None:
    mine, held_out = write_two_files(tmp_path)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.5, 0.0))
    alone = make_splits(read_source(mine).frames, rule)
    assert set(alone) == {SPLITS.index("train"), SPLITS.index("validation")}
    for split in ("train", "test"):
        whole = dataclasses.replace(held_out, split=split)
        made = make_splits(read_sources([whole, mine]).frames, rule)
        assert set(made[:10]) == {SPLITS.index(split)}
        assert (made[10:] == alone).all()


def test_split_by_molecule_needs_molecules(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="2 groups by molecule, too few for 3"):
        make_splits(dataset.frames, SplitConfig(by="molecule"))
    two = SplitConfig(by="molecule", fractions=(0.5, 0.5, 0.0))
    split = make_splits(dataset.frames, two)
    sizes = dataset.frames.n_atoms
    assert len(set(zip(split.tolist(), sizes.tolist(), strict=True))) == 2
    with pytest.raises(ValueError, match="add up to 1"):
        SplitConfig(fractions=(0.5, 0.2, 0.2))


def test_near_duplicates_across_the_split_are_found(dataset: Dataset) -> None:
    frames = list(dataset.frames)
    dimers = [f for f in frames if len(f.numbers) == 6]
    apart = near_duplicates(Frames.of(dimers))
    assert apart.near == 0 and apart.compared > 10 and apart.closest > 0.03
    turned = dataclasses.replace(
        dimers[0],
        # Another orientation and order of atoms, moved by a thousandth.
        numbers=dimers[0].numbers[::-1],
        positions=dimers[0].positions[::-1, [1, 2, 0]] + 0.001 * np.eye(6)[:, :3],
        forces=dimers[0].forces[::-1],
        split=SPLITS[2],
        trajectory="planted",
    )
    first = dataclasses.replace(dimers[0], split=SPLITS[0])
    found = near_duplicates(Frames.of([first, *dimers[1:], turned]))
    assert found.near == 1 and found.closest < 0.002 and found.pair[0] == "planted"
    assert not found.sampled


def test_near_duplicates_of_large_sets_are_counted_on_a_sample(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read by frame, and every validation structure was trained on."""
    path = write_conformers(tmp_path / "a.h5", [*frames, *frames])
    monkeypatch.setattr(conformers, "READ_AT_ONCE", 0)
    twice = read_source(Source(str(path))).frames
    # Of each molecule the second half of the frames repeats the first.
    splits = np.zeros(len(twice), dtype=np.int8)
    for index, _ in twice.by_block():
        splits[index[len(index) // 2 :]] = SPLITS.index("validation")
    monkeypatch.setattr(resembling, "COMPARED", 8)
    monkeypatch.setattr(resembling, "DISTANCES", 7)
    found = near_duplicates(with_splits(twice, splits))
    assert found.sampled and 0 < found.compared == found.near <= 8
    assert "validation and test structures, of a random sample" in str(found)
    alone = near_duplicates(with_splits(twice, 0 * splits))
    assert alone.compared == alone.near == 0

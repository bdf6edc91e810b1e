"""Our HDF5 files, whole and damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cheap_labels import CHEAP, WATER
from rich.console import Console

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source, read_datasets, read_sources
from openmm_se3.training.config import DataConfig
from openmm_se3.training.prepare import read_data


def small_dataset() -> Dataset:
    rng = np.random.default_rng(1)
    frames = [
        Frame(
            numbers,
            rng.normal(size=(3, 3)),
            -2060.0 + rng.normal(),
            rng.normal(size=(3, 3)),
            trajectory=f"t{index}",
            kind="md",
            split=("train", "validation", "test")[index % 3],
            temperature=(300.0, float("nan"))[index % 2],
        )
        # The second composition has the same formula in another order of atoms.
        for index, numbers in enumerate([WATER] * 4 + [WATER[::-1]] * 3)
    ]
    return Dataset(Frames.of(frames), CHEAP, {1: -13.5, 8: -2030.0}, {"seed": 1})


def test_hdf5_round_trip(tmp_path: Path) -> None:
    path, again = tmp_path / "a.h5", tmp_path / "b.h5"
    made = small_dataset()
    write_hdf5(path, made)
    read = read_hdf5(path)
    assert read.level == made.level
    assert read.self_energies == made.self_energies
    assert read.provenance == made.provenance
    for a, b in zip(read.frames, made.frames, strict=True):
        assert (a.numbers == b.numbers).all()
        assert (a.positions == b.positions).all()
        assert (a.forces == b.forces).all()
        assert (a.energy, a.kind, a.split) == (b.energy, b.kind, b.split)
        assert a.trajectory.endswith("/" + b.trajectory)
        assert np.array_equal(a.temperature, b.temperature, equal_nan=True)
    write_hdf5(again, read)
    assert [f.trajectory for f in read_hdf5(again).frames] == [
        f.trajectory for f in read.frames
    ]
    assert [len(read.select(s)) for s in ("train", "validation", "test")] == [3, 2, 2]
    with pytest.raises(ValueError, match="split must be one of"):
        read.select("dev")


def edit(group: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[group][name]
        if value is not None:
            file[group][name] = value

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def huge(file: h5py.File) -> None:
    del file["H2O"]["forces"]
    file["H2O"].create_dataset("forces", (1 << 40, 3, 3), "f8", chunks=(1024, 3, 3))


def elsewhere(file: h5py.File) -> None:
    del file["H2O"]["energy"]
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "energy", (4,))
    file["H2O"].create_virtual_dataset("energy", layout)


def stored_outside(file: h5py.File) -> None:
    del file["H2O"]["energy"]
    file["H2O"].create_dataset("energy", (4,), "f8", external="/etc/hostname")


SHIFTED = np.full(4, -75.0)  # hartree


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("format", "other"), "not a file of"),
        (attribute("format_version", 4), "version 4"),
        (attribute("format", np.zeros(3)), "not a file of"),
        (attribute("format_version", np.ones(2)), "version None"),
        (attribute("units", '{"energy": "hartree"}'), "has units"),
        (attribute("level_of_theory", "{}"), "expected the settings"),
        (attribute("self_energies", "[1]"), "damaged description"),
        (attribute("provenance", 3), "text attribute 'provenance'"),
        (attribute("self_energies", '{"1": -13.5}'), "no self-energy"),
        (edit("H2O", "forces", None), "lacks 'forces'; it has"),
        (edit("H2O", "forces", np.zeros((4, 2, 3))), "should both be"),
        (edit("H2O", "forces", np.full((4, 3, 3), 1e20)), "a force is 1e"),
        (edit("H2O", "positions", np.full((4, 3, 3), 1e12)), "a position is 1e"),
        (edit("H2O", "temperature", np.zeros((4, 2))), "must be lists"),
        (edit("H2O", "temperature", np.float64(1.0)), "must be lists"),
        (edit("H2O", "atomic_numbers", np.ones((3, 1), dtype=int)), "must be lists"),
        (edit("H2O", "atomic_numbers", np.full(3, 200)), "atomic numbers .200."),
        (edit("H2O", "charge", np.zeros(5, dtype=int)), "4 energies, but"),
        (edit("H2O", "forces", np.full((4, 3, 3), np.nan)), "NaN or infinite"),
        (edit("H2O", "energy", SHIFTED), "eV per atom away"),
        (edit("H2O", "energy", np.array([b"a"] * 4)), "has type"),
        (edit("H2O", "energy", h5py.SoftLink("/H2O/forces")), "link to elsewhere"),
        (edit("H2O", "energy", h5py.ExternalLink("x.h5", "e")), "link to elsewhere"),
        (edit("H2O", "split", ["train", "test"]), "4 energies, but"),
        (edit("H2O", "split", ["train", "dev", "test", "test"]), "split must be"),
        (edit("H2O", "split", np.arange(4)), "not a list of strings"),
        (edit("H2O", "trajectory", ["a", "a", "b", "c"]), "trajectory 'H2O/a' is in"),
        (edit("/", "H2O", h5py.SoftLink("/H2O")), "link to elsewhere"),
        (edit("/", "H2O", np.zeros(3)), "is not a group"),
        (huge, "declares"),
        (elsewhere, "kept in another file"),
        (stored_outside, "kept in another file"),
    ],
)
def test_wrong_content_is_refused(
    change: Callable[[h5py.File], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.h5"
    write_hdf5(path, small_dataset())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message) as info:
        read_hdf5(path)
    assert "data.h5" in str(info.value)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    write_hdf5(path, small_dataset())
    content = path.read_bytes()
    for share in (0.25, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cut short or damaged"):
            read_hdf5(path)
    for text in (b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec"):
        path.write_bytes(text)
        with pytest.raises(ValueError, match="is not HDF5; it starts with"):
            read_hdf5(path)
    with pytest.raises(FileNotFoundError):
        read_hdf5(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="is not a file"):
        read_hdf5(tmp_path)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    made = small_dataset()
    write_hdf5(one, made)

    def with_second(**changes: Any) -> None:
        write_hdf5(two, dataclasses.replace(made, **changes))
        read_datasets([one, two])

    def one_frame(**changes: Any) -> Frames:
        return Frames.of([dataclasses.replace(made.frames[0], **changes)])

    with pytest.raises(ValueError, match="energies of two levels"):
        with_second(level=LevelOfTheory())
    # Forces alone may be of another level.
    both = read_sources([Source(str(one)), Source(str(two), forces_only=True)])
    n = len(made.frames)
    assert both.level == made.level and both.self_energies == made.self_energies
    energies = both.frames.column("energy")
    assert np.isnan(energies[n:]).all() and not np.isnan(energies[:n]).any()
    np.testing.assert_array_equal(both.frames[n].forces, made.frames[0].forces)
    assert "forces_only" in both.provenance[str(two)]
    # They can be evaluated alone, but not trained on.
    alone = [Source(str(two), forces_only=True)]
    assert read_sources(alone).level == LevelOfTheory()
    with pytest.raises(ValueError, match="one must have energies"):
        read_data(DataConfig(tuple(alone)), Console(quiet=True))
    with pytest.raises(ValueError, match="has the self-energy -14"):
        with_second(self_energies={1: -14.0, 8: -2030.0})
    with pytest.raises(ValueError, match="the same structure is in"):
        with_second(frames=one_frame(split="test"))
    with pytest.raises(ValueError, match="given twice"):
        read_datasets([one, one])
    with pytest.raises(ValueError, match="no data files"):
        read_datasets([])
    with_second(frames=one_frame(energy=-2059.0))

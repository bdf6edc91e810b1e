"""Data files in the formats of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.io import write
from random_model import WATER

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import (
    Source,
    read_datasets,
)
from openmm_se3.units import HARTREE_TO_EV

ROOT = Path(__file__).parents[2]

WATER_DATA = [ROOT / f"models/water/data/water{n}.h5" for n in (1, 2)]


def kinds(frames: Frames) -> list[str]:
    pairs = zip(frames.block, frames.row, strict=True)
    return [frames.blocks[block].kind[row] for block, row in pairs]


def water_dataset() -> Dataset:
    """Return DFT labels of water at the level of ANI-1x: monomers and dimers."""
    whole = read_datasets(WATER_DATA)
    md = np.array([kind == "md" for kind in kinds(whole.frames)])
    return dataclasses.replace(whole, frames=whole.frames[md][::8])


def by_size(frames: list[Frame]) -> dict[int, list[Frame]]:
    return {n: [f for f in frames if len(f.numbers) == n] for n in (3, 6)}


def write_conformers(
    path: Path,
    frames: list[Frame],
    energy: str = "wb97x_dz.energy",
    forces: str | None = "wb97x_dz.forces",
    symbols: bool = False,
    sign: float = 1.0,
    dtype: str = "f8",
) -> Path:
    with h5py.File(path, "w") as file:
        for n, members in by_size(frames).items():
            group = file.create_group(f"set/H{2 * n // 3}O{n // 3}")
            numbers = members[0].numbers
            if symbols:
                names = ["H" if z == 1 else "O" for z in numbers]
                group["species"] = np.array(names, dtype="S1")
            else:
                group["atomic_numbers"] = numbers.astype("u1")
            stack = {
                name: np.stack([getattr(f, name) for f in members])
                for name in ("positions", "forces", "energy")
            }
            group["coordinates"] = stack["positions"].astype(dtype)
            group[energy] = stack["energy"] / HARTREE_TO_EV
            if forces is not None:
                group[forces] = (sign * stack["forces"] / HARTREE_TO_EV).astype(dtype)
    return path


def write_deepmd(folder: Path, frames: list[Frame]) -> Path:
    (folder / "set.000").mkdir(parents=True)
    (folder / "type_map.raw").write_text("O\nH\n")
    types = ["0" if z == 8 else "1" for z in frames[0].numbers]
    (folder / "type.raw").write_text(" ".join(types))
    for name, values in (
        ("coord", [f.positions.ravel() for f in frames]),
        ("force", [f.forces.ravel() for f in frames]),
        ("energy", [f.energy for f in frames]),
        ("box", [20.0 * np.eye(3).ravel() for f in frames]),
    ):
        np.save(folder / "set.000" / f"{name}.npy", np.array(values))
    return folder


def numbered(trajectory: str, numbers: Sequence[int] = (8, 1, 1)) -> Frame:
    """Return a frame of which nothing matters but its composition and trajectory."""
    x = np.zeros((len(numbers), 3))
    return Frame(np.array(numbers), x, 0.0, x, trajectory=trajectory)


def write_two_files(folder: Path) -> tuple[Source, Source]:
    """Write ten trajectories of one frame each into either of two files."""
    paths = folder / "mine.xyz", folder / "held_out.xyz"
    for path, size in zip(paths, (1.0, 1.005), strict=True):
        for index in range(10):
            info = {"energy": -2000.0 - index, "trajectory": f"t{index}"}
            atoms = Atoms("OHH", (size + 0.01 * index) * WATER, info=info)
            write(path, atoms, append=True)
    return Source(str(paths[0])), Source(str(paths[1]))

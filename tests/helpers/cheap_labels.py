"""Cheap labels and structures of water."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write

from openmm_se3.data.frames import Structure
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.water_molecule import water_molecule

ROOT = Path(__file__).parents[2]

CHEAP = LevelOfTheory(method="pbe", basis="sto-3g", grid_level=0)

WATER = np.array([8, 1, 1])


class Serial:
    """Runs tasks in this process."""

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, function(task)


def waters(count: int) -> list[Structure]:
    rng = np.random.default_rng(5)
    return [
        Structure(
            WATER,
            water_molecule(*rng.uniform(0.9, 1.1, size=2), rng.uniform(95.0, 115.0)),
            trajectory=f"t{index}",
            kind="md",
            split=("train", "validation", "test")[index % 3],
            temperature=300.0,
        )
        for index in range(count)
    ]


def write_xyz(path: Path, structures: Sequence[Structure]) -> Path:
    images = []
    for s in structures:
        info = {"trajectory": s.trajectory, "kind": s.kind, "split": s.split}
        images.append(Atoms(s.numbers, s.positions, info=info))
        images[-1].info["temperature"] = s.temperature
    write(path, images, format="extxyz")
    return path


def kind(structures: Sequence[Atoms], name: str) -> list[Atoms]:
    return [atoms for atoms in structures if atoms.info["kind"] == name]

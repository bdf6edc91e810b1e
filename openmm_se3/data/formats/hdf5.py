"""Our HDF5 format: labeled frames with units, level of theory and origin.

Layout of a file (format version 3): one group a composition (``H2O``, ``H4O2``, ...)
with

    atomic_numbers  [n_atoms]
    positions       [n_frames, n_atoms, 3]  A
    energy          [n_frames]              eV, total energy
    forces          [n_frames, n_atoms, 3]  eV/A, -dE/dx
    box             [n_frames, 3, 3]        A, lattice vectors as rows; only with a box
    trajectory, kind, split  [n_frames]     strings
    temperature     [n_frames]              K, NaN where there is none
    charge          [n_frames]              elementary charges
    spin            [n_frames]              unpaired electrons
    energy_std      [n_frames]              eV, standard deviation of an ensemble
    forces_std      [n_frames, n_atoms, 3]  eV/A, the same; both only of an ensemble

and, as attributes of the file, ``format``, ``format_version`` and, as JSON, ``units``,
``level_of_theory``, ``self_energies`` (eV, by atomic number) and ``provenance``
(commands, seeds, program versions).  Version 2 has no charge and spin, which are those
of the level of theory; version 1 no boxes either.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.dataset import Dataset, check_splits, formula
from openmm_se3.data.frames import SPLITS, Block, Frames, Texts
from openmm_se3.data.level_of_theory import LevelOfTheory, read_level
from openmm_se3.data.limits import fault_of
from openmm_se3.elements import symbols_of
from openmm_se3.files import atomic_write

FORMAT = "openmm-se3 labels"
FORMAT_VERSION = 3
UNITS = {"positions": "angstrom", "energy": "eV", "forces": "eV/angstrom"}
TEXTS = ("trajectory", "kind", "split")
ARRAYS = (
    "positions",
    "energy",
    "forces",
    "box",
    "temperature",
    "charge",
    "spin",
    "energy_std",
    "forces_std",
)

# No structure is bound or strained by more than this (eV per atom) against its isolated
# atoms; a mixed-up unit or level of theory is off by hundreds.
MAX_INTERACTION = 50.0


def write_hdf5(path: str | Path, dataset: Dataset) -> None:
    """Write a data set, whole or not at all.

    Raises:
        ValueError: A frame lacks its energy or forces.
    """
    import h5py

    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["units"] = json.dumps(UNITS)
        file.attrs["level_of_theory"] = dataset.level.to_json()
        file.attrs["self_energies"] = json.dumps(dataset.self_energies)
        file.attrs["provenance"] = json.dumps(dataset.provenance)
        names: dict[str, int] = {}
        for index, rows in dataset.frames.by_block():
            block = dataset.frames.blocks[dataset.frames.block[index[0]]]
            name = formula(block.numbers)
            # The same composition in another atom order gets a group of its own.
            names[name] = names.get(name, 0) + 1
            suffix = f"-{names[name]}" if names[name] > 1 else ""
            _write_block(file.create_group(name + suffix), block, rows)


def _write_block(group: Any, block: Block, rows: np.ndarray) -> None:
    import h5py

    if block.forces is None or np.isnan(block.energy[rows]).any():
        raise ValueError(
            f"{formula(block.numbers)}: frames without energies or forces cannot be "
            "written in this format"
        )
    group["atomic_numbers"] = np.asarray(block.numbers, dtype=np.int64)
    arrays = {"positions": block.positions, "forces": block.forces, "box": block.box}
    for field, values in {**arrays, "forces_std": block.forces_std}.items():
        if values is not None:
            group.create_dataset(
                field, data=values[rows], compression="gzip", shuffle=True
            )
    group["energy"] = block.energy[rows]
    group["temperature"] = block.temperature[rows]
    if block.energy_std is not None and np.isfinite(block.energy_std[rows]).any():
        group["energy_std"] = block.energy_std[rows]
    for field, values in (("charge", block.charge), ("spin", block.spin)):
        group[field] = np.zeros(len(rows), np.int64) if values is None else values[rows]
    texts = {
        "trajectory": [block.trajectory[row] for row in rows],
        "kind": [block.kind[row] for row in rows],
        "split": [SPLITS[block.split[row]] for row in rows],
    }
    for field, names in texts.items():
        group.create_dataset(field, data=names, dtype=h5py.string_dtype())


def read_hdf5(path: str | Path) -> Dataset:
    """Read a data set.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of ours, of another version, damaged, or its
            content does not fit together.
    """
    from openmm_se3.data.formats.safe_hdf5 import (
        attribute,
        groups,
        open_hdf5,
        require_room,
        text_attribute,
    )

    path = Path(path)
    blocks: list[Block] = []
    with open_hdf5(path) as file:
        if attribute(file, "format") != FORMAT:
            raise ValueError(f"{path} is HDF5 but not a file of '{FORMAT}'")
        version = attribute(file, "format_version")
        if version not in range(1, FORMAT_VERSION + 1):
            raise ValueError(
                f"{path} has format version {version}; this program reads up to "
                f"{FORMAT_VERSION}: a newer file needs a newer openmm-se3"
            )
        try:
            units = json.loads(text_attribute(file, "units"))
            level = read_level(text_attribute(file, "level_of_theory"))
            energies = json.loads(text_attribute(file, "self_energies"))
            self_energies = {int(z): float(energy) for z, energy in energies.items()}
            provenance = json.loads(text_attribute(file, "provenance"))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has a damaged description: {error}") from error
        if not all(map(math.isfinite, self_energies.values())):
            raise ValueError(f"{path} has self-energies that are NaN: {energies}")
        if units != UNITS:
            raise ValueError(f"{path} has units {units}, expected {UNITS}")
        members = dict(groups(file))
        require_room(path, members.values(), ARRAYS)
        charge_and_spin = (0, 0)
        if isinstance(level, LevelOfTheory):
            charge_and_spin = level.charge, level.spin
        for name, group in members.items():
            blocks.append(_read_group(path, name, group, *charge_and_spin))
    frames = Frames(blocks)
    if not len(frames):
        raise ValueError(f"{path} holds no frames")
    try:
        _check_self_energies(frames, self_energies)
        check_splits(frames.in_memory())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Dataset(frames, level, self_energies, provenance)


def _read_group(path: Path, name: str, group: Any, charge: int, spin: int) -> Block:
    """Return one group; charge and spin are those of files that do not have them."""
    from openmm_se3.data.formats.safe_hdf5 import read_array, read_texts

    place = f"{path}, group {name}"
    numbers = read_array(group, "atomic_numbers", "iu")
    positions, forces = read_array(group, "positions"), read_array(group, "forces")
    energy, temperature = read_array(group, "energy"), read_array(group, "temperature")
    box = read_array(group, "box") if "box" in group else None
    texts = {field: read_texts(group, field) for field in TEXTS}
    if numbers.ndim != 1 or energy.ndim != 1 or temperature.ndim != 1:
        raise ValueError(
            f"{place}: atomic_numbers, energy and temperature must be lists, they have "
            f"shapes {numbers.shape}, {energy.shape} and {temperature.shape}"
        )
    try:
        symbols_of(numbers)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    n_frames = len(energy)
    shape = (n_frames, len(numbers), 3)
    if positions.shape != shape or forces.shape != shape:
        raise ValueError(
            f"{place}: positions {positions.shape} and forces {forces.shape} should "
            f"both be {shape}"
        )
    if box is not None and box.shape != (n_frames, 3, 3):
        raise ValueError(f"{place}: box {box.shape} should be {(n_frames, 3, 3)}")
    lengths = {field: len(texts[field]) for field in TEXTS}
    lengths["temperature"] = len(temperature)
    electrons = {}
    for field, value in (("charge", charge), ("spin", spin)):
        stored = field in group
        electrons[field] = (
            read_array(group, field, "iu").ravel()
            if stored
            else np.full(n_frames, value)
        )
        lengths[field] = len(electrons[field])
    energy_std, forces_std = (
        read_array(group, field) if field in group else None
        for field in ("energy_std", "forces_std")
    )
    if energy_std is not None and energy_std.ndim != 1:
        raise ValueError(f"{place}: energy_std {energy_std.shape} should be a list")
    if energy_std is not None:
        lengths["energy_std"] = len(energy_std)
    if forces_std is not None and forces_std.shape != shape:
        raise ValueError(f"{place}: forces_std {forces_std.shape} should be {shape}")
    if set(lengths.values()) != {n_frames}:
        raise ValueError(f"{place}: {n_frames} energies, but {lengths}")
    values = {"positions": positions, "forces": forces, "energy": energy, "box": box}
    for what, rows in values.items():
        bad = [] if rows is None else _not_finite(rows)
        if bad:
            raise ValueError(
                f"{place}: NaN or infinite {what} in {len(bad)} frames, the first of "
                f"them frame {bad[0]}; take them out"
            )
    if (fault := fault_of(positions, energy, forces, box)) is not None:
        raise ValueError(f"{place}, frame {fault[0]}: {fault[1]}; is the file damaged?")
    unknown = set(texts["split"]) - set(SPLITS)
    if unknown:
        raise ValueError(f"{place}: split must be one of {SPLITS}, got {unknown}")
    return Block(
        numbers=numbers,
        positions=positions,
        energy=energy,
        forces=forces,
        # Names are unique within a composition only.
        trajectory=Texts.of(
            f"{name}/{text.removeprefix(name + '/')}" for text in texts["trajectory"]
        ),
        kind=Texts.of(texts["kind"]),
        split=np.array([SPLITS.index(s) for s in texts["split"]], dtype=np.int8),
        temperature=temperature,
        box=box,
        source=path.name,
        charge=electrons["charge"],
        spin=electrons["spin"],
        energy_std=energy_std,
        forces_std=forces_std,
    )


def _not_finite(rows: np.ndarray) -> list[int]:
    """Return the frames some of whose values are NaN or infinite."""
    finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return [int(frame) for frame in np.flatnonzero(~finite)]


def _check_self_energies(frames: Frames, self_energies: dict[int, float]) -> None:
    """Refuse energies that cannot belong to the self-energies, if these are known."""
    if not self_energies:
        return
    isolated = frames.isolated_energies(self_energies)
    interaction = (frames.column("energy") - isolated) / frames.n_atoms
    worst = int(np.abs(interaction).argmax())
    if abs(interaction[worst]) > MAX_INTERACTION:
        raise ValueError(
            f"a frame of {frames[worst].trajectory} is {interaction[worst]:.1f} eV per "
            "atom away from its isolated atoms: are units or levels of theory mixed up?"
        )

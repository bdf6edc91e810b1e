"""Structures in, DFT labels out: parallel, resumable, nothing lost.

Every finished label goes into a journal beside the output (``data.h5.journal``) before
the next one is waited for.  Labels are found again by a hash of the structure and the
level of theory, so that a run that was killed at any point continues where it was, and
a structure that stands twice in the input is computed once.  When all are there, the
HDF5 file is written whole and the journal removed.  A lock file keeps a second run away
meanwhile.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.dataset import Dataset, check_splits
from openmm_se3.data.formats.charges import charge_and_spin
from openmm_se3.data.formats.extxyz import origin
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.formats.xyz_text import TextFrame, read_text_frames
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling.dft import (
    MIN_DISTANCE,
    LabelError,
    check_distances,
    check_level,
    isolated_atom_energy,
    label_frame,
)
from openmm_se3.data.labeling.executors import Executor
from openmm_se3.data.labeling.failures import write_failures
from openmm_se3.data.labeling.journal import Journal
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.files import run_lock
from openmm_se3.version import installed_versions

PROGRAMS = ("pyscf", "numpy")  # they decide the value of a label


def read_structures(path: str | Path) -> list[Structure]:
    """Read structures from an extended XYZ file.

    ``trajectory``, ``kind``, ``split``, ``temperature``, ``charge`` and ``spin`` or
    ``multiplicity`` are taken from the frame's comment line where they stand there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not extended XYZ, is empty, or holds a frame that cannot
            be labeled or whose split is wrong.
    """
    path = Path(path)
    structures = []
    for index, text in enumerate(read_text_frames(path)):
        try:
            structures.append(_structure(text, index))
        except ValueError as error:
            raise ValueError(f"{path}, frame {index}: {error}") from error
    try:
        check_splits(structures)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error
    if all(_overlap(structure) for structure in structures):
        raise ValueError(
            f"{path}: every frame has atoms closer than {MIN_DISTANCE} A; extended XYZ "
            "is in A, are these nm?"
        )
    return structures


def _structure(text: TextFrame, index: int) -> Structure:
    """Return a frame of a file as a structure.

    Raises:
        ValueError: It cannot be labeled.
    """
    if not np.isfinite(text.positions).all():
        raise ValueError("positions are not finite")
    if text.box is not None:
        raise ValueError(
            "periodic; labels are for free molecules, take its Lattice away"
        )
    charge, spin = charge_and_spin(text.info, text.numbers)
    return Structure(
        numbers=text.numbers,
        positions=text.positions,
        charge=charge,
        spin=spin,
        **origin(text, index),
    )


def _overlap(structure: Structure) -> bool:
    try:
        check_distances(structure.positions)
    except LabelError:
        return True
    return False


def structure_key(structure: Structure, level: LevelOfTheory) -> str:
    """Return the hash under which the label of a structure is found again."""
    digest = hashlib.sha256(level_of(structure, level).to_json().encode())
    digest.update(structure.numbers.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(structure.positions, dtype="<f8").tobytes())
    return digest.hexdigest()[:32]


def level_of(structure: Structure, level: LevelOfTheory) -> LevelOfTheory:
    """Return the level of theory with the charge and spin of a structure."""
    return dataclasses.replace(
        level,
        charge=level.charge if structure.charge is None else structure.charge,
        spin=level.spin if structure.spin is None else structure.spin,
    )


def _label_task(task: tuple[np.ndarray, np.ndarray, LevelOfTheory]) -> dict[str, Any]:
    """Return the record of one structure; a failure is a result, not an exception."""
    numbers, positions, level = task
    try:
        label = label_frame(numbers, positions, level)
    except LabelError as error:
        return {"failure": str(error)}
    # repr of a float, which JSON uses, reads back to the same bits.
    return {"energy": label.energy, "forces": label.forces.tolist()}


def _self_energy_task(task: tuple[int, LevelOfTheory]) -> float:
    number, level = task
    return isolated_atom_energy(number, level)


def journal_path(output: Path) -> Path:
    """Return where the finished labels of an unfinished run stand."""
    return output.with_name(output.name + ".journal")


def label(
    structures: Sequence[Structure],
    output: str | Path,
    level: LevelOfTheory,
    executor: Executor,
    provenance: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    resumed: Callable[[int, int], None] = lambda found, total: None,
    overwrite: bool = False,
) -> tuple[Dataset, list[tuple[int, str]]]:
    """Label structures and write them to an HDF5 file.

    Frames whose SCF does not converge are left out of the file and listed, with the
    reason, in ``<output>.failed.json``.

    Args:
        structures: What to label.
        output: The HDF5 file to write.
        level: Level of theory.
        executor: Runs the calculations.
        provenance: Commands and seeds, stored in the file.
        progress: Called with the finished and the total cost, in arbitrary units, after
            each label.
        resumed: Called once with the number of labels found in the journal of an
            earlier run, and the number of different structures.
        overwrite: Replace an existing output.

    Returns:
        The data set, and the (index, reason) of each frame that was set aside.

    Raises:
        FileExistsError: The output exists.
        FileNotFoundError: Its folder does not.
        ValueError: Structures have the wrong number of electrons for the spin, PySCF
            cannot do this level of theory, splits share a structure, or the journal is
            not one of ours.
        LockedError: Another run is writing the same output.
        WorkerDiedError: A worker was killed; finished labels are in the journal.
        RuntimeError: Not a single frame converged.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"no folder {output.parent} to write {output.name} to")
    if not structures:
        raise ValueError("no structures to label")
    check_electrons(structures, level)
    check_splits(structures)
    elements = sorted({int(z) for s in structures for z in s.numbers})
    with (
        run_lock(output.with_name(output.name + ".lock")),
        Journal(journal_path(output)) as journal,
    ):
        keys = [structure_key(structure, level) for structure in structures]
        todo = {
            key: (structure.numbers, structure.positions, level_of(structure, level))
            for key, structure in zip(keys, structures, strict=True)
            if key not in journal.records
        }
        # With every label in the journal, an earlier run of the same input was killed
        # between writing the output and removing the journal.
        if output.exists() and not overwrite and todo:
            raise FileExistsError(f"{output} exists; --overwrite replaces it")
        resumed(len(set(keys)) - len(todo), len(set(keys)))
        check_level(level, elements)
        energies = dict(executor.run(_self_energy_task, [(z, level) for z in elements]))
        # The time of a label grows roughly as the square of the number of atoms.
        cost = {k: len(s.numbers) ** 2 for k, s in zip(keys, structures, strict=True)}
        total = sum(cost.values())
        done = total - sum(cost[key] for key in todo)
        progress(done, total)
        waiting = list(todo)
        for index, record in executor.run(_label_task, list(todo.values())):
            journal.append(waiting[index], record)
            done += cost[waiting[index]]
            progress(done, total)
        records = [journal.records[key] for key in keys]
        failures = [
            (index, record["failure"])
            for index, record in enumerate(records)
            if "failure" in record
        ]
        if len(failures) == len(records):
            raise RuntimeError(
                f"no frame could be labeled; the first: {failures[0][1]} (remove "
                f"{journal.path} to try the same settings again)"
            )
        dataset = Dataset(
            frames=Frames.of(_frames(structures, records, level)),
            level=level,
            self_energies={z: energies[i] for i, z in enumerate(elements)},
            provenance={**(provenance or {}), "programs": installed_versions(PROGRAMS)},
        )
        write_failures(output, failures)
        write_hdf5(output, dataset)
        journal.remove()
    return dataset, failures


def _frames(
    structures: Sequence[Structure],
    records: Sequence[dict[str, Any]],
    level: LevelOfTheory,
) -> Iterator[Frame]:
    for structure, record in zip(structures, records, strict=True):
        if "failure" in record:
            continue
        fields = {
            field.name: getattr(structure, field.name)
            for field in dataclasses.fields(structure)
        }
        used = level_of(structure, level)
        fields |= {"charge": used.charge, "spin": used.spin}
        yield Frame(
            energy=record["energy"], forces=np.array(record["forces"]), **fields
        )


def check_electrons(structures: Sequence[Structure], level: LevelOfTheory) -> None:
    """Refuse structures that cannot have their charge and spin, or the level's.

    Raises:
        ValueError: Names the first such structure.
    """
    for index, structure in enumerate(structures):
        used = level_of(structure, level)
        electrons = int(structure.numbers.sum()) - used.charge
        if electrons < used.spin or (electrons - used.spin) % 2:
            raise ValueError(
                f"structure {index} with charge {used.charge:+d} has {electrons} "
                f"electrons, which does not go with spin {used.spin} (unpaired "
                "electrons): set charge= and spin= or multiplicity= in the frame, or "
                "--charge or --spin for all frames"
            )


def summary(dataset: Dataset) -> str:
    """Return counts by composition and split as text."""
    counts = Counter((len(f.numbers), f.split) for f in dataset.frames)
    lines = [f"  {n} atoms, {s}: {c}" for (n, s), c in sorted(counts.items())]
    return "\n".join(lines)

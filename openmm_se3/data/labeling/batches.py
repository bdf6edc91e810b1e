"""Labels from a fast potential: batches of frames, resumable, nothing lost.

Frames of the same number of atoms and charge go through the labeler together.  Every
finished batch is a file in a folder beside the output (``data.h5.batches``), found
again by a hash of its structures and of the labeler; when all are there, the HDF5 file
is written whole and the folder removed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.data.dataset import Dataset, check_splits
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling.executors import Executor
from openmm_se3.data.labeling.failures import write_failures
from openmm_se3.data.labeling.labelers import LabelerError, Labels, labeler
from openmm_se3.data.level_of_theory import PublishedLevel
from openmm_se3.files import atomic_write, require_new_file, run_lock
from openmm_se3.version import installed_versions

# A batch: large enough that networks are busy, small enough that its pairs of atoms fit
# into a cache and a kill costs seconds.
PAIRS_PER_BATCH = 40_000
MOST_FRAMES = 256
BATCHES_PER_TASK = 4
PROGRAMS = ("torch", "tblite", "ase", "numpy")  # they decide the value of a label


def batches_folder(output: Path) -> Path:
    """Return where the finished batches of an unfinished run are."""
    return output.with_name(output.name + ".batches")


def label_with(
    structures: Sequence[Structure],
    output: str | Path,
    spec: str,
    executor: Executor,
    provenance: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
) -> tuple[Dataset, list[tuple[int, str]]]:
    """Label structures with a fast potential and write them to an HDF5 file.

    Self-energies are left out: a potential that was trained on molecules has no
    isolated atoms.  Training fits them.

    Args:
        structures: What to label.
        output: The HDF5 file to write.
        spec: Labeler, as :func:`openmm_se3.data.labeling.labelers.labeler` takes it.
        executor: Runs the batches.
        provenance: Commands and seeds, stored in the file.
        progress: Called with finished and all atoms.
        overwrite: Replace an existing output.

    Returns:
        The labels, and (index, reason) of each structure that has none; these are
        written beside the output, too.

    Raises:
        FileExistsError: The output exists.
        FileNotFoundError: Its folder does not.
        LabelerError: There is no such labeler, it cannot label a structure, or it has
            labeled none.
        LockedError: Another run is writing the same output.
        ValueError: Splits share a structure, or a structure has unpaired electrons or
            an odd number of electrons.
    """
    output = Path(output)
    require_new_file(output, overwrite)
    check_splits(structures)
    for index, structure in enumerate(structures):
        if structure.spin:
            raise ValueError(
                f"structure {index} has {structure.spin} unpaired electrons; {spec} "
                "labels closed shells only"
            )
        electrons = int(np.sum(structure.numbers)) - _charge(structure)
        if electrons % 2:
            raise ValueError(
                f"structure {index} has {electrons} electrons at a charge of "
                f"{_charge(structure)}, an odd number; {spec} labels closed shells "
                "only: is a hydrogen missing, or charge= in the file?"
            )
    level = PublishedLevel(labeler(spec).level)
    with run_lock(output.with_name(output.name + ".lock")):
        labels = label_in_batches(
            structures, spec, batches_folder(output), executor, progress
        )
        reasons = [_failure(found, level) for found in labels]
        failures = [(i, reason) for i, reason in enumerate(reasons) if reason]
        if len(failures) == len(labels):
            shutil.rmtree(batches_folder(output))
            raise LabelerError(f"no frame could be labeled; the first: {reasons[0]}")
        kept = [i for i, reason in enumerate(reasons) if not reason]
        dataset = Dataset(
            frames=Frames.of(_frame(structures[i], labels[i]) for i in kept),
            level=level,
            self_energies={},
            provenance={**(provenance or {}), "programs": installed_versions(PROGRAMS)},
        )
        write_failures(output, failures)
        write_hdf5(output, dataset)
        shutil.rmtree(batches_folder(output))
    return dataset, failures


def _failure(labels: Labels, level: PublishedLevel) -> str:
    """Return why a frame has no label; "" if it has one."""
    if labels.failures is not None and str(labels.failures):
        return str(labels.failures)
    finite = np.isfinite(labels.energy) and np.isfinite(labels.forces).all()
    return "" if finite else f"{level}: energy or forces are not finite"


def _frame(structure: Structure, labels: Labels) -> Frame:
    fields = {f.name: getattr(structure, f.name) for f in dataclasses.fields(structure)}
    deviation = labels.energy_std
    fields |= {"charge": _charge(structure), "spin": 0}
    return Frame(
        energy=float(labels.energy),
        forces=labels.forces,
        energy_std=float("nan") if deviation is None else float(deviation),
        forces_std=labels.forces_std,
        **fields,
    )


def _charge(structure: Structure) -> int:
    return structure.charge or 0


def label_in_batches(
    structures: Sequence[Structure],
    spec: str,
    folder: Path,
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Labels]:
    """Return the labels of structures, each of one frame.

    Args:
        structures: What to label.
        spec: Labeler, as :func:`openmm_se3.data.labeling.labelers.labeler` takes it.
        folder: Where finished batches are kept; the caller removes it.
        executor: Runs the batches.
        progress: Called with finished and all atoms.

    Raises:
        LabelerError: A structure cannot be labeled.
    """
    teacher = labeler(spec)
    for structure in structures:
        teacher.require(structure.numbers, _charge(structure))
    folder.mkdir(exist_ok=True)
    batches = batches_of(structures)
    tasks = []
    for start in range(0, len(batches), BATCHES_PER_TASK):
        members = np.concatenate(batches[start : start + BATCHES_PER_TASK])
        key = _key(structures, members, f"{spec} {teacher.identity}")
        path = folder / f"{key}.npz"
        tasks.append((path, batches[start : start + BATCHES_PER_TASK], members))
    total = sum(len(s.numbers) for s in structures)
    done = 0
    todo, waiting = [], []
    for path, parts, members in tasks:
        if path.is_file():
            done += sum(len(structures[i].numbers) for i in members)
        else:
            inputs = [
                (
                    np.stack([structures[i].numbers for i in part]),
                    np.stack([structures[i].positions for i in part]),
                    _charge(structures[part[0]]),
                )
                for part in parts
            ]
            waiting.append((path, members))
            todo.append((spec, inputs))
    progress(done, total)
    for index, arrays in executor.run(_label_batches, todo):
        path, members = waiting[index]
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
        done += sum(len(structures[i].numbers) for i in members)
        progress(done, total)
    labels: list[Labels | None] = [None] * len(structures)
    for path, _, members in tasks:
        for index, found in zip(members, _read(path), strict=True):
            labels[index] = found
    return [found for found in labels if found is not None]


def batches_of(structures: Sequence[Structure]) -> list[np.ndarray]:
    """Return indices of structures that go through the labeler together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, structure in enumerate(structures):
        key = len(structure.numbers), _charge(structure)
        groups.setdefault(key, []).append(index)
    batches = []
    for (n_atoms, _), members in sorted(groups.items()):
        size = max(1, min(MOST_FRAMES, PAIRS_PER_BATCH // n_atoms**2))
        batches += [
            np.array(members[start : start + size])
            for start in range(0, len(members), size)
        ]
    return batches


def _key(structures: Sequence[Structure], members: np.ndarray, teacher: str) -> str:
    digest = hashlib.sha256(teacher.encode())
    for index in members:
        structure = structures[index]
        digest.update(structure.numbers.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(structure.positions, dtype="<f8").tobytes())
        digest.update(str(_charge(structure)).encode())
    return digest.hexdigest()[:32]


def _label_batches(
    task: tuple[str, list[tuple[np.ndarray, np.ndarray, int]]],
) -> dict[str, Any]:
    """Return the labels of batches, as arrays by name and number of the batch."""
    spec, inputs = task
    teacher = labeler(spec)
    arrays: dict[str, Any] = {}
    for index, (numbers, positions, charge) in enumerate(inputs):
        labels = teacher.label(numbers, positions, charge)
        if labels.failures is not None:
            arrays[f"failures_{index}"] = labels.failures
        for name in ("energy", "forces", "energy_std", "forces_std"):
            values = getattr(labels, name)
            if values is not None:
                kind = np.float64 if name == "energy" else np.float32
                arrays[f"{name}_{index}"] = values.astype(kind)
    return arrays


def _read(path: Path) -> list[Labels]:
    """Return the labels of the frames of one file, one by one."""
    labels = []
    with np.load(path, allow_pickle=False) as file:
        count = sum(name.startswith("energy_") for name in file if "std" not in name)
        for index in range(count):
            energy, forces = file[f"energy_{index}"], file[f"forces_{index}"]
            others: list[np.ndarray | None] = []
            for name in ("energy_std", "forces_std", "failures"):
                name = f"{name}_{index}"
                others.append(file[name] if name in file else None)
            for row in range(len(energy)):
                labels.append(
                    Labels(
                        energy[row],
                        forces[row],
                        *(None if array is None else array[row] for array in others),
                    )
                )
    return labels

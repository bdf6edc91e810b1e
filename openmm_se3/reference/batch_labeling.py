"""Labels from a fast potential: batches of frames, resumable, nothing lost.

Frames of the same number of atoms and charge go through the labeler together.  Every
finished batch is a file in a folder beside the output (``data.h5.batches``), found
again by a hash of its structures and of the labeler; when all are there, the HDF5 file
is written whole and the folder removed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.files import atomic_write
from openmm_se3.reference.executor import Executor
from openmm_se3.reference.frames import Structure
from openmm_se3.reference.labelers import Labels, labeler

# A batch: large enough that networks are busy, small enough that its pairs of atoms fit
# into a cache and a kill costs seconds.
PAIRS_PER_BATCH = 40_000
MOST_FRAMES = 256
BATCHES_PER_TASK = 4


def batches_folder(output: Path) -> Path:
    """Return where the finished batches of an unfinished run are."""
    return output.with_name(output.name + ".batches")


def label_in_batches(
    structures: Sequence[Structure],
    charges: Sequence[int],
    spec: str,
    folder: Path,
    executor: Executor,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Labels]:
    """Return the labels of structures, one of one frame each.

    Args:
        structures: What to label.
        charges: Total charge of each.
        spec: Labeler, as :func:`openmm_se3.reference.labelers.labeler` takes it.
        folder: Where finished batches are kept; the caller removes it.
        executor: Runs the batches.
        progress: Called with finished and all atoms.

    Raises:
        LabelerError: A structure cannot be labeled.
    """
    teacher = labeler(spec)
    for composition, charge in {
        (s.numbers.tobytes(), c) for s, c in zip(structures, charges, strict=True)
    }:
        teacher.require(np.frombuffer(composition, structures[0].numbers.dtype), charge)
    folder.mkdir(exist_ok=True)
    batches = _batches(structures, charges)
    tasks = []
    for start in range(0, len(batches), BATCHES_PER_TASK):
        members = np.concatenate(batches[start : start + BATCHES_PER_TASK])
        path = folder / f"{_key(structures, charges, members, spec)}.npz"
        tasks.append((path, batches[start : start + BATCHES_PER_TASK], members))
    total = sum(len(s.numbers) for s in structures)
    done = 0
    todo = []
    for path, parts, members in tasks:
        if path.is_file():
            done += sum(len(structures[i].numbers) for i in members)
        else:
            inputs = [
                (
                    np.stack([structures[i].numbers for i in part]),
                    np.stack([structures[i].positions for i in part]),
                    charges[part[0]],
                )
                for part in parts
            ]
            todo.append((spec, str(path), inputs))
    progress(done, total)
    for _, n_atoms in executor.run(_label_batches, todo):
        done += n_atoms
        progress(done, total)
    labels: list[Labels | None] = [None] * len(structures)
    for path, _, members in tasks:
        for index, found in zip(members, _read(path), strict=True):
            labels[index] = found
    return [found for found in labels if found is not None]


def remove_batches(output: Path) -> None:
    """Remove the finished batches, once the output is written."""
    shutil.rmtree(batches_folder(output), ignore_errors=True)


def _batches(
    structures: Sequence[Structure], charges: Sequence[int]
) -> list[np.ndarray]:
    """Return indices of structures that go through the labeler together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (structure, charge) in enumerate(zip(structures, charges, strict=True)):
        groups.setdefault((len(structure.numbers), charge), []).append(index)
    batches = []
    for (n_atoms, _), members in sorted(groups.items()):
        size = max(1, min(MOST_FRAMES, PAIRS_PER_BATCH // n_atoms**2))
        batches += [
            np.array(members[start : start + size])
            for start in range(0, len(members), size)
        ]
    return batches


def _key(
    structures: Sequence[Structure],
    charges: Sequence[int],
    members: np.ndarray,
    spec: str,
) -> str:
    digest = hashlib.sha256(spec.encode())
    for index in members:
        structure = structures[index]
        digest.update(structure.numbers.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(structure.positions, dtype="<f8").tobytes())
        digest.update(str(charges[index]).encode())
    return digest.hexdigest()[:32]


def _label_batches(
    task: tuple[str, str, list[tuple[np.ndarray, np.ndarray, int]]],
) -> int:
    """Label batches, write them to a file, and return their number of atoms."""
    spec, path, inputs = task
    teacher = labeler(spec)
    arrays: dict[str, Any] = {}
    for index, (numbers, positions, charge) in enumerate(inputs):
        labels = teacher.label(numbers, positions, charge)
        for name in ("energy", "forces", "energy_std", "forces_std"):
            values = getattr(labels, name)
            if values is not None:
                kind = np.float64 if name == "energy" else np.float32
                arrays[f"{name}_{index}"] = values.astype(kind)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return sum(numbers.size for numbers, _, _ in inputs)


def _read(path: Path) -> list[Labels]:
    """Return the labels of the frames of one file, one by one."""
    labels = []
    with np.load(path, allow_pickle=False) as file:
        count = sum(name.startswith("energy_") for name in file if "std" not in name)
        for index in range(count):
            energy, forces = file[f"energy_{index}"], file[f"forces_{index}"]
            deviations: list[np.ndarray | None] = []
            for name in (f"energy_std_{index}", f"forces_std_{index}"):
                deviations.append(file[name] if name in file else None)
            for row in range(len(energy)):
                labels.append(
                    Labels(
                        energy[row],
                        forces[row],
                        *(None if d is None else d[row] for d in deviations),
                    )
                )
    return labels

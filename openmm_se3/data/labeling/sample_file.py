"""Sampling into a file: resumable, nothing lost.

Every finished group of molecules is a file in a folder beside the output
(``frames.xyz.groups``).  When all are there, they are joined to the output, whole, and
the folder is removed.  The same command resumes a run that was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from openmm_se3.data.labeling.executors import Executor
from openmm_se3.data.labeling.molecule_sampler import (
    Plan,
    Sampled,
    group_count,
    group_of,
    sample_molecules,
)
from openmm_se3.data.labeling.molecules import Molecule
from openmm_se3.files import atomic_write, run_lock


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        counts: Number of structures by kind and split.
        failures: Origin and reason of each molecule without a structure.
    """

    counts: Counter[tuple[str, str]]
    failures: list[tuple[str, str]]


def groups_folder(output: Path) -> Path:
    """Return where the finished groups of an unfinished run are."""
    return output.with_name(output.name + ".groups")


def sample_to_file(
    molecules: Sequence[Molecule],
    output: Path,
    seed: int,
    executor: Executor,
    plan: Plan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Sample molecules and write their structures to an extended XYZ file.

    Args:
        molecules: The molecules.
        output: File to write; one that exists is replaced.
        seed: Seed of everything random.
        executor: Runs groups of molecules.
        plan: How many structures of what kind.
        progress: Called with the number of finished molecules, and of all.

    Raises:
        LockedError: Another run is writing the same output.
        ValueError: No molecule gave a structure.
    """
    folder = groups_folder(output)
    name = _run_name(molecules, seed, plan)
    total = group_count(molecules)
    texts = [folder / f"{name}-{index:06d}.xyz" for index in range(total)]
    records = [path.with_suffix(".json") for path in texts]
    with run_lock(output.with_name(output.name + ".lock")):
        folder.mkdir(exist_ok=True)
        finished = [path.is_file() for path in records]
        done = sum(len(group_of(molecules, i)) for i in range(total) if finished[i])
        progress(done, len(molecules))
        for index, sampled in sample_molecules(
            molecules, seed, executor, plan, skip=finished.__getitem__
        ):
            _write_group(texts[index], records[index], sampled)
            done += len(group_of(molecules, index))
            progress(done, len(molecules))
        summary = _summary(records)
        if not summary.counts:
            origin, reason = summary.failures[0]
            raise ValueError(f"no molecule gave a structure: {origin}: {reason}")
        with atomic_write(output) as temporary, open(temporary, "wb") as joined:
            for path in texts:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, joined)
        shutil.rmtree(folder)
    return summary


def _write_group(text: Path, record: Path, sampled: Sampled) -> None:
    """Write a group; its record, written last, says that it is complete."""
    from ase.io import write

    counts = Counter((a.info["kind"], a.info["split"]) for a in sampled.structures)
    with atomic_write(text) as temporary:
        if sampled.structures:
            write(temporary, sampled.structures, format="extxyz")
    with atomic_write(record) as temporary:
        content = {
            "counts": [[*key, count] for key, count in counts.items()],
            "failures": sampled.failures,
        }
        temporary.write_text(json.dumps(content))


def _summary(records: Sequence[Path]) -> Summary:
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[tuple[str, str]] = []
    for path in records:
        content = json.loads(path.read_text())
        for kind, split, count in content["counts"]:
            counts[kind, split] += count
        failures += [(origin, reason) for origin, reason in content["failures"]]
    return Summary(counts, failures)


def _run_name(molecules: Sequence[Molecule], seed: int, plan: Plan) -> str:
    """Return a hash of everything that decides the structures."""
    description = json.dumps([seed, dataclasses.asdict(plan)])
    digest = hashlib.sha256(description.encode())
    for molecule in molecules:
        digest.update(molecule.inchikey.encode())
        if molecule.mol.GetNumConformers():
            digest.update(molecule.mol.GetConformer().GetPositions().tobytes())
    return digest.hexdigest()[:16]

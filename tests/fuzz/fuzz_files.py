"""Mutates files of every format and reads them: nothing may hang, crash or vanish.

    python tests/fuzz/fuzz_files.py --minutes 10 --seed 0 [--formats extxyz ours]

Each case is a good file with one damage.  A child process with limits of time and
memory reads it and uses what it read (checks of units, neighbor list).  It must end
with the right number of frames or with an error that is meant for users.  Everything
else is a fault: a hang, the end of the process, an unexpected exception, frames that
are missing without a word.  The exit code is 1 if there is one; the files of all faults
are kept in ``--keep``.  Run this before a release; reduce each fault to a test.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import BINARY, KEEPS_FRAMES, TEXT
from seeds import N_FRAMES, write_seeds

from openmm_se3.cli import EXPECTED_ERRORS
from openmm_se3.data.checks.units import unit_checks
from openmm_se3.data.frames import Frames
from openmm_se3.data.labeling.label import read_structures
from openmm_se3.data.load import Source, read_source
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.simulation.structure import read_structure
from openmm_se3.training.config_file import read_config

SECONDS = 90.0  # that a case may take, on a busy machine; most take far below one
CASES_OF_A_CHILD = 200
MEMORY = 4 << 30  # bytes beyond those of this process
TEXT_FORMATS = ("extxyz", "structures", "pdb", "cif", "yaml")
UNMEANT = (RecursionError, MemoryError, NotImplementedError)


def read_labels(path: Path) -> int:
    """Read labels and use them as training does."""
    frames = read_source(Source(str(path))).frames
    if len(frames):
        unit_checks(frames)
    _neighbors(frames)
    return len(frames)


def read_input_of_label(path: Path) -> int:
    """Read structures that are to be labeled."""
    return len(read_structures(path))


def read_start(path: Path) -> int:
    """Read a structure that is to be run."""
    topology, positions = read_structure(path)
    assert topology.getNumAtoms() == len(positions)
    return N_FRAMES


def read_yaml(path: Path) -> int:
    """Read the configuration of a run."""
    read_config(path)
    return N_FRAMES


def read_model(path: Path) -> int:
    """Read a model."""
    load_model(path)
    return N_FRAMES


READERS: dict[str, Callable[[Path], int]] = {
    "structures": read_input_of_label,
    "pdb": read_start,
    "cif": read_start,
    "yaml": read_yaml,
    "model": read_model,
}


def _neighbors(frames: Frames) -> None:
    for frame in list(frames)[:3]:
        positions = torch.tensor(frame.positions)
        box = None if frame.box is None else torch.tensor(frame.box)
        neighbor_pairs(positions, 5.0, box)


def read_case(kind: str, path: Path) -> dict[str, Any]:
    """Read one file and return what came of it, under the key of the outcome."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"frames": READERS.get(kind, read_labels)(path)}
    except Exception as error:
        meant = isinstance(error, EXPECTED_ERRORS) and not isinstance(error, UNMEANT)
        if meant and str(error).strip():
            return {"refused": str(error)}
        return {"fault": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}


class Cases:
    """The cases of a seed: case ``n`` is the same whenever and wherever it is made.

    Args:
        seeds: Good files by format.
        kinds: Formats, which take turns.
        seed: Seed of all cases.
        folder: Where the files of a case are written.
    """

    def __init__(
        self, seeds: dict[str, Path], kinds: list[str], seed: int, folder: Path
    ) -> None:
        self.seeds, self.kinds, self.seed, self.folder = seeds, kinds, seed, folder

    def kind(self, number: int) -> str:
        """Return the format of a case."""
        return self.kinds[number % len(self.kinds)]

    def make(self, number: int) -> tuple[Path, str, bool]:
        """Write a case; return its path, what was done, and if no frame is gone."""
        kind = self.kind(number)
        good = self.seeds[kind]
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        path = self.folder / good.name
        copy = shutil.copytree if good.is_dir() else shutil.copy
        copy(good, path)
        rng = np.random.default_rng([self.seed, number])
        return path, *mutate(kind, path, rng)

    def run(self, number: int) -> dict[str, Any]:
        """Make and read a case."""
        path, done, keeps_frames = self.make(number)
        kind = self.kind(number)
        result = read_case(kind, path)
        read = result.get("frames", N_FRAMES)
        if keeps_frames and kind in ("extxyz", "structures") and read != N_FRAMES:
            result = {"fault": f"{read} of {N_FRAMES} frames, and not a word"}
        return {**result, "done": done}


class Child:
    """A process that runs cases one after the other, with a limit of memory."""

    def __init__(self, cases: Cases, first: int) -> None:
        read_end, write_end = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(read_end)
            _limit_memory()
            for number in range(first, first + CASES_OF_A_CHILD):
                line = json.dumps(cases.run(number)).encode()[:60_000] + b"\n"
                os.write(write_end, line)
            os._exit(0)
        os.close(write_end)
        self.pipe = os.fdopen(read_end, "rb")

    def next(self) -> dict[str, Any] | None:
        """Return the result of the next case; None if the child is done."""
        ready, _, _ = select.select([self.pipe], [], [], SECONDS)
        if not ready:
            self.close()
            return {"fault": f"hang: more than {SECONDS:g} s"}
        line = self.pipe.readline()
        if line:
            result: dict[str, Any] = json.loads(line)
            return result
        status = self.close()
        if status:
            return {"fault": f"crash: signal {os.WTERMSIG(status)}"}
        return None

    def close(self) -> int:
        """End the process and return its status."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            time.sleep(0.2)  # it may be about to end by itself
            ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            os.kill(self.process, signal.SIGKILL)
            _, status = os.waitpid(self.process, 0)
        self.pipe.close()
        return status


def _limit_memory() -> None:
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write there too


def mutate(kind: str, path: Path, rng: np.random.Generator) -> tuple[str, bool]:
    """Damage a file, or one file of a folder.

    Returns:
        What was done, and whether the frames are as many as before.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.*"))
    files = [file for file in files if file.is_file()]
    file = files[int(rng.integers(len(files)))]
    text = kind in TEXT_FORMATS or file.suffix in (".raw", ".json", ".md", ".yaml")
    choices = TEXT if text else BINARY
    mutation = choices[int(rng.integers(len(choices)))]
    file.write_bytes(mutation(file.read_bytes(), rng))
    return f"{file.name} {mutation.__name__}", mutation in KEEPS_FRAMES and text


def fuzz(
    formats: list[str] | None, seed: int, first: int, minutes: float, keep: Path
) -> int:
    """Run cases until the time is over; return the number of faults."""
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        seeds = write_seeds(Path(name))
        kinds = formats or sorted(seeds)
        for kind in kinds:
            # Here, so that the children need not import what it takes.
            result = read_case(kind, seeds[kind])
            assert result == {"frames": N_FRAMES}, (kind, result)
        cases = Cases(seeds, kinds, seed, Path(name) / "case")
        end = time.monotonic() + 60.0 * minutes
        number, child = first, None
        while time.monotonic() < end:
            child = child or Child(cases, number)
            found = child.next()
            if found is None:
                child = None
                continue
            outcome = next(iter(found))
            counts[cases.kind(number), outcome] += 1
            if outcome == "fault":
                kept = keep / f"{cases.kind(number)}-{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                done = found.get("done")
                if done is None:
                    child = None
                _, done, _ = Cases(seeds, kinds, seed, kept).make(number)
                print(f"FAULT {kept.name} ({done}): {found['fault']}", flush=True)
            number += 1
        if child is not None:
            child.close()
    for kind in kinds:
        row = {o: counts[kind, o] for o in ("frames", "refused", "fault")}
        print(f"{kind:12} read {row['frames']:6} refused {row['refused']:6}", end=" ")
        print(f"faults {row['fault']:6}")
    faults = sum(n for (_, outcome), n in counts.items() if outcome == "fault")
    print(f"{number - first} cases, {faults} faults, kept in {keep}")
    return faults


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", nargs="*", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.keep.mkdir(parents=True, exist_ok=True)
    faults = fuzz(
        options.formats, options.seed, options.first, options.minutes, options.keep
    )
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

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
from openmm_se3.graph import neighbour_pairs
from openmm_se3.modelfile import load_model
from openmm_se3.reference.frames import Frames
from openmm_se3.reference.labelling import read_structures
from openmm_se3.reference.plausibility import findings
from openmm_se3.reference.sources import Source, read_source
from openmm_se3.simulation.structure import read_structure
from openmm_se3.training.config_file import read_config

SECONDS = 20.0  # that a case may take; all of them take less than one
MEMORY = 4 << 30  # bytes beyond those of this process
TEXT_FORMATS = ("extxyz", "structures", "pdb", "cif", "yaml")
UNMEANT = (RecursionError, MemoryError, NotImplementedError)


def read_labels(path: Path) -> int:
    """Read labels and use them as training does."""
    frames = read_source(Source(str(path))).frames
    if len(frames):
        findings(frames)
    _neighbors(frames)
    return len(frames)


def read_input_of_label(path: Path) -> int:
    """Read structures that are to be labelled."""
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
        neighbour_pairs(positions, 5.0, box)


def run_case(kind: str, path: Path) -> dict[str, Any]:
    """Read one file in a child process and return what came of it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        result = _in_child(kind, path)
        os.write(write_end, json.dumps(result).encode()[:60_000])
        os._exit(0)
    os.close(write_end)
    deadline = time.monotonic() + SECONDS
    status = None
    while status is None and time.monotonic() < deadline:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else time.sleep(0.002)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as pipe:
        content = pipe.read()
    if status is None:
        return {"fault": f"hang: more than {SECONDS:g} s"}
    if status != 0 or not content:
        return {"fault": f"crash: signal {os.WTERMSIG(status)}"}
    result: dict[str, Any] = json.loads(content)
    return result


def _in_child(kind: str, path: Path) -> dict[str, Any]:
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # libraries write there too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"frames": READERS.get(kind, read_labels)(path)}
    except Exception as error:
        meant = isinstance(error, EXPECTED_ERRORS) and not isinstance(error, UNMEANT)
        if meant and str(error).strip():
            return {"refused": str(error)}
        return {"fault": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}


def mutate(kind: str, path: Path, rng: np.random.Generator) -> tuple[str, bool]:
    """Damage a file, or one file of a folder.

    Returns:
        What was done, and whether the frames are as many as before.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.*"))
    files = [file for file in files if file.is_file()]
    file = files[int(rng.integers(len(files)))]
    text = kind in TEXT_FORMATS or file.suffix in (".raw", ".json", ".md", ".yaml")
    choices = TEXT if text else BINARY
    mutation = choices[int(rng.integers(len(choices)))]
    file.write_bytes(mutation(file.read_bytes(), rng))
    return f"{file.name} {mutation.__name__}", mutation in KEEPS_FRAMES and text


def fuzz(formats: list[str] | None, seed: int, minutes: float, keep: Path) -> int:
    """Run cases until the time is over; return the number of faults."""
    end = time.monotonic() + 60.0 * minutes
    counts: Counter[tuple[str, str]] = Counter()
    faults = number = 0
    with tempfile.TemporaryDirectory() as name:
        seeds = write_seeds(Path(name))
        kinds = formats or sorted(seeds)
        for kind in kinds:
            # Here too, so that the children need not import what it takes.
            READERS.get(kind, read_labels)(seeds[kind])
            result = run_case(kind, seeds[kind])
            assert result == {"frames": N_FRAMES}, (kind, result)
        case = Path(name) / "case"
        while time.monotonic() < end:
            rng = np.random.default_rng([seed, number])
            kind = kinds[number % len(kinds)]
            path = case / seeds[kind].name
            shutil.rmtree(case, ignore_errors=True)
            case.mkdir()
            copy = shutil.copytree if seeds[kind].is_dir() else shutil.copy
            copy(seeds[kind], path)
            done, keeps_frames = mutate(kind, path, rng)
            result = run_case(kind, path)
            if keeps_frames and kind in ("extxyz", "structures"):
                read = result.get("frames", N_FRAMES)
                if read != N_FRAMES:
                    result = {"fault": f"{read} of {N_FRAMES} frames, not a word"}
            outcome = next(iter(result))
            counts[kind, outcome] += 1
            if outcome == "fault":
                faults += 1
                kept = keep / f"{kind}-{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(case, kept)
                print(f"FAULT {kept.name} ({done}): {result['fault']}", flush=True)
            number += 1
    for kind in kinds:
        row = {o: counts[kind, o] for o in ("frames", "refused", "fault")}
        print(f"{kind:12} read {row['frames']:6} refused {row['refused']:6}", end=" ")
        print(f"faults {row['fault']:6}")
    print(
        f"{number} cases, {faults} faults; files in {keep}"
        if faults
        else f"{number} cases, no fault"
    )
    return faults


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", nargs="*", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.keep.mkdir(parents=True, exist_ok=True)
    faults = fuzz(options.formats, options.seed, options.minutes, options.keep)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

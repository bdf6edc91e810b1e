"""Train on a file that does not fit into memory: peak memory and time to start.

    python benchmarks/training/streaming.py --folder /with/6/GB --conformations 5000000

Writes an HDF5 file of the layout of ANI-1x (molecules of 2 to 26 atoms of H, C, N and
O, NaN where a label is missing as there), 5 GB for five million conformations, trains a
few steps on it in a process of its own, and prints the size of the file, the time until
the first step and the peak memory.  The structures are chains with springs, labeled by
these springs, so that units and signs are right; the network learns nothing of
chemistry from them.  Exit code 1 if more than 4 GB of memory or two minutes were
needed.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import click
import h5py
import numpy as np
import yaml

from openmm_se3.elements import ATOMIC_NUMBERS, COVALENT_RADII, SYMBOLS
from openmm_se3.units import HARTREE_TO_EV

MOLECULES = 3000
SPRING = 30.0  # eV/A^2
SPREAD = 0.05  # A, of a bond
MISSING = 0.02  # share of molecules some of whose labels are NaN
MEMORY_LIMIT, START_LIMIT = 4.0, 120.0  # GB, s
STEPS = 20


def chain(
    numbers: np.ndarray, n: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return n conformations of a chain of atoms held by springs, and their labels."""
    radii = np.array([COVALENT_RADII[SYMBOLS[z - 1]] for z in numbers])
    rest = radii[1:] + radii[:-1]
    # A zigzag in a plane keeps atoms apart that are not bonded.
    steps = rng.normal(scale=0.2, size=(n, len(rest), 3))
    steps[..., 0] += 1.0
    steps[..., 1] += 0.7 * (-1.0) ** np.arange(len(rest))
    steps /= np.linalg.norm(steps, axis=-1, keepdims=True)
    stretch = rng.normal(scale=SPREAD, size=(n, len(rest), 1))
    bonds = steps * (rest[:, None] + stretch)
    positions = np.concatenate([np.zeros((n, 1, 3)), bonds.cumsum(1)], axis=1)
    pull = SPRING * stretch * steps  # on the first atom of each bond
    forces = np.zeros_like(positions)
    forces[:, :-1] += pull
    forces[:, 1:] -= pull
    isolated = sum({1: -0.5, 6: -37.8, 7: -54.6, 8: -75.0}[int(z)] for z in numbers)
    energy = 0.5 * SPRING * (stretch**2).sum((1, 2)) / HARTREE_TO_EV + isolated
    return {
        "coordinates": positions,
        "wb97x_dz.energy": energy,
        "wb97x_dz.forces": forces / HARTREE_TO_EV,
    }


def write_file(path: Path, conformations: int, seed: int = 0) -> None:
    """Write the file."""
    rng = np.random.default_rng(seed)
    elements = [ATOMIC_NUMBERS[s] for s in ("H", "C", "N", "O")]
    counts = rng.multinomial(conformations, rng.dirichlet(np.full(MOLECULES, 2.0)))
    with h5py.File(path, "w") as file:
        file.attrs["conformations"] = conformations
        for index, n in enumerate(counts):
            if n == 0:
                continue
            size = int(np.clip(rng.normal(20, 5), 2, 26))
            numbers = rng.choice(elements, size, p=[0.5, 0.3, 0.1, 0.1])
            arrays = chain(numbers, int(n), rng)
            if rng.random() < MISSING:
                arrays["wb97x_dz.forces"][: n // 2] = np.nan
            group = file.create_group(f"molecule{index:05d}")
            group["atomic_numbers"] = numbers.astype("u1")
            for name, values in arrays.items():
                group[name] = values


def written(path: Path) -> int | None:
    """Return how many conformations a file holds that was kept; None without one."""
    if not path.exists():
        return None
    with h5py.File(path) as file:
        return int(file.attrs["conformations"])


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("."))
@click.option("--conformations", default=5_000_000, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the file in the folder.")
def main(folder: Path, conformations: int, keep: bool) -> None:
    """Train on a generated file of the size of ANI-1x: time to start, memory."""
    data, config, out = (folder / name for name in ("ani.h5", "ani.yaml", "ani-run"))
    if written(data) != conformations:
        start = time.monotonic()
        write_file(data, conformations)
        click.echo(f"wrote {data} in {time.monotonic() - start:.0f} s")
    settings = {
        "preset": "default",
        "model": {"elements": ["H", "C", "N", "O"], "cutoff": 5.0},
        "training": {
            "steps": 1000,
            "validate_every": STEPS,
            "warmup_steps": 5,
            "evaluated_frames": 1000,
            "threads": 1,
        },
        "data": {"files": ["ani.h5"], "split": {"by": "molecule"}},
    }
    config.write_text(yaml.safe_dump(settings))
    script = str(Path(sys.executable).parent / "openmm-se3")
    command = [script, "train", str(config), "--out", str(out), "--overwrite"]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--max-minutes", "30"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = None
    for line in process.stdout:
        click.echo(f"  {line.rstrip()}")
        if "Validation errors in" in line:  # printed when the first step begins
            first = time.monotonic() - start
        if re.match(rf"\s+{STEPS} ", line):
            process.terminate()
    process.wait()
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # KiB to GB
    if first is None:
        raise click.ClickException("the run ended before its first step")
    size = data.stat().st_size / 1e9
    click.echo(
        json.dumps(
            {
                "conformations": conformations,
                "file_gb": round(size, 2),
                "seconds_to_first_step": round(first, 1),
                "peak_memory_gb": round(memory, 2),
            }
        )
    )
    if not keep:
        data.unlink()
    sys.exit(0 if memory < MEMORY_LIMIT and first < START_LIMIT else 1)


if __name__ == "__main__":
    main()

"""Minima and frequencies of drugs: the model against its teacher.

    python benchmarks/organic/minima.py --method model:organic --out minima.json

Each molecule of drugs.smi, in its lowest conformer by MMFF94, is minimized with
GFN2-xTB, then with the model and with the teacher.  Printed are the root-mean-square
distance of both minima after superposition, of all atoms, and, for the first molecules,
the mean absolute difference of their harmonic frequencies, each at its own minimum.
Everything that `openmm-se3 label --method` takes can be the model or the teacher.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ase.data import atomic_masses
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from openmm_se3.data.labeling.labelers import Labeler, labeler
from openmm_se3.files import atomic_write
from openmm_se3.simulation.structure import make_structure
from openmm_se3.units import (
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    SPEED_OF_LIGHT_CM_PER_FS,
)

DRUGS = Path(__file__).with_name("drugs.smi")
LARGEST_FORCE = 2e-3  # eV/A, at a minimum
DISPLACEMENT = 0.005  # A, of central differences
ROWS = 64  # displaced structures that are labeled at once
# 1/cm of a frequency whose square is 1 eV/A^2/u.
WAVENUMBER = np.sqrt(EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2) / (
    2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS
)


def minimum(potential: Labeler, numbers: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, of the nearest minimum."""

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        labels = potential.label(numbers[None], flat.reshape(1, -1, 3), 0)
        return float(labels.energy[0]), -labels.forces[0].ravel()

    result = minimize(
        value,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": LARGEST_FORCE, "ftol": 0.0, "maxiter": 2000, "maxcor": 30},
    )
    return np.asarray(result.x).reshape(-1, 3)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the root-mean-square distance after superposition, A."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    _, rssd = Rotation.align_vectors(a, b)
    return float(rssd / np.sqrt(len(a)))


def frequencies(
    potential: Labeler, numbers: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Return harmonic frequencies [3 n_atoms - 6], 1/cm; imaginary: negative."""
    n = positions.size
    steps = DISPLACEMENT * np.concatenate([np.eye(n), -np.eye(n)])
    moved = positions + steps.reshape(-1, *positions.shape)
    forces = np.concatenate(
        [
            potential.label(np.tile(numbers, (len(part), 1)), part, 0).forces
            for part in np.split(moved, range(ROWS, 2 * n, ROWS))
        ]
    ).reshape(2, n, n)
    hessian = -(forces[0] - forces[1]) / (2.0 * DISPLACEMENT)
    root = np.sqrt(np.repeat(atomic_masses[numbers], 3))
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2.0 / np.outer(root, root))
    # Without the six that are nearest zero: translations and rotations.
    kept = np.sort(squares[np.argsort(np.abs(squares))[6:]])
    return np.sign(kept) * np.sqrt(np.abs(kept)) * WAVENUMBER


def compare(smiles: str, model: Labeler, teacher: Labeler, modes: bool) -> Any:
    """Return distance and differences for one molecule."""
    topology, start = make_structure(smiles)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    start = minimum(labeler("gfn2"), numbers, start)
    ours = minimum(model, numbers, start)
    theirs = minimum(teacher, numbers, start)
    row: dict[str, Any] = {
        "atoms": len(numbers),
        "rmsd": distance(ours, theirs),
        "gfn2": distance(start, theirs),
    }
    if modes:
        difference = frequencies(model, numbers, ours) - frequencies(
            teacher, numbers, theirs
        )
        row["frequency_mae"] = float(np.abs(difference).mean())
        row["frequency_worst"] = float(np.abs(difference).max())
    return row


@click.command(help=__doc__)
@click.option("--method", default="model:organic", show_default=True)
@click.option("--teacher", default="aimnet2", show_default=True)
@click.option("--molecules", type=click.IntRange(1), help="First ones only.")
@click.option("--modes", type=int, default=20, show_default=True, help="Molecules.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    method: str, teacher: str, molecules: int | None, modes: int, out: Path | None
) -> None:
    """Print and write distances and differences."""
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    lines = DRUGS.read_text().splitlines()[:molecules]
    for number, line in enumerate(lines):
        smiles, name = line.split()
        rows[name] = row = compare(
            smiles, labeler(method), labeler(teacher), number < modes
        )
        text = f"{name:20}{row['atoms']:4} atoms  {row['rmsd']:.3f} A"
        if "frequency_mae" in row:
            text += f"  {row['frequency_mae']:6.1f} 1/cm"
        click.echo(text)
    medians = {
        "rmsd": float(np.median([row["rmsd"] for row in rows.values()])),
        "gfn2": float(np.median([row["gfn2"] for row in rows.values()])),
        "frequency_mae": float(
            np.mean([r["frequency_mae"] for r in rows.values() if "frequency_mae" in r])
        ),
    }
    click.echo(
        f"median distance {medians['rmsd']:.3f} A (GFN2-xTB {medians['gfn2']:.3f}); "
        f"frequencies {medians['frequency_mae']:.1f} 1/cm"
    )
    if out is not None:
        record = {"method": method, "teacher": teacher, **medians, "molecules": rows}
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

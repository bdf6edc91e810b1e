"""Minima and frequencies of drugs: the model against its teacher.

    python benchmarks/organic/minima.py --method model:organic --out minima.json

Each molecule of drugs.smi, in its lowest conformer by MMFF94, is minimized with
GFN2-xTB, then with the model and with the teacher.  Printed are the root-mean-square
distance of both minima after superposition, of all atoms, and, for the first molecules,
the mean absolute difference of their harmonic frequencies, each at its own minimum.
Everything that `openmm-se3 label --method` takes can be the model or the teacher.

The minimizer follows forces alone: total energies in single precision, as AIMNet2 has
them, are good to 0.002 eV and stop a line search long before a soft mode is at rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import atomic_masses
from ase.optimize import BFGS
from scipy.spatial.transform import Rotation

from openmm_se3.data.labeling.labelers import Labeler, labeler
from openmm_se3.files import atomic_write
from openmm_se3.simulation.structure import make_structure
from openmm_se3.units import (
    EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2,
    SPEED_OF_LIGHT_CM_PER_FS,
)

DRUGS = Path(__file__).with_name("drugs.smi")
LARGEST_FORCE = 1e-3  # eV/A, on an atom at a minimum
LONGEST_STEP = 0.1  # A, of an atom; longer ones leave the valley of the start
MOST_STEPS = 3000
DISPLACEMENT = 0.005  # A, of central differences
ROWS = 64  # displaced structures that are labeled at once
# 1/cm of a frequency whose square is 1 eV/A^2/u.
WAVENUMBER = np.sqrt(EV_PER_ANGSTROM_DALTON_TO_ANGSTROM_PER_FS2) / (
    2.0 * np.pi * SPEED_OF_LIGHT_CM_PER_FS
)


class _Labels(Calculator):
    """What a labeler says, for the optimizers of ASE."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012, as ASE has it

    def __init__(self, potential: Labeler) -> None:
        super().__init__()
        self._potential = potential

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        labels = self._potential.label(atoms.numbers[None], atoms.positions[None], 0)
        self.results["energy"] = float(labels.energy[0])
        self.results["forces"] = labels.forces[0]


def minimum(potential: Labeler, numbers: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the positions [n_atoms, 3], A, of the nearest minimum.

    Raises:
        RuntimeError: It was not found.
    """
    atoms = Atoms(numbers, start)
    atoms.calc = _Labels(potential)
    optimizer = BFGS(atoms, logfile=None, maxstep=LONGEST_STEP)
    if not optimizer.run(fmax=LARGEST_FORCE, steps=MOST_STEPS):
        raise RuntimeError(f"no minimum in {MOST_STEPS} steps")
    return np.asarray(atoms.positions)


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

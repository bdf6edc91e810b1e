"""Energy along stretched bonds and approaching molecules, beside the teacher's.

    python benchmarks/organic/curves.py --figure docs/images/organic_curves.png \
        --out curves.json

Rigid scans from minima of MMFF94, energies in kcal/mol.  A bond is stretched and
pressed with all else fixed, energies relative to the start.  Two molecules approach
atom to atom along a line, energies relative to the two alone.  The band is the spread
of the teacher's networks: where they contradict each other there is nothing to learn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from rdkit import Chem

from openmm_se3.data.labeling.conformers import conformers
from openmm_se3.data.labeling.labelers import labeler
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, save
from openmm_se3.units import EV_TO_KCAL_PER_MOL

SEED = 1
# The bond between the atoms 1 and 2; atom 1 stays.
BONDS = {
    "ethane, C-C": "[CH3:1][CH3:2]",
    "ethene, C=C": "[CH2:1]=[CH2:2]",
    "propane, C-H": "C[CH:1]([H:2])C",
    "methanol, C-O": "[CH3:1][OH:2]",
    "methanol, O-H": "C[O:1][H:2]",
    "acetone, C=O": "C[C:1](=[O:2])C",
    "acetamide, C-N": "C[C:1](=O)[NH2:2]",
    "acetonitrile, C#N": "C[C:1]#[N:2]",
    "methylamine, N-H": "C[NH:1][H:2]",
    "fluoromethane, C-F": "[CH3:1][F:2]",
    "chloromethane, C-Cl": "[CH3:1][Cl:2]",
    "dimethyl sulfide, C-S": "C[S:1][CH3:2]",
}
# The atoms 1 of both meet on a line; behind each is its atom 2.
PAIRS = {
    "water, H-bond": ("[O:2]([H])[H:1]", "[O:1]([H:2])[H]"),
    "methanol and acetone, H-bond": (
        "C[O:2][H:1]",
        "C[C:2](=[O:1])C",
    ),
    "methane, H to H": ("[CH3:2][H:1]", "[CH3:2][H:1]"),
    "benzene and water, H to O": ("c1cccc[c:2]1[H:1]", "[O:1]([H:2])[H]"),
    "ammonia, N to N": ("[N:1]([H:2])([H])[H]", "[N:1]([H:2])([H])[H]"),
    "chloromethane and water, Cl to O": ("[CH3:2][Cl:1]", "[O:1]([H:2])[H]"),
}
STRETCH = np.linspace(0.72, 2.2, 75)  # of the bond length
APPROACH = np.linspace(1.2, 6.0, 73)  # A
TOP = {"bond": 250.0, "pair": 25.0}  # kcal/mol, of the panels


def molecule(smiles: str) -> tuple[np.ndarray, np.ndarray, list[int], Chem.Mol]:
    """Return atomic numbers, positions [n_atoms, 3], A, and atoms 1 and 2."""
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles, parameters))
    place = {atom.GetAtomMapNum(): atom.GetIdx() for atom in mol.GetAtoms()}
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    mol, found = conformers(mol, 1, SEED)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, found[0], [place[1], place[2]], mol


def stretched(smiles: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return atomic numbers, structures [n, n_atoms, 3] and lengths [n], A."""
    numbers, positions, (i, j), mol = molecule(smiles)
    parts = Chem.RWMol(mol)
    parts.RemoveBond(i, j)
    moved = next(list(f) for f in Chem.GetMolFrags(parts) if j in f)
    bond = positions[j] - positions[i]
    structures = np.repeat(positions[None], len(STRETCH), axis=0)
    structures[:, moved] += ((STRETCH - 1.0)[:, None] * bond)[:, None, :]
    return numbers, structures, STRETCH * np.linalg.norm(bond)


def turned_to(
    positions: np.ndarray, front: int, behind: int, sign: float
) -> np.ndarray:
    """Return positions with the atom in front at 0, the one behind on the z axis."""
    x = positions - positions[front]
    z = x[behind] / np.linalg.norm(x[behind])
    other = np.cross(z, [0.31, 0.87, 0.38])
    other /= np.linalg.norm(other)
    axes = np.stack([other, np.cross(z, other), z])
    return np.asarray(x @ axes.T) * [1.0, sign, sign]


def approaching(pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return atomic numbers, structures [n + 1, n_atoms, 3], and atoms of the first.

    The last structure has the two molecules far apart.
    """
    (za, xa, (fa, ba), _), (zb, xb, (fb, bb), _) = map(molecule, pair)
    first = turned_to(xa, fa, ba, -1.0)
    second = turned_to(xb, fb, bb, 1.0)
    shifts = [*APPROACH, 100.0]
    structures = [np.vstack([first, second + [0.0, 0.0, d]]) for d in shifts]
    return np.concatenate([za, zb]), np.stack(structures), len(za)


def labels(
    method: str, numbers: np.ndarray, structures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return energies and their spread over the method's networks, kcal/mol."""
    potential = labeler(method)
    repeated = np.repeat(numbers[None], len(structures), axis=0)
    found = potential.label(repeated, structures, 0)
    std = np.zeros(len(structures)) if found.energy_std is None else found.energy_std
    return found.energy * EV_TO_KCAL_PER_MOL, std * EV_TO_KCAL_PER_MOL


def scans(methods: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return all curves."""
    found: list[dict[str, Any]] = []
    for name, smiles in BONDS.items():
        numbers, structures, lengths = stretched(smiles)
        row: dict[str, Any] = {"kind": "bond", "name": name, "A": lengths.tolist()}
        start = int(np.argmin(abs(STRETCH - 1.0)))
        for method in methods:
            energy, std = labels(method, numbers, structures)
            row[method] = (energy - energy[start]).tolist()
            row[f"{method} spread"] = std.tolist()
        found.append(row)
    for name, pair in PAIRS.items():
        numbers, structures, _ = approaching(pair)
        row = {"kind": "pair", "name": name, "A": APPROACH.tolist()}
        for method in methods:
            energy, std = labels(method, numbers, structures)
            row[method] = (energy[:-1] - energy[-1]).tolist()
            row[f"{method} spread"] = std[:-1].tolist()
        found.append(row)
    return found


def draw(rows: list[dict[str, Any]], model: str, teacher: str, path: Path) -> None:
    """Draw all curves, the teacher's in gray."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 4
    with rc_context(STYLE):
        lines = -(-len(BONDS) // columns) + -(-len(PAIRS) // columns)
        figure = Figure((11.0, 2.1 * lines), layout="constrained")
        panels = figure.subplots(lines, columns)
        for panel in panels.flat[len(rows) :]:
            panel.set_axis_off()
        for panel, row in zip(panels.flat, rows, strict=False):
            x, gray, band = (
                np.array(row[k]) for k in ("A", teacher, f"{teacher} spread")
            )
            panel.fill_between(x, gray - band, gray + band, color=GRAY, alpha=0.3, lw=0)
            panel.plot(x, gray, color=GRAY, lw=2.5, label=f"teacher ({teacher})")
            panel.plot(x, row[model], color=BLUE, lw=1.2, label=model)
            bottom = min(
                -0.04 * TOP[row["kind"]], 1.3 * min(gray.min(), min(row[model]))
            )
            panel.set_ylim(max(bottom, -0.4 * TOP[row["kind"]]), TOP[row["kind"]])
            panel.set_title(row["name"])
        for panel in panels[:, 0]:
            panel.set_ylabel("kcal/mol")
        for panel in panels[-1]:
            panel.set_xlabel("distance, Å")
        handles, names = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=2)
        save(path, figure)


@click.command(help=__doc__)
@click.option("--model", default="organic", show_default=True)
@click.option("--teacher", default="aimnet2", show_default=True)
@click.option("--figure", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(model: str, teacher: str, figure: Path, out: Path | None) -> None:
    """Compute, draw and write the curves."""
    rows = scans((f"model:{model}", teacher))
    draw(rows, f"model:{model}", teacher, figure)
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()

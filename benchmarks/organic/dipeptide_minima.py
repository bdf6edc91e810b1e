"""Minima of alanine dipeptide: their energies by the model, its teacher and DFT.

    OMP_NUM_THREADS=1 python benchmarks/organic/dipeptide_minima.py --out dipeptide.json

The dihedral angles phi and psi start on a grid; both amides are trans.  The model
minimizes every start.  At each of its minima the energy is computed again by the
teacher and by DFT, and compared relative to the mean over the minima, so that no
minimum is the zero of all.  A minimum that the output file has is not computed again.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from minima import minimum
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from openmm_se3.active_learning.minima import dihedral_angle
from openmm_se3.data.labeling.dft import build_molecule, converge
from openmm_se3.data.labeling.labelers import Labeler, labeler
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.files import atomic_write
from openmm_se3.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_EV

DIPEPTIDE = "CC(=O)N[C@@H](C)C(=O)NC"
PHI, PSI = (1, 3, 4, 6), (3, 4, 6, 8)
OMEGAS = (0, 1, 3, 4), (4, 6, 8, 9)
SAME = 15.0  # degrees between the angles of one minimum that was found twice
HIGHEST = 12.0  # kcal/mol above the lowest: what a simulation may see


def starts(spacing: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return atomic numbers [n_atoms] and positions [n_atoms, 3], A, of the grid."""
    mol = Chem.AddHs(Chem.MolFromSmiles(DIPEPTIDE))
    rdDistGeom.EmbedMolecule(mol, randomSeed=0)
    conformer = mol.GetConformer()
    for omega in OMEGAS:
        rdMolTransforms.SetDihedralDeg(conformer, *omega, 180.0)
    frames = []
    for phi, psi in itertools.product(np.arange(-180.0, 180.0, spacing), repeat=2):
        rdMolTransforms.SetDihedralDeg(conformer, *PHI, phi)
        rdMolTransforms.SetDihedralDeg(conformer, *PSI, psi)
        frames.append(conformer.GetPositions())
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]), frames


def degrees(positions: np.ndarray, atoms: tuple[int, int, int, int]) -> float:
    """Return a dihedral angle, degrees."""
    return float(np.degrees(dihedral_angle(torch.tensor(positions), atoms).item()))


def energy(potential: Labeler, numbers: np.ndarray, positions: np.ndarray) -> float:
    """Return an energy, eV."""
    return float(potential.label(numbers[None], positions[None], 0).energy[0])


def minima(
    potential: Labeler, spacing: float
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return atomic numbers and the minima of a potential, the lowest first."""
    numbers, frames = starts(spacing)
    found: list[dict[str, Any]] = []
    for start in frames:
        positions = minimum(potential, numbers, start)
        angles = np.array([degrees(positions, atoms) for atoms in (PHI, PSI)])
        trans = all(abs(degrees(positions, omega)) > 90.0 for omega in OMEGAS)
        known = any(
            np.abs((angles - row["angles"] + 180.0) % 360.0 - 180.0).max() < SAME
            for row in found
        )
        if trans and not known:
            value = energy(potential, numbers, positions)
            found.append({"angles": angles, "positions": positions, "model": value})
    found.sort(key=lambda row: row["model"])
    limit = found[0]["model"] + HIGHEST / EV_TO_KCAL_PER_MOL
    return numbers, [row for row in found if row["model"] < limit]


def deviations(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """Return energies less DFT's [n_minima], each about its mean, kcal/mol."""
    ours, theirs = (np.array([row[key] for row in rows]) for key in (name, "dft"))
    values = (ours - ours.mean()) - (theirs - theirs.mean())
    return np.asarray(values * EV_TO_KCAL_PER_MOL)


@click.command(help=__doc__)
@click.option("--method", default="model:organic", show_default=True)
@click.option("--teacher", default="aimnet2", show_default=True)
@click.option("--level", default="wb97m-d3bj/def2-tzvpp", show_default=True)
@click.option("--spacing", default=60.0, show_default=True, help="Of starts, degrees.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(method: str, teacher: str, level: str, spacing: float, out: Path) -> None:
    """Print and write the energies."""
    torch.set_num_threads(1)
    functional, basis = level.split("/")
    settings = LevelOfTheory(method=functional, basis=basis, scf_tolerance=1e-8)
    wanted = {"method": method, "teacher": teacher, "level": settings.to_json()}
    record: dict[str, Any] = {**wanted, "minima": []}
    if out.is_file():
        record = json.loads(out.read_text())
        if {key: record[key] for key in wanted} != wanted:
            raise click.ClickException(f"{out} has other settings")
    numbers, rows = minima(labeler(method), spacing)
    click.echo(f"{len(rows)} minima")
    for row in rows[len(record["minima"]) :]:
        row["teacher"] = energy(labeler(teacher), numbers, row["positions"])
        field = converge(build_molecule(numbers, row["positions"], settings), settings)
        row["dft"] = float(field.e_tot) * HARTREE_TO_EV
        written = {
            k: v.tolist() if k in ("angles", "positions") else v for k, v in row.items()
        }
        record["minima"].append(written)
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
        click.echo(f"phi {row['angles'][0]:4.0f}, psi {row['angles'][1]:4.0f}: done")
    done = record["minima"]
    errors = {name: deviations(done, name) for name in ("model", "teacher")}
    above = np.array([row["dft"] for row in done])
    above = (above - above.min()) * EV_TO_KCAL_PER_MOL
    for number, row in enumerate(done):
        click.echo(
            f"phi {row['angles'][0]:4.0f}, psi {row['angles'][1]:4.0f}: DFT "
            f"{above[number]:5.2f} kcal/mol; model {errors['model'][number]:+.2f}, "
            f"teacher {errors['teacher'][number]:+.2f}"
        )
    for name, values in errors.items():
        record[f"{name}_mae"] = float(np.abs(values).mean())
        click.echo(f"{name}: MAE {record[f'{name}_mae']:.2f} kcal/mol")
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

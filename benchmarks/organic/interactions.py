"""Interaction energies of dimers against CCSD(T)/CBS of the NCI Atlas.

Reads the extended XYZ files of a set, such as geometries/NCIA_HB375x10 of
Honza-R/NCIAtlas (Rezac 2020, https://doi.org/10.1021/acs.jctc.9b01265): both molecules
and the reference are named in the comment line.  Nothing of it is kept here.

    python benchmarks/organic/interactions.py FOLDER/NCIA_HB375x10 --method aimnet2
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.io import read
from potentials import energies

from openmm_se3.files import atomic_write
from openmm_se3.units import EV_TO_KCAL_PER_MOL

HCNO = frozenset(("H", "C", "N", "O"))


def read_dimers(folder: Path) -> list[Atoms]:
    """Return the dimers of neutral molecules; ``info`` has what the files say."""
    dimers = []
    for path in sorted(folder.glob("*.xyz")):
        lines = path.read_text().splitlines()
        info = dict(word.split("=", 1) for word in lines[1].split())
        if any(int(info[key]) for key in ("charge_a", "charge_b")):
            continue
        atoms = read(path, format="xyz")
        parts = [_atoms_of(info[f"selection_{which}"]) for which in "ab"]
        atoms.info = {
            "name": path.stem,
            "scaling": float(info["scaling"]),
            "group": info.get("group", ""),
            "reference": float(info["benchmark_Eint"]),
            "parts": parts,
        }
        dimers.append(atoms)
    return dimers


def _atoms_of(selection: str) -> list[int]:
    """Return the indices of a selection such as "1-8,12"."""
    atoms: list[int] = []
    for part in selection.split(","):
        first, _, last = part.partition("-")
        atoms += range(int(first) - 1, int(last or first))
    return atoms


def interaction_energies(dimers: list[Atoms], method: str) -> np.ndarray:
    """Return E(AB) - E(A) - E(B) [n_dimers], kcal/mol."""
    flat: list[Atoms] = []
    for dimer in dimers:
        for members in (range(len(dimer)), *dimer.info["parts"]):
            members = list(members)
            flat.append(Atoms(dimer.numbers[members], dimer.positions[members]))
    table = energies(flat, method).reshape(-1, 3)
    return (table[:, 0] - table[:, 1] - table[:, 2]) * EV_TO_KCAL_PER_MOL


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--method", "methods", multiple=True, required=True)
@click.option("--every", default=1, show_default=True, help="Only every n-th dimer.")
@click.option("--output", type=click.Path(path_type=Path))
def main(
    folder: Path, methods: tuple[str, ...], every: int, output: Path | None
) -> None:
    """Print and write the errors."""
    dimers = read_dimers(folder)[::every]
    reference = np.array([atoms.info["reference"] for atoms in dimers])
    scaling = np.array([atoms.info["scaling"] for atoms in dimers])
    hcno = np.array([set(atoms.symbols) <= HCNO for atoms in dimers])
    click.echo(f"{folder.name}: {len(dimers)} dimers, {hcno.sum()} of H, C, N, O")
    results: dict[str, dict[str, object]] = {}
    for method in methods:
        errors = np.abs(interaction_energies(dimers, method) - reference)
        done = ~np.isnan(errors)
        by_scaling = {
            f"{s:.2f}": float(errors[done & (scaling == s)].mean())
            for s in np.unique(scaling[done])
        }
        results[method] = {
            "dimers": int(done.sum()),
            "all": float(errors[done].mean()),
            "hcno": float(errors[done & hcno].mean()),
            "by_scaling": by_scaling,
        }
        click.echo(
            f"  {method}: MAE {results[method]['all']:.3f} kcal/mol, H C N O "
            f"{results[method]['hcno']:.3f}; by distance "
            + ", ".join(f"{s} {e:.2f}" for s, e in by_scaling.items())
        )
    if output is not None:
        with atomic_write(output) as temporary:
            record = {"data": folder.name, "dimers": len(dimers), "methods": results}
            temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

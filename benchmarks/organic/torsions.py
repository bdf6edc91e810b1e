"""Torsion scans: errors of energies about the mean of each scan.

The scans are those of leifjacobson/MLFF_test_data (MIT): TorsionNet500 with
DLPNO-CCSD(T)/CBS, run once a released model, and TorsionTest2000 with
wB97X-D3BJ/def2-TZVPD, to choose with.

    python benchmarks/organic/torsions.py FOLDER/TorsionTest2000 \
        --exclude excluded_molecules.sha256 --method aimnet2 --method model:organic
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from potentials import energies
from rdkit import Chem, RDLogger

from openmm_se3.data.labeling.molecules import CONNECTIVITY, key_hash, read_excluded
from openmm_se3.files import atomic_write
from openmm_se3.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_EV

REFERENCES = ("E[DLPNO-CCSD(T)](Ha)", "E[wB97X-D3BJ/def2-TZVPD](Ha)")
ORGANIC = frozenset(("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"))
HCNO = frozenset(("H", "C", "N", "O"))


def read_scans(folder: Path, excluded: frozenset[str]) -> list[list[Atoms]]:
    """Return the scans of neutral molecules of our elements, without excluded ones.

    The reference energy (eV) is ``info["reference"]``.
    """
    scans = []
    for path in sorted(folder.glob("*.json")):
        frames = json.loads(path.read_text())
        first = frames[0]
        if first["charge"] or set(first["elements"]) - ORGANIC:
            continue
        if excluded:
            mol = Chem.MolFromSmiles(first["smiles"])
            if mol is None or (
                key_hash(Chem.MolToInchiKey(mol)[CONNECTIVITY]) in excluded
            ):
                continue
        key = next(name for name in REFERENCES if name in first)
        scans.append(
            [
                Atoms(
                    frame["elements"],
                    frame["coordinates"],
                    info={"reference": frame[key] * HARTREE_TO_EV, "name": path.stem},
                )
                for frame in frames
                if frame.get(key) is not None
            ]
        )
    return scans


def errors_of(scans: list[list[Atoms]], found: np.ndarray) -> list[np.ndarray]:
    """Return errors about the mean of each scan, kcal/mol; found is in eV, flat."""
    errors, start = [], 0
    for scan in scans:
        reference = np.array([atoms.info["reference"] for atoms in scan])
        energy = found[start : start + len(scan)]
        start += len(scan)
        difference = (energy - energy.mean()) - (reference - reference.mean())
        errors.append(difference * EV_TO_KCAL_PER_MOL)
    return errors


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--method", "methods", multiple=True, required=True)
@click.option("--exclude", type=click.Path(path_type=Path, exists=True))
@click.option("--scans", type=int, help="Only so many, evenly over all.")
@click.option("--output", type=click.Path(path_type=Path))
def main(
    folder: Path,
    methods: tuple[str, ...],
    exclude: Path | None,
    scans: int | None,
    output: Path | None,
) -> None:
    """Print and write the errors."""
    RDLogger.DisableLog("rdApp.*")
    excluded = frozenset() if exclude is None else read_excluded(exclude)
    chosen = read_scans(folder, excluded)
    if scans is not None:
        chosen = chosen[:: max(1, len(chosen) // scans)][:scans]
    flat = [atoms for scan in chosen for atoms in scan]
    hcno = np.array([set(scan[0].symbols) <= HCNO for scan in chosen])
    click.echo(f"{folder.name}: {len(chosen)} scans, {hcno.sum()} of H, C, N, O")
    results: dict[str, dict[str, object]] = {}
    for method in methods:
        by_scan = [np.abs(e).mean() for e in errors_of(chosen, energies(flat, method))]
        mae = np.array(by_scan)
        done = ~np.isnan(mae)
        worst = np.argsort(-np.nan_to_num(mae))[:10]
        results[method] = {
            "scans": int(done.sum()),
            "all": float(np.mean(mae[done])),
            "hcno": float(np.mean(mae[done & hcno])),
            "median": float(np.median(mae[done])),
            "worst": {chosen[i][0].info["name"]: round(by_scan[i], 3) for i in worst},
        }
        click.echo(
            f"  {method}: MAE {results[method]['all']:.3f} kcal/mol, H C N O "
            f"{results[method]['hcno']:.3f}, median scan "
            f"{results[method]['median']:.3f} ({done.sum()} scans)"
        )
    if output is not None:
        with atomic_write(output) as temporary:
            record = {"data": folder.name, "scans": len(chosen), "methods": results}
            temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

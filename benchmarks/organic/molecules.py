"""Lists of molecules for the model "organic", from public sources, in mixed shards.

The sources are read where they are, none of them is kept here: QM9 from the package
qm9pack 1.0.3 (MIT), and lists of SMILES from clones of openforcefield/
qca-dataset-submission (commit d665695) and rdkit/rdkit (commit 24e5443).  A shard has
the same share of each source, so that any number of shards is a fair sample.  Two more
kinds of lists: "hard", of molecules with elements or groups that few have, and
"scans", of molecules short enough for many scans of their bonds.

    pip install qm9pack==1.0.3
    python benchmarks/organic/molecules.py --qca CLONE --rdkit CLONE -o lists
"""

from __future__ import annotations

import csv
import random
import re
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import click

from openmm_se3.files import atomic_write

SEED = 2026
# Molecules of each source in a shard.
SHARD = {
    "fragments": 250,
    "industry": 60,
    "pubchem": 120,
    "qm9": 170,
    "rings": 60,
    "peptides": 12,
    "monomers": 30,
    "sugars_lipids": 30,
    "sulfur_phosphorus": 60,
    "nci": 50,
}
# Files of qca-dataset-submission, below "submissions/", as regular expressions.
QCA = {
    "industry": r"2021-07-28-OpenFF-Industry-Benchmark-Season-1-MM-v1.1/dataset\.smi",
    "fragments": r"(2024-07-26-MLPepper-RECAP-Optimized-Fragments-v1.0"
    r"|2022-01-16-OpenFF-ESP-Fragment-Conformers-v1.0"
    r"|2024-10-11-MLPepper-RECAP-Optimized-Fragments-Add-Iodines-v1.0"
    r"|2024-04-02-xtalpi-20-percent-fragments-optimization-v1.0)/dataset\.smi",
    "pubchem": r".*/pubchem-set\d\.smi",
    "rings": r"2019-07-02 VEHICLe optimization dataset/VEHICLe\.smi",
    "peptides": r"(2021-11-08-QMDataset-Dipeptide-single-points/dipeptides"
    r"|2020-10-26-PEPCONF-Optimization/molecules)\.smi",
    "monomers": r"(2021-11-15-QMDataset-DES-monomers-single-points/des_monomers"
    r"|2025-03-12-SPICE-DES370k-Monomers-Partial-Relaxation-Dataset-v4.0/dataset"
    r"|2020-09-18-OpenFF-Sandbox-CHO-PhAlkEthOH/smi/(AlkEthOH_chain|PhEthOH))\.smi",
    "sugars_lipids": r"(2020-07-28-OpenFF-Disaccharide-Optimization-Set/Disaccharide"
    r"|2024-10-30-OpenFF-Lipid-Optimization-Benchmark-Supplement-v1.0/input"
    r"|2024-10-08-OpenFF-Lipid-Optimization-Training-Supplement-v1.0/output)\.smi",
    "sulfur_phosphorus": r".*NSP-Optimization-Set.*/set\d-[NSP]-smiles\.smi",
}
NCI = "Data/NCI/first_5K.smi"
# Molecules of a hard list by what they have: phosphorus, or without it two sulfur, five
# nitrogen or four halogen atoms.
HARD = {
    "phosphorus": (300, "P", 1),
    "sulfur": (150, "S(?!i)|s", 2),
    "nitrogen": (200, "N|n", 5),
    "halogen": (80, "F|Cl|Br|I", 4),
}
HARD_SEED, HARD_LISTS = 7, 4
SCANS_SEED, SCANS_LISTS, SCANS_SIZE, LONGEST_SMILES = 11, 20, 1500, 40
ATOM_MAP = re.compile(r":\d+\]")


def git(clone: Path, *arguments: str) -> str:
    """Return the output of git in a clone, which may be bare."""
    command = ["git", "-C", str(clone), *arguments]
    result = subprocess.run(command, capture_output=True, check=True)
    return result.stdout.decode("utf-8", "replace")


def smiles_of(lines: Iterable[str]) -> set[str]:
    """Return the SMILES of lines, without atom maps; salts are left out."""
    found = set()
    for line in lines:
        words = line.split()
        if words and not words[0].startswith("#") and "." not in words[0]:
            found.add(ATOM_MAP.sub("]", words[0].strip('",')))
    return found


def qm9_smiles() -> set[str]:
    """Return the SMILES of QM9."""
    spec = find_spec("qm9pack")
    if spec is None or spec.origin is None:
        raise click.ClickException("pip install qm9pack==1.0.3")
    csv.field_size_limit(10**9)
    found = set()
    for path in sorted(Path(spec.origin).parent.glob("data/qm9_part*.csv")):
        with path.open() as file:
            found |= {row["SMILES"] for row in csv.DictReader(file)}
    return found


def hard_list(every: list[str], index: int) -> list[str]:
    """Return lines of a list of unusual molecules, from all in random order."""
    lines = []
    for name, (size, pattern, least) in HARD.items():
        found = [
            smiles
            for smiles in every
            if ("P" in smiles) == (name == "phosphorus")
            and len(re.findall(pattern, smiles)) >= least
        ]
        chosen = found[index * size : (index + 1) * size]
        lines += [f"{smiles} hard-{name}" for smiles in chosen]
    return lines


def scans_list(every: list[str], index: int) -> list[str]:
    """Return a list of molecules of few characters, from all in random order.

    The list 0 is small.smi, beside this file.
    """
    short = [smiles for smiles in every if len(smiles) < LONGEST_SMILES]
    return short[index * SCANS_SIZE : (index + 1) * SCANS_SIZE]


def shuffled(smiles: Iterable[str], seed: int) -> list[str]:
    """Return SMILES in a random order that depends on the seed only."""
    order = sorted(smiles)
    random.Random(seed).shuffle(order)
    return order


def write_list(path: Path, lines: list[str]) -> None:
    """Write lines."""
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


@click.command(help=__doc__)
@click.option("--qca", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--rdkit", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(qca: Path, rdkit: Path, out: Path) -> None:
    """Write the shards."""
    sources = {"qm9": qm9_smiles()}
    files = git(qca, "ls-tree", "-r", "--name-only", "-z", "HEAD", "submissions/")
    for name, pattern in QCA.items():
        wanted = re.compile("submissions/" + pattern)
        lines: list[str] = []
        for path in files.split("\0"):
            if wanted.fullmatch(path):
                lines += git(qca, "show", f"HEAD:{path}").splitlines()
        sources[name] = smiles_of(lines)
    sources["nci"] = smiles_of(git(rdkit, "show", f"HEAD:{NCI}").splitlines())
    rng = random.Random(SEED)
    order = {}
    for name, smiles in sources.items():
        order[name] = sorted(smiles)
        rng.shuffle(order[name])
        click.echo(f"{name}: {len(smiles)} molecules")
    out.mkdir(parents=True, exist_ok=True)
    count = max(-(-len(order[name]) // size) for name, size in SHARD.items())
    for shard in range(count):
        lines = [
            f"{smiles} {name}"
            for name, size in SHARD.items()
            for smiles in order[name][shard * size : (shard + 1) * size]
        ]
        write_list(out / f"organic-{shard:04d}.smi", lines)
    every = {smiles for group in sources.values() for smiles in group}
    hard, short = shuffled(every, HARD_SEED), shuffled(every, SCANS_SEED)
    for index in range(HARD_LISTS):
        write_list(out / f"hard-{index:04d}.smi", hard_list(hard, index))
    for index in range(1, SCANS_LISTS):
        write_list(out / f"scans-{index:04d}.smi", scans_list(short, index))
    click.echo(f"{count} shards: {out}")


if __name__ == "__main__":
    main()

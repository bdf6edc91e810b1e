"""``openmm-se3 data``: look at files of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openmm_se3.cli.shared.source_options import make_sources, source_options
from openmm_se3.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from rich.console import Console

    from openmm_se3.data.checks.summary import Inspection

FORMULAS_SHOWN = 12
OUTLIERS_SHOWN = 5
COLORS = {"pass": "green", "FAIL": "bold red", "not checked": "yellow"}


@click.group()
def command() -> None:
    """Look at files of labels: ANI, COMP6, SPICE, extended XYZ, DeePMD, ours."""


@command.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@source_options
@click.option(
    "--self-energies",
    type=click.Choice(["auto", "least-squares", "isolated"]),
    default="auto",
    show_default=True,
    help="Of the file, fitted, or computed with DFT.",
)
def inspect(files: tuple[Path, ...], self_energies: str, **options: Any) -> None:
    """Print what FILES hold: counts, ranges, missing labels, duplicates, outliers.

    Units and signs are checked; exit code 1 if one of them cannot be right.
    """
    from typing import cast

    from rich.console import Console

    from openmm_se3.data import self_energies as atoms
    from openmm_se3.data.checks.summary import inspect as look
    from openmm_se3.data.load import read_sources

    dataset = read_sources(make_sources(files, **options))
    chosen = atoms.self_energies(dataset, cast(atoms.Choice, self_energies))
    found = look(dataset, chosen)
    _print(found, Console(markup=False))
    if not all(finding.passed for finding in found.unit_checks):
        raise click.exceptions.Exit(1)


def _print(found: Inspection, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False)
        made.add_column(columns[0])
        for column in columns[1:]:
            made.add_column(column, justify="right")
        return made

    sampled = "" if found.looked_at == found.frames else f" of {found.looked_at:,}"
    facts = table("What is there", "", "")
    rows = {
        "level of theory": found.level,
        "frames": f"{found.frames:,}",
        **{f"  {name}": f"{count:,}" for name, count in found.splits.items() if count},
        "trajectories": f"{found.trajectories:,}",
        "formulas": f"{len(found.formulas):,}",
        "atoms in a frame": " to ".join(dict.fromkeys(map(str, found.sizes))),
        "frames in a box": f"{found.periodic:,}",
        "frames with a charge or unpaired electrons": f"{found.charged:,}",
        "frames without an energy": f"{found.no_energy:,}",
        f"frames without forces{sampled}": f"{found.no_forces:,}",
        "energy per atom against atoms, eV": (
            f"{found.energy[0]:.3f} to {found.energy[1]:.3f}"
        ),
        f"shortest distance{sampled}, A": f"{found.nearest:.3f}",
        f"force component{sampled}, rms, eV/A": f"{found.force_rms:.3f}",
        f"force component{sampled}, largest, eV/A": f"{found.force_max:.3f}",
        f"frames doubled{sampled}": f"{found.doubled:,}",
        f"frames far out{sampled}": f"{len(found.outliers):,}",
    }
    for name, value in rows.items():
        facts.add_row(name, value)
    console.print(facts)
    for note in found.notes:
        console.print(note, style="yellow", highlight=False)

    elements = table("\nElements", "element", "atoms", "self-energy, eV")
    for symbol, count in found.elements.items():
        energy = found.self_energies.energies[ATOMIC_NUMBERS[symbol]]
        elements.add_row(symbol, f"{count:,}", f"{energy:.6f}")
    console.print(elements)
    console.print(f"Self-energies: {found.self_energies.origin}.", highlight=False)
    if found.self_energies.warning:
        console.print(found.self_energies.warning, style="yellow", highlight=False)

    if found.distribution:
        kinds = table("\nKinds and temperatures by split", "", *found.splits)
        for name, counts in found.distribution.items():
            kinds.add_row(name, *(f"{count:,}" for count in counts))
        console.print(kinds)

    formulas = table("\nFormulas", "formula", "frames")
    shown = list(found.formulas.items())
    for name, count in shown[:FORMULAS_SHOWN]:
        formulas.add_row(name, f"{count:,}")
    if len(shown) > FORMULAS_SHOWN:
        rest = sum(count for _, count in shown[FORMULAS_SHOWN:])
        formulas.add_row(f"{len(shown) - FORMULAS_SHOWN} more", f"{rest:,}")
    console.print(formulas)

    energies = table("\nEnergies of frames, eV", "", "mean", "standard deviation")
    for name, values in (
        ("total", found.total),
        ("against isolated atoms", found.interaction),
    ):
        energies.add_row(name, *(f"{value:.4f}" for value in values))
    console.print(energies)

    checks = table("\nUnits and signs", "check", "found", "expected", "")
    for finding in found.unit_checks:
        low, high = finding.expected
        value = "" if finding.value is None else f"{finding.value:.3g}"
        verdict = Text(finding.verdict, style=COLORS[finding.verdict])
        checks.add_row(finding.name, value, f"{low:g} to {high:g}", verdict)
    console.print(checks)
    for finding in found.unit_checks:
        if not finding.passed:
            advice = f"{finding.name}: {finding.advice}"
            console.print(advice, style="red", highlight=False)

    near = found.near_duplicates
    if near.compared:
        console.print(f"\n{near}.", highlight=False)
    else:
        console.print(
            "\nThe files have no formula both in training and in validation or test: "
            "there is nothing to compare for near-duplicates.",
            highlight=False,
        )
    for line in found.outliers[:OUTLIERS_SHOWN]:
        console.print(f"far out: {line}", highlight=False)
    if len(found.outliers) > OUTLIERS_SHOWN:
        rest = len(found.outliers) - OUTLIERS_SHOWN
        console.print(f"far out: {rest:,} more", highlight=False)

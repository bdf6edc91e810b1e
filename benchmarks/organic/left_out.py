"""Errors on molecules that were left out of training, by kind, temperature, element.

    python benchmarks/organic/left_out.py shards/*.h5 --method model:organic

The files are those of `openmm-se3 sample` and `label`, in which a hash of the molecule
decides the split.  Forces: mean absolute error over all components, kcal/mol/A, against
the labels.  Energies: the same of differences from the lowest frame of a molecule.
Frames on which the labels' own ensemble disagrees are left out.  The figure shows how
both errors are distributed; molecules are listed by the first block of their InChIKey.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from openmm_se3.data.frames import Frame
from openmm_se3.data.labeling.labelers import labeler
from openmm_se3.data.load import Source, read_sources
from openmm_se3.domain import formula
from openmm_se3.elements import symbols_of
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, STYLE, save
from openmm_se3.units import EV_TO_KCAL_PER_MOL

THERMAL = (300.0, 600.0)  # K, of dynamics that users run
WORST = 20
BINS = 40
BEYOND = 99.0  # percentile at which the histograms end


def groups_of(frame: Frame) -> Iterator[str]:
    """Yield the groups of frames that a frame is in."""
    yield "all"
    yield f"kind {frame.kind}"
    temperature = frame.temperature
    if frame.kind == "md" and temperature is not None:
        if THERMAL[0] <= temperature <= THERMAL[1]:
            yield f"md, {THERMAL[0]:.0f} to {THERMAL[1]:.0f} K"
    if set(symbols_of(frame.numbers)) <= {"H", "C", "N", "O"}:
        yield "of H, C, N, O"


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--method", default="model:organic", show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--max-forces-std", type=float, default=0.15, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path))
def main(
    files: tuple[str, ...],
    method: str,
    split: str,
    max_forces_std: float,
    out: Path | None,
    figure: Path | None,
) -> None:
    """Print and write errors by group."""
    potential = labeler(method)
    sources = [Source(path, max_forces_std=max_forces_std) for path in files]
    frames = read_sources(sources, for_model=True).select(split)
    errors: dict[str, list[np.ndarray]] = defaultdict(list)
    by_molecule: dict[str, list[float]] = defaultdict(list)
    energies: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for frame in frames:
        labels = potential.label(frame.numbers[None], frame.positions[None], 0)
        error = EV_TO_KCAL_PER_MOL * np.abs(labels.forces[0] - frame.forces)
        for group in groups_of(frame):
            errors[group].append(error.ravel())
        for symbol in set(symbols := symbols_of(frame.numbers)):
            mask = np.array(symbols) == symbol
            errors[f"element {symbol}"].append(error[mask].ravel())
        composition = formula(symbols)
        # Complexes count as their molecule, whose key stands behind their formula.
        molecule = frame.trajectory.rpartition("/")[2]
        by_molecule[molecule].append(float(error.mean()))
        energies[frame.trajectory, composition].append(
            (float(labels.energy[0]), float(frame.energy))
        )
    relative = []
    for pairs in energies.values():
        found, expected = EV_TO_KCAL_PER_MOL * np.array(pairs).T
        low = expected.argmin()
        rest = np.arange(len(pairs)) != low
        relative += list(
            np.abs((found - found[low]) - (expected - expected[low]))[rest]
        )
    rows = {
        group: {"frames": len(found), "force_mae": float(np.concatenate(found).mean())}
        for group, found in sorted(errors.items())
    }
    for group, row in rows.items():
        click.echo(f"{group:22}{row['frames']:6} frames {row['force_mae']:7.3f}")
    click.echo(
        f"energies above the lowest frame of a molecule: {np.mean(relative):.3f}, "
        f"median {np.median(relative):.3f} kcal/mol ({len(relative)} frames)"
    )
    means = {name: float(np.mean(values)) for name, values in by_molecule.items()}
    worst = sorted(means, key=lambda name: -means[name])[:WORST]
    click.echo(f"worst of {len(means)} molecules:")
    for name in worst:
        click.echo(f"  {name} {means[name]:.2f}")
    if out is not None:
        record: dict[str, Any] = {
            "method": method,
            "split": split,
            "groups": rows,
            "energy_mae": float(np.mean(relative)),
            "energy_median": float(np.median(relative)),
            "worst": {name: means[name] for name in worst},
        }
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    if figure is not None:
        draw(
            [value for found in by_molecule.values() for value in found],
            relative,
            figure,
        )


def draw(forces: list[float], energies: list[float], path: Path) -> None:
    """Draw histograms of the errors of frames.

    Args:
        forces: Force MAE of each frame, kcal/mol/A.
        energies: Error of each energy above the lowest of its molecule, kcal/mol.
        path: PNG to write.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        page = Figure(figsize=(6.8, 2.8), layout="constrained")
        for axes, values, label in zip(
            page.subplots(1, 2),
            (forces, energies),
            ("force MAE of a frame, kcal/mol/A", "energy error of a frame, kcal/mol"),
            strict=True,
        ):
            end = float(np.percentile(values, BEYOND))
            axes.hist(values, bins=np.linspace(0.0, end, BINS + 1), color=BLUE)
            axes.axvline(np.mean(values), color="0.3", lw=1.0, ls="--")
            beyond = int((np.array(values) > end).sum())
            axes.set(xlabel=label, ylabel="frames", xlim=(0.0, end))
            axes.set_title(
                f"mean {np.mean(values):.2f}; {beyond} beyond, up to "
                f"{np.max(values):.1f}"
            )
        save(path, page)


if __name__ == "__main__":
    main()

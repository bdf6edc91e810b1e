"""Does the deviation of a committee tell its error?  On molecules that were left out.

    python benchmarks/organic/calibration.py shards/*.h5 --method model:a \
        --method model:b --method model:c --figure calibration.png --out result.json

The files are those of left_out.py.  The deviation of an atom is the root mean square
over the members of the distance of its force from their mean, its error the distance of
that mean from the label; of a frame the largest of its atoms.  Printed: errors of the
members and of their mean, rank correlation of deviation and error, and the error by
tenths of the frames in order of deviation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import spearmanr

from openmm_se3.data.labeling.labelers import labeler
from openmm_se3.data.load import Source, read_sources
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, logarithmic, save
from openmm_se3.units import EV_TO_KCAL_PER_MOL

PARTS = 10


@click.command(help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--method", "methods", multiple=True, required=True, help="A member.")
@click.option("--split", default="test", show_default=True)
@click.option("--max-forces-std", type=float, default=0.15, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
def main(
    files: tuple[str, ...],
    methods: tuple[str, ...],
    split: str,
    max_forces_std: float,
    figure: Path | None,
    out: Path | None,
) -> None:
    """Print, draw and write how deviations and errors go together."""
    if len(methods) < 2:
        raise click.UsageError("give at least two members")
    sources = [Source(path, max_forces_std=max_forces_std) for path in files]
    frames = read_sources(sources, for_model=True).select(split)
    members = [labeler(method) for method in methods]
    deviations, errors, maes = [], [], []
    for frame in frames:
        numbers, positions = frame.numbers[None], frame.positions[None]
        forces = EV_TO_KCAL_PER_MOL * np.stack(
            [member.label(numbers, positions, 0).forces[0] for member in members]
        )
        label = EV_TO_KCAL_PER_MOL * frame.forces
        mean = forces.mean(axis=0)
        squares = np.square(forces - mean).sum(axis=2)
        deviations.append(np.sqrt(squares.mean(axis=0)).max())
        errors.append(np.linalg.norm(mean - label, axis=1).max())
        maes.append([np.abs(f - label).sum() for f in (*forces, mean)])
    components = 3 * sum(len(frame.numbers) for frame in frames)
    *alone, together = np.sum(maes, axis=0) / components
    deviation, error = np.array(deviations), np.array(errors)
    rank = float(spearmanr(deviation, error).statistic)
    parts = np.array_split(np.argsort(deviation), PARTS)
    table = [
        {
            "deviation": float(np.median(deviation[part])),
            "error": float(np.median(error[part])),
            "error_90": float(np.percentile(error[part], 90)),
        }
        for part in parts
    ]
    click.echo(
        f"force MAE of the members {', '.join(f'{x:.3f}' for x in alone)}, of their "
        f"mean {together:.3f} kcal/mol/A ({len(deviation)} frames)"
    )
    click.echo(f"rank correlation of a frame's largest deviation and error {rank:.2f}")
    click.echo("deviation   error   90th percentile of the error, kcal/mol/A")
    for row in table:
        click.echo("".join(f"{value:9.2f}" for value in row.values()))
    if figure is not None:
        draw(deviation, error, table, figure)
    if out is not None:
        record: dict[str, Any] = {
            "methods": methods,
            "frames": len(deviation),
            "force_mae": alone,
            "force_mae_of_the_mean": together,
            "rank_correlation": rank,
            "tenths": table,
        }
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")


def draw(
    deviation: np.ndarray, error: np.ndarray, table: list[dict[str, float]], path: Path
) -> None:
    """Draw the errors against the deviations, and the medians of the tenths."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure((4.6, 3.8), layout="constrained")
        panel = figure.subplots()
        panel.plot(deviation, error, ".", color=GRAY, ms=2.5, alpha=0.5, label="frames")
        x = [row["deviation"] for row in table]
        for key, style, text in (
            ("error", "o-", "median of a tenth"),
            ("error_90", "o--", "its 90th percentile"),
        ):
            y = [row[key] for row in table]
            panel.plot(x, y, style, color=BLUE, ms=4, lw=1.2, label=text)
        panel.set_xscale("log")
        logarithmic(panel, error)
        panel.set_xlabel("largest deviation of a force, kcal/mol/Å")
        panel.set_ylabel("largest error of a force, kcal/mol/Å")
        panel.legend()
        save(path, figure)


if __name__ == "__main__":
    main()

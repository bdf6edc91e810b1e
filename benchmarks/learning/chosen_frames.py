"""Labels saved by choosing the frames to learn from instead of drawing them.

    python benchmarks/learning/chosen_frames.py "CC(=O)NCC(=O)NC" --out runs/chosen

Campaigns of `openmm_se3.learn` that differ in `choice` only: each round learns from
frames of high deviation, or from random frames of the same kind of dynamics.  The
committee of every round is tested on frames that have nothing to do with a campaign:
dynamics of a shipped model at 300 and 600 K (fine_tuning.py).  A campaign that reaches
its target ends before it has spent its labels.  What is finished is kept: the command
goes on where it was stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from fine_tuning import sampled
from rich.console import Console

from openmm_se3.active_learning import learn
from openmm_se3.active_learning.campaign import SETTINGS, Campaign
from openmm_se3.active_learning.committee import Committee
from openmm_se3.active_learning.fresh_frames import Fresh
from openmm_se3.active_learning.settings import CHOICES
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.executors import SerialExecutor
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, logarithmic, save
from openmm_se3.training.checkpoint import BEST

TEMPERATURES = (300.0, 600.0)
TEST_FRAMES = 200  # of each temperature
WORST = 99.0  # percentile of the errors of atoms


def test_frames(smiles: str, model: str, reference: str, path: Path) -> Frames:
    """Return labeled frames that no campaign has seen."""
    if not path.exists():
        structures = []
        for index, temperature in enumerate(TEMPERATURES):
            seed = 300 + 10 * index
            structures += sampled(smiles, model, temperature, TEST_FRAMES, seed, "test")
        label_with(structures, path, reference, SerialExecutor())
    return read_hdf5(path).frames


def errors(committee: Committee, frames: Frames) -> dict[str, float]:
    """Return errors of the committee's mean, kcal/mol and A."""
    found = Fresh.of(committee, frames)
    off = found.predicted_forces - found.forces
    energies = found.predicted_energy - found.energy
    return {
        "force_mae": float(np.abs(off).mean()),
        "force_worst": float(np.percentile(np.linalg.norm(off, axis=1), WORST)),
        "energy_mae": float(np.abs(energies - energies.mean()).mean()),
    }


def rounds(folder: Path, members: int, frames: Frames) -> list[dict[str, float]]:
    """Return the errors of each round's committee."""
    campaign = Campaign(folder)
    rows = []
    for event in campaign.all("tested"):
        number = int(event["round"])
        paths = [campaign.member_folder(number, m) / BEST for m in range(members)]
        found = errors(Committee.load(paths), frames)
        rows.append({"labels": int(event["trained_on"]), **found})
    return rows


@click.command(help=__doc__)
@click.argument("smiles")
@click.option("--reference", default="gfn2", show_default=True)
@click.option("--model", default="organic", show_default=True, help="Of test dynamics.")
@click.option("--labels", default=240, show_default=True)
@click.option("--members", default=3, show_default=True)
@click.option("--seed", "seeds", multiple=True, default=(0, 1), type=int)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--figure", type=click.Path(path_type=Path))
def main(
    smiles: str,
    reference: str,
    model: str,
    labels: int,
    members: int,
    seeds: tuple[int, ...],
    out: Path,
    figure: Path | None,
) -> None:
    """Print and write the errors of every round."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    frames = test_frames(smiles, model, reference, out / "test.h5")
    results: dict[str, list[list[dict[str, float]]]] = {name: [] for name in CHOICES}
    for seed in seeds:
        for choice in CHOICES:
            folder = out / f"{choice}-{seed}"
            begun = (folder / SETTINGS).exists()
            given: dict[str, Any] = (
                {"resume": True}
                if begun
                else {
                    "molecule": smiles,
                    "reference": reference,
                    "labels": labels,
                    "members": members,
                    "choice": choice,
                    "seed": seed,
                    "checks": False,
                    "workers": 1,
                }
            )
            if not (begun and Campaign(folder).all("verdict")):
                learn(out=folder, console=Console(quiet=True), **given)
            results[choice].append(rounds(folder, members, frames))
            for row in results[choice][-1]:
                console.print(
                    f"{choice}, seed {seed}, {row['labels']} labels: force MAE "
                    f"{row['force_mae']:.3f}, {WORST:.0f} % of atoms below "
                    f"{row['force_worst']:.2f} kcal/mol/A, energy MAE "
                    f"{row['energy_mae']:.3f} kcal/mol"
                )
    with atomic_write(out / "chosen_frames.json") as temporary:
        content = {"smiles": smiles, "reference": reference, "rounds": results}
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    if figure is not None:
        draw(results, figure)


def draw(results: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Draw errors against the number of labels."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    titles = {
        "force_mae": "force MAE, kcal/mol/A",
        "force_worst": f"{WORST:.0f} % of forces are nearer, kcal/mol/A",
    }
    with rc_context(STYLE):
        page = Figure(figsize=(6.8, 3.0), layout="constrained")
        for axes, (key, title) in zip(page.subplots(1, 2), titles.items(), strict=True):
            shown = []
            for (choice, campaigns), color in zip(
                results.items(), (BLUE, GRAY), strict=True
            ):
                for index, rows in enumerate(campaigns):
                    values = [row[key] for row in rows]
                    shown += values
                    numbers = [row["labels"] for row in rows]
                    name = choice if index == 0 else None
                    axes.plot(numbers, values, "o-", color=color, label=name)
            axes.set_xlabel("labels")
            axes.set_title(title)
            logarithmic(axes, shown)
        axes.legend(title="frames chosen by")
        save(path, page)


if __name__ == "__main__":
    main()

"""Labels saved by starting from a shipped model instead of from random weights.

    python benchmarks/learning/labels_saved.py "CC(=O)Nc1ccc(O)cc1" --out runs/labels

Frames of a molecule by molecular dynamics at 200 to 1,000 K, labeled at another level
of theory than the model's; networks trained on the first 10, 20, 40 ... of them, once
from random weights and once from the model, with the settings of `openmm-se3 learn`.
The test frames are of other trajectories, begun with another seed.  What is finished is
kept: the command goes on where it was stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from ase import Atoms
from fine_tuning import base_settings
from rich.console import Console

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import Frame, Frames, Structure
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.executors import LocalExecutor, SerialExecutor
from openmm_se3.data.labeling.molecule_sampler import Plan, sample_molecules
from openmm_se3.data.labeling.molecules import molecule_from_smiles
from openmm_se3.data.level_of_theory import PublishedLevel
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, logarithmic, save
from openmm_se3.training.config_file import run_config
from openmm_se3.training.run import train

SIZES = (10, 20, 40, 80, 160, 320)
TEST_FRAMES, VALIDATION_FRAMES = 100, 20


def structures(smiles: str, number: int, seed: int) -> list[Atoms]:
    """Return decorrelated frames of one molecule's dynamics."""
    plan = Plan(
        conformers=4, modes=0, dynamics=number, torsions=0, stretches=0, complexes=0
    )
    molecules = [molecule_from_smiles(smiles, "molecule")]
    ((_, sampled),) = sample_molecules(molecules, seed, LocalExecutor(1), plan)
    return [atoms for atoms in sampled.structures if atoms.info["kind"] == "md"]


def labels(smiles: str, reference: str, most: int, path: Path) -> list[Frame]:
    """Return frames of all splits, those to train on in a random order.

    Each frame is a trajectory of its own.  A finished file is read.
    """
    if not path.exists():
        learned = structures(smiles, most + VALIDATION_FRAMES, seed=1)
        order = np.random.default_rng(0).permutation(len(learned))
        learned = [learned[i] for i in order]
        splits = {
            "train": learned[VALIDATION_FRAMES:],
            "validation": learned[:VALIDATION_FRAMES],
            "test": structures(smiles, TEST_FRAMES, seed=2),
        }
        listed = [
            Structure(atoms.numbers, atoms.positions, f"{split}-{index}", split=split)
            for split, frames in splits.items()
            for index, atoms in enumerate(frames)
        ]
        label_with(listed, path, reference, SerialExecutor())
    return list(read_hdf5(path).frames)


def settings(start: str | None, number: int, frames: list[Frame]) -> dict[str, Any]:
    """Return the configuration of a training run on so many frames."""
    model, training = base_settings(start, number, frames[:1])
    training["validate_every"] = training["steps"] // 10
    return {"model": model, "training": training, "data": {"files": ["labels.h5"]}}


@click.command(help=__doc__)
@click.argument("smiles")
@click.option("--reference", default="gfn2", show_default=True)
@click.option("--start", default="organic", show_default=True)
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--figure", type=click.Path(path_type=Path))
def main(
    smiles: str,
    reference: str,
    start: str,
    sizes: str,
    out: Path,
    figure: Path | None,
) -> None:
    """Print and write test errors by number of labels and start."""
    console = Console()
    numbers = [int(size) for size in sizes.split(",")]
    out.mkdir(parents=True, exist_ok=True)
    frames: list[Frame] = []
    file = out / f"labels-{max(numbers)}.h5"
    results: dict[str, dict[int, dict[str, float]]] = {}
    for name, given in (("nothing", None), (start, start)):
        results[name] = {}
        for number in numbers:
            folder = out / f"{name}-{number}"
            done = folder / "errors.json"
            if not done.exists():
                frames = frames or labels(smiles, reference, max(numbers), file)
                folder.mkdir(exist_ok=True)
                train_frames = [f for f in frames if f.split == "train"][:number]
                others = [f for f in frames if f.split != "train"]
                level = PublishedLevel(reference)
                chosen = Frames.of([*train_frames, *others])
                write_hdf5(folder / "labels.h5", Dataset(chosen, level, {}, {}))
                config = run_config(settings(given, number, frames), folder)
                train(config, folder, console=Console(quiet=True))
            errors = json.loads(done.read_text())["test"]["all"]
            results[name][number] = {
                "force_mae": errors["force_mae"],
                "energy_mae": errors["energy_mae"],
            }
            console.print(
                f"{number:4d} labels from {name}: force MAE "
                f"{errors['force_mae']:.3f} kcal/mol/A, energy MAE "
                f"{errors['energy_mae']:.3f} kcal/mol"
            )
    with atomic_write(out / "labels_saved.json") as temporary:
        content = {"smiles": smiles, "reference": reference, "errors": results}
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    if figure is not None:
        draw(results, figure)


def draw(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Draw test errors against the number of labels."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    with rc_context(STYLE):
        page = Figure(figsize=(6.4, 3.0), layout="constrained")
        for axes, key, unit in zip(
            page.subplots(1, 2),
            ("force_mae", "energy_mae"),
            ("force MAE, kcal/mol/A", "energy MAE, kcal/mol"),
            strict=True,
        ):
            for (name, errors), color in zip(
                results.items(), (GRAY, BLUE), strict=True
            ):
                values = [error[key] for error in errors.values()]
                axes.semilogx(list(errors), values, "o-", color=color, label=name)
            axes.set_xlabel("labels")
            axes.set_title(unit)
            axes.set_xticks(list(errors))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            shown = [row[key] for errors in results.values() for row in errors.values()]
            logarithmic(axes, shown)
        axes.legend(title="start from")
        save(path, page)


if __name__ == "__main__":
    main()

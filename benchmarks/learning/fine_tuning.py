"""Fine-tuning a shipped model on given frames of one molecule at 300 K.

    python benchmarks/learning/fine_tuning.py "Nc1ncccc1OCc1ccccc1" --out runs/fine

Frames of a flexible molecule by Langevin dynamics of the shipped model, labeled at
another level of theory: 500 at 300 K to train on, and 100 of other trajectories at 300,
600 and 1,200 K to test on.  Each `--setting` is one run of `openmm-se3 train` with the
changes it names, such as `steps=6250` or `initial_decay=10`; `initial=none` begins with
random weights.  `--others` names labeled molecules (HDF5 of `openmm-se3 label`, level
of the shipped model) on which forgetting is measured.  What is finished is kept: the
command goes on where it was stopped.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import openmm
import yaml
from openmm import unit
from rich.console import Console
from rich.table import Table

from openmm_se3 import SE3Potential
from openmm_se3.active_learning.members import (
    FINE_TUNING_RATE,
    FIRST_STEPS,
    NETWORK,
    TRAINING,
    fine_tuning_steps,
)
from openmm_se3.config import to_dict
from openmm_se3.data.dataset import Dataset, formula
from openmm_se3.data.formats.hdf5 import read_hdf5, write_hdf5
from openmm_se3.data.frames import SPLITS, Frame, Frames, Structure
from openmm_se3.data.labeling.batches import label_with
from openmm_se3.data.labeling.executors import SerialExecutor
from openmm_se3.elements import symbols_of
from openmm_se3.export import model_of_checkpoint
from openmm_se3.files import atomic_write
from openmm_se3.geometry import in_angstrom
from openmm_se3.model_file import load_model
from openmm_se3.simulation.structure import make_structure
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint
from openmm_se3.training.config_file import run_config
from openmm_se3.training.evaluation import evaluate_model
from openmm_se3.training.run import train
from openmm_se3.units import FS_TO_PS

TRAIN_TEMPERATURE = 300.0
TEST_TEMPERATURES = (300.0, 600.0, 1200.0)
TEST_FRAMES = 100  # of each temperature
OTHERS = 300  # frames of other molecules
VALIDATION_SHARE = 0.1
TRAJECTORIES = 5  # of each set; conformers are drawn anew for each
DT, FRICTION = 0.5, 5.0  # fs, 1/ps
SPACING = 400  # steps between frames
MIXING = (800.0, 4_000)  # K and steps before a trajectory, so that torsions turn


def dynamics(
    smiles: str, model: str, temperature: float, seed: int
) -> Iterator[np.ndarray]:
    """Yield frames [n_atoms, 3], A, of one trajectory."""
    topology, start = make_structure(smiles)
    system = SE3Potential(model).createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(
        MIXING[0] * unit.kelvin, FRICTION / unit.picosecond, DT * FS_TO_PS
    )
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(start * unit.angstrom)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    context.setVelocitiesToTemperature(MIXING[0] * unit.kelvin, seed)
    integrator.step(MIXING[1])
    integrator.setTemperature(temperature * unit.kelvin)
    integrator.step(MIXING[1] // 2)
    while True:
        integrator.step(SPACING)
        state = context.getState(getPositions=True)
        yield in_angstrom(state.getPositions(asNumpy=True))


def sampled(
    smiles: str, model: str, temperature: float, count: int, seed: int, split: str
) -> list[Structure]:
    """Return frames of several trajectories at one temperature."""
    topology, _ = make_structure(smiles)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    each = -(-count // TRAJECTORIES)
    found = []
    for index in range(TRAJECTORIES):
        frames = dynamics(smiles, model, temperature, seed + index)
        # The last frames of each trajectory are held back for validation.
        held = max(1, round(each * VALIDATION_SHARE)) if split == "train" else 0
        for step in range(min(each, count - index * each)):
            part = "validation" if step >= each - held else split
            found.append(
                Structure(
                    numbers,
                    next(frames),
                    f"{split}-{temperature:.0f}-{index}-{part}",
                    kind="md",
                    temperature=temperature,
                    split=part,
                )
            )
    return found


def labels(smiles: str, model: str, reference: str, count: int, path: Path) -> Dataset:
    """Return the labeled frames of all splits; a finished file is read."""
    if not path.exists():
        structures = sampled(smiles, model, TRAIN_TEMPERATURE, count, 100, "train")
        for index, temperature in enumerate(TEST_TEMPERATURES):
            seed = 200 + 10 * index
            structures += sampled(smiles, model, temperature, TEST_FRAMES, seed, "test")
        label_with(structures, path, reference, SerialExecutor())
    return read_hdf5(path)


def test_frames(frames: Frames) -> Frames:
    """Return the frames of the test split."""
    return frames[frames.column("split") == SPLITS.index("test")]


def base_settings(
    start: str | None, number: int, frames: Iterable[Frame]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `model` and `training` of a run as `learn` would make it.

    Args:
        start: The model that it begins with; None for random weights.
        number: Frames to train on.
        frames: Frames of all elements.
    """
    if start is None:
        numbers = sorted({int(z) for frame in frames for z in frame.numbers})
        model = {"elements": symbols_of(numbers), **NETWORK}
        return model, dict(TRAINING, steps=FIRST_STEPS)
    training = dict(TRAINING, steps=fine_tuning_steps(number), initial=start)
    training["learning_rate"] *= FINE_TUNING_RATE
    return to_dict(load_model(start).config), training


def settings(changes: dict[str, Any], start: str, frames: Frames) -> dict[str, Any]:
    """Return the configuration of one training run."""
    number = sum(frame.split == "train" for frame in frames)
    given = None if changes.get("initial") == "none" else start
    model, training = base_settings(given, number, frames)
    training |= {key: value for key, value in changes.items() if key != "initial"}
    tenth = max(1, training["steps"] // 10)
    training |= {"validate_every": tenth, "warmup_steps": min(200, tenth)}
    return {"model": model, "training": training, "data": {"files": ["labels.h5"]}}


def group(smiles: str, temperature: float) -> str:
    """Return the name of the test frames at a temperature in a table of errors."""
    topology, _ = make_structure(smiles)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    return f"{formula(numbers)} md {temperature:.0f} K"


@click.command(help=__doc__)
@click.argument("smiles")
@click.option("--reference", default="gfn2", show_default=True)
@click.option("--start", default="organic", show_default=True)
@click.option("--frames", "count", default=500, show_default=True)
@click.option("--setting", "chosen", multiple=True, default=("",))
@click.option("--others", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    smiles: str,
    reference: str,
    start: str,
    count: int,
    chosen: tuple[str, ...],
    others: Path | None,
    out: Path,
) -> None:
    """Print and write test errors of every setting."""
    console = Console(width=110)
    out.mkdir(parents=True, exist_ok=True)
    dataset = labels(smiles, start, reference, count, out / f"labels-{count}.h5")
    model = load_model(start)
    groups = [group(smiles, temperature) for temperature in TEST_TEMPERATURES]
    test = test_frames(dataset.frames)
    other = None
    if others is not None:
        other = test_frames(read_hdf5(others).frames)[:OTHERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # total energies of another level
        rows = {start: row_of(evaluate_model(model, test).errors, groups)}
    if other is not None:
        rows[start]["others"] = evaluate_model(model, other).errors["all"]["force_mae"]
    for setting in chosen:
        changes = dict(part.split("=", 1) for part in setting.split(",") if part)
        folder = out / (re.sub("[^a-z0-9.]+", "-", setting.lower()) or "default")
        if not (folder / "errors.json").exists():
            folder.mkdir(exist_ok=True)
            write_hdf5(folder / "labels.h5", dataset)
            values = settings(
                {key: yaml.safe_load(value) for key, value in changes.items()},
                start,
                dataset.frames,
            )
            resume = (folder / LAST).exists()
            config = run_config(values, folder)
            train(config, folder, resume=resume, console=Console(quiet=True))
        errors = json.loads((folder / "errors.json").read_text())["test"]
        rows[setting or "default"] = row_of(errors, groups)
        if other is not None and changes.get("initial") != "none":
            best = load_checkpoint(folder / BEST)
            tuned = model_of_checkpoint(best, folder.name, "MIT")
            found = evaluate_model(tuned, other).errors["all"]["force_mae"]
            rows[setting or "default"]["others"] = found
    show(rows, groups, console)
    with atomic_write(out / "fine_tuning.json") as temporary:
        content = {"smiles": smiles, "reference": reference, "frames": count}
        temporary.write_text(json.dumps(content | {"errors": rows}, indent=1) + "\n")


def row_of(errors: dict[str, dict[str, float]], groups: list[str]) -> dict[str, Any]:
    """Return the errors of the test frames by temperature."""
    names = ("force_mae", "force_rmse", "energy_mae_centered")
    return {group: {name: errors[group][name] for name in names} for group in groups}


def show(rows: dict[str, dict[str, Any]], groups: list[str], console: Console) -> None:
    """Print force RMSE and centered energy MAE by temperature."""
    table = Table("setting", title="force RMSE, kcal/mol/A (energy MAE, kcal/mol)")
    for name in groups:
        table.add_column(name.split(" ", 1)[1], justify="right")
    table.add_column("others, force MAE", justify="right")
    for setting, row in rows.items():
        cells = [
            f"{row[g]['force_rmse']:.3f} ({row[g]['energy_mae_centered']:.2f})"
            for g in groups
        ]
        other = f"{row['others']:.2f}" if "others" in row else ""
        table.add_row(setting, *cells, other)
    console.print(table)


if __name__ == "__main__":
    main()

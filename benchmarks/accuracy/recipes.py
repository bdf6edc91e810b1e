"""The thesis's networks and ours on the same data, and what each change of ours brings.

    python benchmarks/accuracy/recipes.py --data water --steps 4000

Table 3.2 of the thesis in our terms: its three networks and our default, then the
default with one change taken back at a time, each trained for the same number of steps
on the same batches with the same optimizer.  Where ``--rate`` names several learning
rates, the run of each network with the lowest validation error counts.  Errors are
those of test trajectories.  Runs are kept in ``--out``: stopped at any time, the same
command goes on.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from openmm_se3.files import atomic_write
from openmm_se3.training.config_file import run_config
from openmm_se3.training.presets import PRESETS
from openmm_se3.training.sweep import Result, Variant, run_variants

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/data"

# Levels of theory: wB97X/6-31G(d) made here; wB97M-D3(BJ)/def2-TZVPPD from SPICE.
DATA: dict[str, dict[str, Any]] = {
    "water": {
        "model": {"elements": ["H", "O"]},
        "training": {"energy_cap": 0.5},
        "data": {
            "files": [str(ROOT / f"models/water/data/water{n}.h5") for n in range(1, 7)]
        },
    },
    "dipeptides": {
        "model": {"elements": ["H", "C", "N", "O"], "cutoff": 5.0},
        "training": {"batch_size": 4},
        "data": {
            "files": [
                str(SHARED / "spice-dipeptides/train.xyz"),
                {"path": str(SHARED / "spice-dipeptides/val.xyz"), "split": "test"},
            ],
            "split": {"by": "trajectory", "fractions": [0.9, 0.1, 0.0], "seed": 1},
        },
    },
}

RATE: float = PRESETS["default"]["training"]["learning_rate"]

# One change taken back at a time.
CHANGES: dict[str, dict[str, Any]] = {
    "direct forces": {"force_mode": "direct"},
    "full kernels": {"kernel": "full"},
    "sharp cutoff": {"envelope": "none"},
    "norm nonlinearity": {"nonlinearity": "norm"},
    "distance as radial basis": {"radial_basis": "distance"},
    "one-hot species": {"embedding": "one-hot"},
    "attentive self-interaction": {"self_interaction": "attentive"},
    "both parities": {"symmetry": "SO(3)"},
    "all harmonics": {"jmax": None},
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network by name, as changes to the default."""

    name: str
    model: dict[str, Any]


def recipes() -> list[Recipe]:
    """Return the networks of the table, the default first."""
    thesis = [
        Recipe(name, PRESETS[name]["model"])
        for name in ("thesis-basic", "thesis-wider", "thesis-higher-order")
    ]
    changed = [Recipe(name, change) for name, change in CHANGES.items()]
    return [Recipe("default", {}), *thesis, *changed]


def variant(
    recipe: Recipe, data: str, steps: int, seed: int, rate: float = RATE
) -> Variant:
    """Return the run of one recipe."""
    values = copy.deepcopy(DATA[data])
    values["preset"] = "default"
    values["model"] = {**values["model"], **recipe.model}
    values["training"] = {
        **values["training"],
        "steps": steps,
        "learning_rate": rate,
        "validate_every": max(steps // 10, 1),
        "warmup_steps": min(500, steps // 10),
        "seed": seed,
        "threads": 1,
    }
    return Variant(
        f"{recipe.name}, {rate:g}",
        {"recipe": recipe.name, "rate": rate},
        run_config(values, Path()),
    )


def best_runs(results: list[Result]) -> list[Result]:
    """Return the run of each network whose validation force MAE is lowest, in order."""
    runs: dict[str, list[Result]] = {}
    for result in results:
        runs.setdefault(result.variant.settings["recipe"], []).append(result)
    return [min(of_one, key=_judged) for of_one in runs.values()]


def _judged(result: Result) -> float:
    error = result.errors["validation"]["all"]["force_mae"]
    return math.inf if math.isnan(error) else error


def print_table(results: list[Result], console: Console) -> None:
    """Print one line a recipe, errors beside those of the default."""
    table = Table(title="errors on test frames, kcal/mol and kcal/mol/A", box=None)
    table.add_column("network")
    for heading in (
        "parameters",
        "learning rate",
        "ms a step",
        "energy MAE per atom",
        "force MAE",
        "times default",
    ):
        table.add_column(heading, justify="right")
    by_name = {r.variant.settings["recipe"]: r for r in results}
    # It may have diverged.
    base = math.nan
    if "default" in by_name:
        base = by_name["default"].errors["test"]["all"]["force_mae"]
    for result in results:
        errors = result.errors["test"]["all"]
        steps = result.history[-1]["step"]
        table.add_row(
            result.variant.settings["recipe"],
            f"{result.parameters:,}",
            f"{result.variant.settings['rate']:g}",
            f"{1000.0 * result.seconds / steps:.0f}",
            f"{errors['energy_mae_per_atom']:.4f}",
            f"{errors['force_mae']:.3f}",
            f"{errors['force_mae'] / base:.2f}",
        )
    console.print(table)


def write_csv(path: Path, results: list[Result]) -> None:
    """Write all runs as CSV."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        keys = ("energy_mae", "energy_mae_per_atom", "force_mae", "force_rmse")
        settings = ["network", "learning_rate"]
        facts = ["parameters", "seconds", "steps", "validation_force_mae"]
        writer.writerow([*settings, *facts, *keys])
        for r in results:
            errors = r.errors["test"]["all"]
            writer.writerow(
                [
                    r.variant.settings["recipe"],
                    r.variant.settings["rate"],
                    r.parameters,
                    round(r.seconds, 1),
                    int(r.history[-1]["step"]),
                    _judged(r),
                    *(errors[key] for key in keys),
                ]
            )


@click.command()
@click.option("--data", type=click.Choice(list(DATA)), default="water")
@click.option("--steps", type=click.IntRange(min=10), default=4000, show_default=True)
@click.option(
    "--only",
    multiple=True,
    help="Networks beside the default: thesis-basic, thesis-wider, "
    f"thesis-higher-order, {', '.join(CHANGES)}.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    default=(RATE,),
    show_default=True,
    help="Highest learning rate; may be given several times.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs.")
def main(
    data: str,
    steps: int,
    only: tuple[str, ...],
    rates: tuple[float, ...],
    seed: int,
    out: Path | None,
) -> None:
    """Train the thesis's networks, ours, and ours with one change taken back.

    All on the same data for the same steps; what is finished is not repeated.
    """
    unknown = set(only) - {recipe.name for recipe in recipes()}
    if unknown:
        raise click.UsageError(f"no network is called {sorted(unknown)}")
    chosen = [r for r in recipes() if not only or r.name in ("default", *only)]
    folder = out or Path(f"recipes-{data}-{steps}")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    results = run_variants(
        [
            variant(recipe, data, steps, seed, rate)
            for recipe in chosen
            for rate in rates
        ],
        folder,
        console,
    )
    print_table(best_runs(results), console)
    write_csv(folder / "recipes.csv", results)


if __name__ == "__main__":
    main()

"""A grid of runs that differ in a few settings, side by side."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from openmm_se3.files import atomic_write
from openmm_se3.signals import interruption
from openmm_se3.training.checkpoint import (
    BEST,
    LAST,
    identity,
    load_checkpoint,
    refuse_changes,
)
from openmm_se3.training.config import RunConfig
from openmm_se3.training.config_file import run_config
from openmm_se3.training.loop import processes
from openmm_se3.training.report import CONFIG
from openmm_se3.training.run import ERRORS, train
from openmm_se3.training.step import DivergedError

TABLE, CURVES = "sweep.csv", "curves.png"
MAX_NAME = 200  # characters of a folder
LEGEND_COLUMNS = 3
DASHES = ("-", "--", ":")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One run of a sweep.

    Attributes:
        name: Its settings in words, which is also its folder.
        settings: What sets it apart, by name.
        config: The run.
    """

    name: str
    settings: dict[str, Any]
    config: RunConfig

    @property
    def title(self) -> str:
        """The name with spaces, where lines may be wrapped."""
        return self.name.replace(",", ", ")


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run of a sweep gave; energies in kcal/mol, forces in kcal/mol/A."""

    variant: Variant
    parameters: int
    seconds: float
    history: list[dict[str, float]]
    errors: dict[str, dict[str, dict[str, float]]]


def parse_settings(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return lists of values by "section.key", from ``section.key=a,b,c``.

    Raises:
        ValueError: A text has another form, or a key is given twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        section, dot, name = key.partition(".")
        if not equals or not dot or section not in ("model", "training") or not name:
            raise ValueError(
                f"{text!r} is not of the form training.KEY=A,B or model.KEY=A,B"
            )
        if key in grid:
            raise ValueError(f"{key} is given twice")
        try:
            grid[key] = [yaml.safe_load(value) for value in values.split(",")]
        except yaml.YAMLError:
            raise ValueError(
                f"{text!r}: each value between the commas must be a number or a word; "
                "a list cannot be swept"
            ) from None
    return grid


def variants(base: RunConfig, grid: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """Return one run for each combination of values.

    Raises:
        ValueError: A key or value does not fit, as in a configuration file.
    """
    made: list[Variant] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        plain = copy.deepcopy(base.to_dict())
        for key, value in settings.items():
            section, _, name = key.partition(".")
            # YAML reads 1e-3 without a point as text.
            plain[section][name] = _number(value)
        name = _folder_name(settings, {variant.name for variant in made})
        made.append(Variant(name, settings, run_config(plain, Path())))
    return made


def _folder_name(settings: Mapping[str, Any], taken: set[str]) -> str:
    """Return the settings of a run as one name that no other run has.

    Values may be paths, which must not make folders of their own.
    """
    pairs = (f"{key.partition('.')[2]}={value}" for key, value in settings.items())
    name = re.sub(r"[^\w.,=+-]+", "_", ",".join(pairs))[:MAX_NAME]
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    return unique


def run_sweep(
    chosen: Sequence[Variant], folder: Path, console: Console
) -> list[Result]:
    """Run what is not finished yet and write table and curves; see run_variants."""
    results = run_variants(chosen, folder, console)
    _write_table(folder / TABLE, results)
    _plot(folder / CURVES, results)
    return results


def run_variants(
    chosen: Sequence[Variant], folder: Path, console: Console
) -> list[Result]:
    """Run what is not finished yet, one run after the other.

    Args:
        chosen: The runs.
        folder: Each run gets a folder here.
        console: Where to report.

    Returns:
        Results of all runs but those that diverged.

    Raises:
        KeyboardInterrupt: A signal stopped a run, from where the same call goes on.
        ValueError: A folder holds a run with other settings or data, or a run asks for
            several processes.
        DivergedError: All runs diverged.
    """
    for variant in chosen:
        if math.prod(processes(variant.config.training)) > 1:
            raise ValueError(
                "a sweep trains in one process; start its runs one by one with "
                "'openmm-se3 train' to train each in several"
            )
    results: list[Result] = []
    diverged: DivergedError | None = None
    for number, variant in enumerate(chosen, start=1):
        out = folder / variant.name
        console.rule(f"{number}/{len(chosen)}: {variant.name}")
        if (out / ERRORS).exists():
            refuse_changes(load_checkpoint(out / BEST), identity(variant.config), out)
        else:
            started = (out / CONFIG).exists()
            try:
                outcome = train(variant.config, out, resume=started, console=console)
            except DivergedError as error:
                console.print(f"{variant.name} diverged: {error}", markup=False)
                diverged = error
                continue
            if outcome.signal is not None and not outcome.finished:
                raise interruption(outcome.signal)
        results.append(_result(variant, out))
    if not results and diverged is not None:
        raise diverged
    return results


def _result(variant: Variant, folder: Path) -> Result:
    best, last = (load_checkpoint(folder / name) for name in (BEST, LAST))
    errors = json.loads((folder / ERRORS).read_text())
    errors.pop("units")
    weights = best["average"].values()
    return Result(
        variant,
        parameters=sum(weight.numel() for weight in weights),
        seconds=last["history"][-1]["seconds"],
        history=last["history"],
        errors=errors,
    )


def _write_table(path: Path, results: Sequence[Result]) -> None:
    rows = []
    for result in results:
        row: dict[str, Any] = {**result.variant.settings}
        row["parameters"], row["seconds"] = result.parameters, result.seconds
        for split, groups in result.errors.items():
            for key in ("energy_mae", "force_mae", "force_rmse"):
                row[f"{split}_{key}"] = groups["all"].get(key, "")
        rows.append(row)
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _plot(path: Path, results: Sequence[Result]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    from openmm_se3.plot_style import STYLE, few_ticks, logarithmic, save

    panels = {
        "validation_loss": "validation loss (eV²/Å² and eV²)",
        "energy_mae": "energy MAE (kcal/mol)",
        "force_mae": "force MAE (kcal/mol/Å)",
    }
    rows = -(-len(results) // LEGEND_COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4 + 0.22 * rows), layout="constrained")
        all_axes = figure.subplots(1, len(panels))
        for axes, (key, label) in zip(all_axes, panels.items(), strict=True):
            for number, result in enumerate(results):
                axes.plot(
                    [row["step"] for row in result.history],
                    [row[key] for row in result.history],
                    # Colors come again after ten runs, then with other dashes.
                    color=f"C{number % 10}",
                    linestyle=DASHES[number // 10 % len(DASHES)],
                    linewidth=1.2,
                    label=result.variant.title,
                )
            axes.set(xlabel="step", ylabel=label, xlim=(0, None))
            few_ticks(axes.xaxis)
            logarithmic(axes, (row[key] for r in results for row in r.history))
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=LEGEND_COLUMNS)
        save(path, figure)


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value

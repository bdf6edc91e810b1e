"""Direct against conservative forces: what becomes of the energy in dynamics?

    python benchmarks/accuracy/force_drift.py --steps 4000 --picoseconds 20

Two networks that differ in ``force_mode`` only are trained on the committed water
labels, for the same steps on the same batches.  With each, one molecule and the hexamer
run at constant energy after an equilibration at 300 K.  Prints the drift of the total
energy and draws it against time.  Everything is kept in ``--out``: stopped at any time,
the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from recipes import Recipe, variant
from rich.console import Console
from rich.table import Table

from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.read import read_folder
from openmm_se3.export import model_of_checkpoint
from openmm_se3.files import atomic_write
from openmm_se3.force import SE3Potential
from openmm_se3.model_file import contents
from openmm_se3.plot_style import BLUE, ORANGE, STYLE, few_ticks, legend_above, save
from openmm_se3.simulation import RunOptions, run_dynamics, water_start, water_topology
from openmm_se3.simulation.minimum import BadMinimumError
from openmm_se3.training.checkpoint import BEST, load_checkpoint
from openmm_se3.training.sweep import Variant, run_variants
from openmm_se3.units import BOLTZMANN_KJ_PER_MOL, FS_TO_PS

DT = 0.5  # fs
TEMPERATURE = 300.0  # K
MODES = {"conservative": BLUE, "direct": ORANGE}
SYSTEMS = {"one molecule": 1, "hexamer": 6}
ROW = "row.json"
# To try it out: a tiny network that learns next to nothing.
SHORT_MODEL = {
    "layers": 1,
    "channels": 4,
    "key_channels": 4,
    "heads": 2,
    "lmax": 1,
    "jmax": 1,
    "radial_width": 4,
    "self_interaction_width": 4,
}
SHORT_STEPS, SHORT_PICOSECONDS, SHORT_EQUILIBRATION = 10, 0.1, 0.02


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of dynamics; a finished one is kept as long as its row is the same."""

    mode: str
    system: str
    picoseconds: float
    equilibration: float
    weights_sha256: str


def networks(steps: int, seed: int, short: bool) -> list[Variant]:
    """Return the two training runs."""
    made = []
    for mode in MODES:
        changes = {"force_mode": mode, **(SHORT_MODEL if short else {})}
        run = variant(Recipe(mode, changes), "water", steps, seed)
        run = dataclasses.replace(run, name=mode)
        if short:
            data = run.config.data
            data = dataclasses.replace(data, files=data.files[-1:])
            run = dataclasses.replace(
                run, config=dataclasses.replace(run.config, data=data)
            )
        made.append(run)
    return made


def write_model(run: Path) -> tuple[Path, str]:
    """Write the model of a finished training run; return its folder and hash."""
    model = model_of_checkpoint(load_checkpoint(run / BEST), run.name, "MIT")
    folder = run / "model"
    folder.mkdir(exist_ok=True)
    for name, content in contents(model).items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder, str(model.metadata["weights_sha256"])


def run_row(row: Row, model: Path, folder: Path, platform: str, seed: int) -> None:
    """Run one row of dynamics unless it is there.

    A network that does not hold molecules together gets no further than the
    minimization, which is its result.
    """
    done, values = folder / ROW, dataclasses.asdict(row)
    if done.is_file() and json.loads(done.read_text()).get("row") == values:
        return
    molecules = SYSTEMS[row.system]
    topology = water_topology(molecules)
    with warnings.catch_warnings():
        # That direct forces do not conserve energy is what is shown here.
        warnings.filterwarnings("ignore", message="energy is not conserved")
        system = SE3Potential(model, precision="double").createSystem(topology)
    steps = round(row.picoseconds / (DT * FS_TO_PS))
    options = RunOptions(
        steps=steps,
        dt_fs=DT,
        temperature=TEMPERATURE,
        equilibration_ps=row.equilibration,
        precision="double",
        platform=platform,
        seed=seed,
        out=folder,
        overwrite=True,
        # 400 energies and more; at 12 fs none falls into step with a vibration.
        log_fs=min(12.0, row.picoseconds / FS_TO_PS / 400.0),
    )
    no_start = None
    try:
        run_dynamics(system, topology, water_start(molecules, seed), options)
    except BadMinimumError as error:
        no_start = str(error)
        folder.mkdir(exist_ok=True)
    with atomic_write(done) as temporary:
        text = json.dumps({"row": values, "no_start": no_start}, indent=1)
        temporary.write_text(text + "\n")


def measured(folder: Path) -> dict[str, Any]:
    """Return energies and drift of a run, and what ended it early.

    Energies are in kT per degree of freedom from the first, kT of ``TEMPERATURE``;
    drifts in kT/ns per degree of freedom, NaN of a run that ended too early.
    """
    result: dict[str, Any] = {
        "time": np.empty(0),
        "energy": np.empty(0),
        "line": np.empty(0),
        "temperature": math.nan,
        "drift": math.nan,
        "drift_error": math.nan,
    }
    no_start = json.loads((folder / ROW).read_text())["no_start"]
    if no_start is not None:
        return {"reason": no_start, **result}
    recording = read_folder(folder)
    log, degrees = recording.log, recording.run["degrees_of_freedom"]
    result["reason"] = recording.run["reason"]
    found = energies(log, TEMPERATURE, degrees, conserved=True)
    if found is None:  # it ended in the equilibration
        return result
    kt = BOLTZMANN_KJ_PER_MOL * TEMPERATURE * degrees
    time, total = log["time_ps"], log["total_kj_per_mol"]
    result |= {
        "time": time,
        "energy": (total - total[0]) / kt,
        "temperature": found.temperature,
    }
    if found.drift is not None:
        line = found.drift.intercept + found.drift.slope * time
        result["line"] = (line - total[0]) / kt
        result["drift"], result["drift_error"] = found.drift.per_kt(
            TEMPERATURE, degrees
        )
    return result


def draw(path: Path, results: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Draw the total energy of every run, a panel a system."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        all_axes = figure.subplots(1, len(SYSTEMS))
        for axes, system in zip(all_axes, SYSTEMS, strict=True):
            _panel(axes, system, {mode: results[mode, system] for mode in MODES})
        all_axes[0].set_ylabel("change of the total energy\n(kT per degree of freedom)")
        save(path, figure)


def _panel(axes: Axes, system: str, runs: dict[str, dict[str, Any]]) -> None:
    for mode, run in runs.items():
        color, line = MODES[mode], run["line"]
        unit = " kT/ns/dof" if len(line) else ""
        label = f"{mode} forces: {drift_text(run)}{unit}"
        axes.plot(run["time"], run["energy"], color=color, lw=0.6, alpha=0.6)
        axes.plot(run["time"][: len(line)], line, color=color, lw=1.8, label=label)
    axes.set(xlabel="time (ps)", xlim=(0.0, None))
    few_ticks(axes.xaxis)
    few_ticks(axes.yaxis)
    legend_above(axes, 1, title=system)


def drift_text(run: dict[str, Any]) -> str:
    """Return drift and error, with digits as the error has them."""
    if not math.isfinite(run["drift"]):
        return "stopped too early"
    digits = max(0, 1 - math.floor(math.log10(run["drift_error"] or 1.0)))
    return f"{run['drift']:+.{digits}f} ± {run['drift_error']:.{digits}f}"


def print_table(
    results: dict[tuple[str, str], dict[str, Any]], console: Console
) -> None:
    """Print one line a run."""
    table = Table(title="total energy, NVE", title_justify="left", box=None)
    table.add_column("run")
    table.add_column("forces")
    for heading in ("ps", "mean T, K", "drift, kT/ns/dof", "largest change, kT/dof"):
        table.add_column(heading, justify="right")
    for (mode, system), run in results.items():
        there = len(run["time"]) > 0
        table.add_row(
            system,
            mode,
            f"{run['time'][-1]:.1f}" if there else "0",
            f"{run['temperature']:.0f}",
            drift_text(run),
            f"{np.abs(run['energy']).max():.4f}" if there else "",
        )
    console.print(table)
    for (mode, system), run in results.items():
        if run["reason"]:
            console.print(
                f"{system}, {mode}: stopped, {run['reason']}",
                highlight=False,
                soft_wrap=True,
            )


@click.command()
@click.option("--steps", type=click.IntRange(min=10), default=4000, show_default=True)
@click.option("--picoseconds", type=float, default=20.0, show_default=True)
@click.option("--seed", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--platform", default="Reference", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs.")
@click.option(
    "--short", is_flag=True, help="Seconds instead: tiny networks, a tenth of a ps."
)
def main(
    steps: int,
    picoseconds: float,
    seed: int,
    platform: str,
    out: Path | None,
    short: bool,
) -> None:
    """Show the drift of energy with conservative and with direct forces.

    Trains both networks unless they are in the folder.
    """
    equilibration = 2.0
    if short:
        steps, picoseconds, equilibration = (
            SHORT_STEPS,
            SHORT_PICOSECONDS,
            SHORT_EQUILIBRATION,
        )
    folder = out or Path(f"force-drift-{'short' if short else steps}")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    run_variants(networks(steps, seed, short), folder, console)
    torch.set_num_threads(1)
    results = {}
    for mode in MODES:
        model, digest = write_model(folder / mode)
        for system in SYSTEMS:
            row = Row(mode, system, picoseconds, equilibration, digest)
            place = folder / f"{mode}, {system}"
            console.print(f"{place.name}: {picoseconds:g} ps", highlight=False)
            run_row(row, model, place, platform, seed)
            results[mode, system] = measured(place)
    print_table(results, console)
    draw(folder / "force_drift.png", results)
    click.echo(folder / "force_drift.png")


if __name__ == "__main__":
    main()

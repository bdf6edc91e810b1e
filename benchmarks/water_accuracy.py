"""Accuracy of a water model against DFT: test errors, minima, frequencies, dimer.

    python benchmarks/water_accuracy.py --out water_accuracy.json --figure dimer.png

Test errors are on trajectories that training never saw (``water*.h5`` of
``models/water/data``).
Everything else is compared with ``reference/water_dft.json``, which
``water_reference.py`` made with DFT; no DFT runs here.  Exit code 1 if a figure misses
its limit.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table
from water_geometry import (
    WATER,
    EnergyAndForces,
    bond_lengths_and_angle,
    find_minimum,
    finite_difference_hessian,
    frequencies,
)

from openmm_se3.data.frames import Frame
from openmm_se3.data.load import read_datasets
from openmm_se3.files import atomic_write
from openmm_se3.model_file import PRECISIONS, ModelFile, load_model
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.shipped import models_folder
from openmm_se3.single_point import evaluate
from openmm_se3.units import EV_TO_KCAL_PER_MOL

REFERENCE = Path(__file__).parent / "reference" / "water_dft.json"
# Groups with fewer frames have no limit of the energy error, see below.
FEWEST_FRAMES = 3
FINE = 0.02  # A, between points of the model's dimer curves


@dataclasses.dataclass(frozen=True)
class Group:
    """Test frames that are judged together; None means any, and no limit.

    Attributes:
        name: What they are.
        molecules: Molecules per frame.
        kind: Kind of frame.
        temperature: K.
        force_limit: Largest force MAE, kcal/mol/A.
        energy_limit: Largest energy MAE, kcal/mol per molecule.
    """

    name: str
    molecules: int
    kind: str
    temperature: float | None = None
    force_limit: float | None = None
    energy_limit: float | None = None


GROUPS = (
    Group("monomers, 600 K", 1, "md", 600.0, force_limit=0.05, energy_limit=0.03),
    *(
        Group(f"(H2O){n}, 350 K", n, "md", 350.0, force_limit=0.25, energy_limit=0.05)
        for n in range(2, 7)
    ),
    Group("monomers, 300 K", 1, "md", 300.0),
    Group("monomers, 1000 K", 1, "md", 1000.0),
    Group("monomers, distorted", 1, "distortion"),
    Group("dimers, approach curves", 2, "approach"),
    Group("dimers, cyclic", 2, "ring"),
    Group("dimers, 700 K", 2, "md", 700.0),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of the table."""

    name: str
    model: float
    reference: float | None
    error: float
    limit: float | None
    unit: str

    @property
    def passed(self) -> bool | None:
        """Whether the error is within the limit; None without a limit."""
        return None if self.limit is None else bool(self.error <= self.limit)


def interaction(network: SE3Transformer, numbers: np.ndarray) -> EnergyAndForces:
    """Return the model as a function of positions [n, 3] (A)."""
    symbols = [chemical_symbols[z] for z in numbers]
    return lambda positions: evaluate(network, symbols, positions)


def frame_errors(
    network: SE3Transformer, frames: list[Frame], self_energies: dict[int, float]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return energy errors [n_frames], eV, and force errors by frame, eV/A."""
    energy_errors, force_errors = [], []
    for frame in frames:
        energy, forces = interaction(network, frame.numbers)(frame.positions)
        atoms = sum(self_energies[int(z)] for z in frame.numbers)
        energy_errors.append(energy + atoms - frame.energy)
        force_errors.append(forces - frame.forces)
    return np.array(energy_errors), force_errors


def limit_of_energies(group: Group, frames: list[Frame]) -> float | None:
    """Return the limit of the energy error, if the frames can miss it.

    Errors are counted from their mean, which one frame always meets.
    """
    return group.energy_limit if len(frames) >= FEWEST_FRAMES else None


def test_error_rows(
    model: ModelFile, network: SE3Transformer, data: list[Path]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return the test errors as rows, and with worst frames as plain values."""
    dataset = read_datasets(data)
    test = dataset.select("test")
    rows: list[Row] = []
    details: list[dict[str, Any]] = []
    for group in GROUPS:
        frames = [
            frame
            for frame in test
            if len(frame.numbers) == 3 * group.molecules
            and frame.kind == group.kind
            and group.temperature in (None, frame.temperature)
        ]
        if not frames:
            continue
        energies, forces = frame_errors(network, frames, model.self_energies)
        centered = (energies - energies.mean()) * EV_TO_KCAL_PER_MOL / group.molecules
        by_frame = np.array([np.abs(f).mean() for f in forces]) * EV_TO_KCAL_PER_MOL
        worst = int(by_frame.argmax())
        details.append(
            {
                "group": group.name,
                "frames": len(frames),
                "trajectories": len({frame.trajectory for frame in frames}),
                "force_mae": float(by_frame.mean()),
                "force_mae_worst_frame": float(by_frame[worst]),
                "force_error_largest_component": float(
                    max(np.abs(f).max() for f in forces) * EV_TO_KCAL_PER_MOL
                ),
                "worst_frame": frames[worst].trajectory,
                "energy_mae_per_molecule": float(np.abs(centered).mean()),
                "energy_offset_per_molecule": float(
                    energies.mean() * EV_TO_KCAL_PER_MOL / group.molecules
                ),
                "force_limit": group.force_limit,
                "energy_limit": limit_of_energies(group, frames),
            }
        )
        last = details[-1]
        rows += [
            Row(
                f"{group.name}: {what}",
                last[key],
                None,
                last[key],
                limit,
                unit,
            )
            for what, key, limit, unit in (
                ("force MAE", "force_mae", last["force_limit"], "kcal/mol/A"),
                (
                    "energy MAE per molecule",
                    "energy_mae_per_molecule",
                    last["energy_limit"],
                    "kcal/mol",
                ),
            )
        ]
    return rows, details


def compared(
    name: str, found: float, expected: float, limit: float | None, unit: str
) -> Row:
    """Return a row for a number that DFT gives too."""
    return Row(name, found, expected, abs(found - expected), limit, unit)


def monomer_rows(
    function: EnergyAndForces, reference: dict[str, Any]
) -> tuple[list[Row], float]:
    """Return minimum and frequencies of the monomer, and its energy (eV)."""
    energy, positions = find_minimum(function, np.array(reference["positions"]))
    first, second, angle = bond_lengths_and_angle(positions)
    length = (first + second) / 2.0
    rows = [
        compared("monomer O-H", length, reference["oh_length"], 0.001, "A"),
        compared("monomer H-O-H", angle, reference["hoh_angle"], 0.1, "degrees"),
    ]
    found = frequencies(finite_difference_hessian(function, positions), WATER, 3)
    names = ("bend", "symmetric stretch", "antisymmetric stretch")
    for name, own, theirs in zip(names, found, reference["frequencies"], strict=True):
        rows.append(compared(f"monomer {name}", float(own), theirs, 10.0, "1/cm"))
    return rows, energy


def dimer_rows(
    function: EnergyAndForces, reference: dict[str, Any], monomer_energy: float
) -> list[Row]:
    """Return binding energy and O-O distance at the minimum of the dimer."""
    energy, positions = find_minimum(function, np.array(reference["positions"]))
    binding = (2.0 * monomer_energy - energy) * EV_TO_KCAL_PER_MOL
    distance = float(np.linalg.norm(positions[3] - positions[0]))
    expected = reference["binding_energy"] * EV_TO_KCAL_PER_MOL
    return [
        compared("dimer binding energy", binding, expected, 0.15, "kcal/mol"),
        compared("dimer O-O", distance, reference["oo_distance"], 0.02, "A"),
    ]


def dimer_curve(
    dimer: EnergyAndForces, monomer: EnergyAndForces, curve: dict[str, Any]
) -> np.ndarray:
    """Return the model's interaction energies along a rigid curve, kcal/mol."""
    frames = np.array(curve["positions"])
    apart = monomer(frames[0][:3])[0] + monomer(frames[0][3:])[0]
    energies = np.array([dimer(frame)[0] for frame in frames])
    return (energies - apart) * EV_TO_KCAL_PER_MOL


def refined(curve: dict[str, Any]) -> dict[str, Any]:
    """Return a rigid curve with a point every ``FINE``: molecules move on a line."""
    given, frames = np.array(curve["distances"]), np.array(curve["positions"])
    distances = np.arange(given.min(), given.max() + 0.5 * FINE, FINE)
    flat = frames.reshape(len(frames), -1).T
    order = np.argsort(given)
    moved = [np.interp(distances, given[order], values[order]) for values in flat]
    positions = np.transpose(moved).reshape(len(distances), *frames.shape[1:])
    return {"distances": distances, "positions": positions}


def draw(
    curves: dict[str, Any],
    found: dict[str, np.ndarray],
    fine: dict[str, tuple[np.ndarray, np.ndarray]],
    cutoff: float,
    path: Path,
) -> None:
    """Draw the dimer curves of model and DFT, the model's on a fine grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2,
        len(curves),
        figsize=(4.0 * len(curves), 5.0),
        sharex=True,
        height_ratios=(3, 1),
        layout="constrained",
        squeeze=False,
    )
    for lower in axes[1, 1:]:
        lower.sharey(axes[1, 0])  # differences are compared with each other
    for (upper, lower), (name, curve) in zip(axes.T, curves.items(), strict=True):
        own = found[name]
        distances = np.array(curve["distances"])
        dft = np.array(curve["interaction_energies"]) * EV_TO_KCAL_PER_MOL
        upper.plot(distances, dft, "o", ms=3.5, color="black", label="DFT")
        upper.plot(*fine[name], "-", color="tab:blue", label="model")
        upper.set_title(name)
        lower.plot(distances, own - dft, ".-", color="tab:red")
        lower.set_xlabel("O-O distance (Å)")
        for axis in (upper, lower):
            axis.axvline(cutoff, color="gray", lw=0.8, ls=":", label="cutoff")
            axis.axhline(0.0, color="gray", lw=0.5)
        upper.legend(frameon=False)
    axes[0, 0].set_ylabel("interaction (kcal/mol)")
    axes[1, 0].set_ylabel("model - DFT\n(kcal/mol)")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    pyplot.close(figure)


def mark(passed: bool | None) -> str:
    """Return a verdict in color, empty where there is no limit."""
    return {True: "[green]pass[/]", False: "[bold red]fail[/]", None: ""}[passed]


def print_test_errors(details: list[dict[str, Any]], console: Console) -> None:
    """Print test errors by group, with the worst frame."""
    title = "test errors, kcal/mol and A; energies per molecule, less the mean offset"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("group")
    for heading in ("frames", "forces", "worst frame", "limit", "energy", "limit", ""):
        table.add_column(heading, justify="right")
    for row in details:
        pairs = [
            (row["force_mae"], row["force_limit"]),
            (row["energy_mae_per_molecule"], row["energy_limit"]),
        ]
        passed = None
        if all(limit is not None for _, limit in pairs):
            passed = all(error <= limit for error, limit in pairs)
        limits = ["" if limit is None else f"{limit:g}" for _, limit in pairs]
        table.add_row(
            row["group"],
            str(row["frames"]),
            f"{row['force_mae']:.4f}",
            f"{row['force_mae_worst_frame']:.3f}",
            limits[0],
            f"{row['energy_mae_per_molecule']:.4f}",
            limits[1],
            mark(passed),
        )
    console.print(table)


def print_rows(rows: list[Row], console: Console, title: str) -> None:
    """Print what is compared with DFT figure by figure."""
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("figure")
    for heading in ("model", "DFT", "error", "limit", ""):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.reference is not None:
            table.add_row(
                f"{row.name}, {row.unit}",
                f"{row.model:.4f}",
                f"{row.reference:.4f}",
                f"{row.error:.4f}",
                "" if row.limit is None else f"{row.limit:g}",
                mark(row.passed),
            )
    console.print(table)


@click.command()
@click.option("--model", default="water", show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the labels; by default that of the shipped model.",
)
@click.option("--precision", type=click.Choice(list(PRECISIONS)), default="single")
@click.option("--figure", type=click.Path(path_type=Path), default="water_dimer.png")
@click.option("--out", type=click.Path(path_type=Path))
@click.pass_context
def main(
    context: click.Context,
    model: str,
    data: Path | None,
    precision: str,
    figure: Path,
    out: Path | None,
) -> None:
    """Print the accuracy of a water model; test errors in the precision given."""
    torch.set_num_threads(1)
    console = Console()
    loaded = load_model(model)
    folder = data or models_folder() / "water" / "data"
    files = sorted(folder.glob("water*.h5"))
    if not files:
        raise click.UsageError(f"no label files water*.h5 in {folder}")
    reference = json.loads(REFERENCE.read_text())
    rows, details = test_error_rows(
        loaded, loaded.network(PRECISIONS[precision]), files
    )

    # Minima and second derivatives need the digits of float64.
    double = loaded.network(torch.float64)
    monomer, dimer = interaction(double, WATER), interaction(double, np.tile(WATER, 2))
    more, monomer_energy = monomer_rows(monomer, reference["monomers"]["minimum"])
    rows += more + dimer_rows(dimer, reference["dimers"]["minimum"], monomer_energy)
    curves = reference["curves"]
    found = {n: dimer_curve(dimer, monomer, curve) for n, curve in curves.items()}
    fine = {}
    for name, curve in curves.items():
        between = refined(curve)
        energies = dimer_curve(dimer, monomer, between)
        fine[name] = between["distances"], energies
    draw(curves, found, fine, loaded.config.cutoff, figure)
    for name, curve in curves.items():
        own = found[name]
        dft = np.array(curve["interaction_energies"]) * EV_TO_KCAL_PER_MOL
        worst = int(np.abs(own - dft).argmax())
        distance = curve["distances"][worst]
        rows.append(
            compared(
                f"curve, {name}, worst at {distance:.2f} A",
                float(own[worst]),
                float(dft[worst]),
                None,
                "kcal/mol",
            )
        )
    level = reference["level_of_theory"]
    title = f"model {model} against {level['method']}/{level['basis']}"
    print_test_errors(details, console)
    print_rows(rows, console, title)
    console.print(f"test errors in {precision} precision; wrote {figure}")
    passed = all(row.passed is not False for row in rows)
    if out is not None:
        result = {
            "model": model,
            "weights_sha256": loaded.metadata.get("weights_sha256"),
            "precision": precision,
            "passed": passed,
            "rows": [{**dataclasses.asdict(r), "passed": r.passed} for r in rows],
            "test_errors": details,
            "curves": {
                n: {"distances": curve["distances"], "model": found[n].tolist()}
                for n, curve in curves.items()
            },
        }
        with atomic_write(out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    context.exit(0 if passed else 1)


if __name__ == "__main__":
    main()

"""Liquid water of a model beside the frames it was trained on.

    python benchmarks/liquid_water.py --data .../liquid-water-pbe0ts --out runs/liquid

Runs the 64 molecules of a frame at constant volume with a Nose-Hoover thermostat, and
prints: whether all molecules stayed whole, gOO, gOH and gHH beside those of the frames
(table and figure), and the diffusion coefficient.  The frames are snapshots of
path-integral dynamics: their nuclei are spread by zero-point motion, so that peaks
within a molecule are broader than those of the classical trajectory.  Between molecules
30 K more stand for what quantum nuclei do to gOO at 300 K (DiStasio et al. 2014,
https://doi.org/10.1063/1.4893377), hence the default temperature.  Errors of the frames
are those of a mean over groups of related frames, the trajectory's over blocks of time.

A run that was stopped goes on when the command is given again.  Exit code 1 if a figure
misses its limit.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click
import matplotlib
import mdtraj
import numpy as np
from openmm import Vec3, app, unit
from rich.console import Console
from rich.table import Table

from openmm_se3.analysis.liquid import pair_distribution
from openmm_se3.analysis.read import read_folder
from openmm_se3.analysis.stability import judge
from openmm_se3.files import atomic_write
from openmm_se3.plot_style import BLUE, GRAY, STYLE, save
from openmm_se3.simulation import ModelRunOptions, run_structure, water_topology
from openmm_se3.units import ANGSTROM_TO_NM, FS_TO_PS, NM_TO_ANGSTROM

PAIRS = (("O", "O"), ("O", "H"), ("H", "H"))
BIN = 0.05  # A
COMPARED = (2.0, 6.0)  # A
BLOCKS = 5
DT_FS, FRAME_FS = 0.5, 50.0
FIT_PS = (1.0, 3.0)  # of the mean square displacement
A2_PER_PS = 10.0  # A^2/ps in 1e-5 cm^2/s
# Limits of gOO.
PEAK_PLACE, PEAK_HEIGHT, DIFFERENCE = 0.05, 0.1, 0.1


@dataclasses.dataclass(frozen=True)
class Distribution:
    """g(r) of one kind of pair, and its standard error.

    Attributes:
        r: Middle of each bin [n_bins], A.
        g: Mean over the blocks [n_bins].
        error: Standard error of the mean [n_bins].
    """

    r: np.ndarray
    g: np.ndarray
    error: np.ndarray

    def peak(self) -> tuple[float, float]:
        """Return place (A) and height of the highest point between 2 and 4 A.

        It is the top of the parabola through the highest bin and the two beside it.
        """
        inside = np.flatnonzero((self.r > 2.0) & (self.r < 4.0))
        top = inside[np.argmax(self.g[inside])]
        a, b, c = np.polyfit(self.r[top - 1 : top + 2], self.g[top - 1 : top + 2], 2)
        place = -b / (2.0 * a)
        return float(place), float(np.polyval((a, b, c), place))


def read_frames(folder: Path) -> tuple[mdtraj.Trajectory, np.ndarray]:
    """Return the frames, each hydrogen beside its oxygen, and the group of each.

    Raises:
        ValueError: An oxygen has not just two hydrogens next to it.
    """
    species = np.loadtxt(folder / "type.raw", dtype=int)
    x = np.load(folder / "set.000" / "coord.npy").astype(float)
    x = x.reshape(len(x), -1, 3)
    boxes = np.load(folder / "set.000" / "box.npy").astype(float).reshape(-1, 3, 3)
    ordered = np.empty_like(x)
    for frame, (positions, box) in enumerate(zip(x, boxes, strict=True)):
        lengths = np.diagonal(box)
        oxygens, hydrogens = positions[species == 0], positions[species == 1]
        vectors = hydrogens[None] - oxygens[:, None]  # [oxygen, hydrogen, 3]
        vectors -= lengths * np.round(vectors / lengths)
        owner = np.linalg.norm(vectors, axis=2).argmin(0)
        if not np.all(np.bincount(owner, minlength=len(oxygens)) == 2):
            raise ValueError(f"frame {frame} has an ion: no two hydrogens per oxygen")
        near = np.argsort(owner, kind="stable").reshape(-1, 2)
        molecules = np.stack([vectors[range(len(near)), near[:, k]] for k in (0, 1)], 1)
        molecules = oxygens[:, None] + molecules
        ordered[frame] = np.concatenate([oxygens[:, None], molecules], 1).reshape(-1, 3)
    topology = mdtraj.Topology.from_openmm(water_topology(len(ordered[0]) // 3))
    trajectory = mdtraj.Trajectory(ANGSTROM_TO_NM * ordered, topology)
    trajectory.unitcell_vectors = ANGSTROM_TO_NM * boxes
    return trajectory, np.load(folder / "groups.npy")


def write_start(trajectory: mdtraj.Trajectory, path: Path) -> None:
    """Write the first frame as a PDB file with its box."""
    topology = water_topology(trajectory.n_residues)
    vectors = [Vec3(*vector) for vector in trajectory.unitcell_vectors[0].tolist()]
    topology.setPeriodicBoxVectors(vectors * unit.nanometer)
    with atomic_write(path) as temporary, temporary.open("w") as file:
        app.PDBFile.writeFile(topology, trajectory.xyz[0] * unit.nanometer, file)


def distribution(
    trajectory: mdtraj.Trajectory, blocks: np.ndarray, pair: tuple[str, str]
) -> Distribution:
    """Return g(r) up to half the box.

    Args:
        trajectory: Frames with a box.
        blocks: Block of each frame; blocks count as independent [n_frames].
        pair: Chemical symbols.
    """
    first, second = (trajectory.topology.select(f"element {name}") for name in pair)
    # Bins that divide the range, so that those of all trajectories are the same.
    last = BIN * np.floor(
        0.5 * NM_TO_ANGSTROM * float(trajectory.unitcell_lengths.min()) / BIN
    )
    sums = []
    for block in np.unique(blocks):
        frames = trajectory[blocks == block]
        r, g = pair_distribution(frames, first, second, (0.0, last), round(last / BIN))
        sums.append((np.sum(blocks == block), g))
    weights = np.array([n for n, _ in sums]) / len(blocks)
    values = np.array([g for _, g in sums])
    mean = weights @ values
    # Variance of a weighted mean of independent blocks.
    share = weights**2 / (1.0 - np.sum(weights**2))
    error = np.sqrt(share @ (values - mean) ** 2)
    return Distribution(r, mean, error)


def difference(found: Distribution, expected: Distribution) -> tuple[float, float]:
    """Return the mean of |g - g'| over :data:`COMPARED`, and the error's share of it.

    The second number is what two samples of one g(r) with these errors would give.
    """
    n = min(len(found.r), len(expected.r))
    inside = (found.r[:n] > COMPARED[0]) & (found.r[:n] < COMPARED[1])
    error = np.hypot(found.error[:n], expected.error[:n])[inside]
    distance = np.abs(found.g[:n] - expected.g[:n])[inside]
    return float(distance.mean()), float(np.sqrt(2.0 / np.pi) * error.mean())


def diffusion(oxygens: np.ndarray, frame_ps: float) -> tuple[float, float]:
    """Return the diffusion coefficient and its standard error, 1e-5 cm^2/s.

    Six times it is the slope of the mean square displacement between
    :data:`FIT_PS`; the error is that of a mean over blocks of the trajectory.

    Args:
        oxygens: Positions of molecules, not put back into the box
            [n_frames, n_molecules, 3], A.
        frame_ps: Time between frames, ps.
    """
    oxygens = oxygens - oxygens.mean(1, keepdims=True)
    lags = np.arange(round(FIT_PS[0] / frame_ps), round(FIT_PS[1] / frame_ps) + 1)
    values = []
    for block in np.array_split(oxygens, BLOCKS):
        if len(block) <= lags[-1]:
            return np.nan, np.nan
        square = [np.square(block[lag:] - block[:-lag]).sum(2).mean() for lag in lags]
        values.append(A2_PER_PS * np.polyfit(frame_ps * lags, square, 1)[0] / 6.0)
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values)), float(error)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run beside the frames: distributions by pair, and the rows of the table."""

    found: dict[str, Distribution]
    expected: dict[str, Distribution]
    table: dict[str, Any]


def draw(path: Path, results: Comparison, temperature: float) -> None:
    """Draw g(r) of the trajectory over that of the frames."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
        for axes, name in zip(panels, results.found, strict=True):
            for part, color, label in (
                (results.expected[name], GRAY, "frames, path integrals"),
                (results.found[name], BLUE, f"model, classical, {temperature:g} K"),
            ):
                axes.plot(part.r, part.g, color=color, label=label)
                band = part.g - part.error, part.g + part.error
                axes.fill_between(part.r, *band, color=color, alpha=0.3, linewidth=0)
            # Peaks within a molecule are far higher than all others.
            between = results.found[name].r > 1.7
            top = max(
                part.g[between].max()
                for part in (results.found[name], results.expected[name])
            )
            axes.set(xlim=(2.0 if name == "OO" else 0.5, 6.2), ylim=(0.0, 1.15 * top))
            axes.set_xlabel(f"r({name[0]}-{name[1]}), A")
            axes.set_title(f"g{name}")
        panels[0].legend(loc="upper right")
        save(path, figure)


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--model", default="liquid-water", show_default=True)
@click.option("--length", default=20.0, show_default=True, help="ps")
@click.option("--equilibration", default=5.0, show_default=True, help="ps")
@click.option("--temperature", default=330.0, show_default=True, help="K")
@click.option("--start", default=0, show_default=True, help="Frame to start from.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path), help="PNG to draw.")
def main(
    data: Path,
    model: str,
    length: float,
    equilibration: float,
    temperature: float,
    start: int,
    out: Path,
    figure: Path | None,
) -> None:
    """Run liquid water and compare its g(r) with that of the reference frames."""
    console = Console()
    frames, groups = read_frames(data)
    out.mkdir(parents=True, exist_ok=True)
    write_start(frames[start], out / "start.pdb")
    options = ModelRunOptions(
        model=model,
        steps=round(length / (DT_FS * FS_TO_PS)),
        temperature=temperature,
        ensemble="nvt",
        thermostat="nose-hoover",
        equilibration_ps=equilibration,
        frame_fs=FRAME_FS,
        out=out / "run",
        resume=(out / "run").exists(),
    )
    record = run_structure(out / "start.pdb", options, console)
    results = compare(out / "run", frames, groups)
    facts = {
        "model": model,
        "status": record.status,
        "length_ps": length,
        "temperature_K": temperature,
        "table": results.table,
    }
    with atomic_write(out / "liquid_water.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=1))
    report(results.table, console)
    if figure is not None:
        draw(figure, results, temperature)
    sys.exit(0 if all(entry["met"] for entry in results.table.values()) else 1)


def compare(folder: Path, frames: mdtraj.Trajectory, groups: np.ndarray) -> Comparison:
    """Return a run beside the frames."""
    run = read_folder(folder)
    assert run.times is not None
    stability = judge(run)
    trajectory = run.trajectory
    blocks = np.arange(trajectory.n_frames) * BLOCKS // trajectory.n_frames
    found = {a + b: distribution(trajectory, blocks, (a, b)) for a, b in PAIRS}
    expected = {a + b: distribution(frames, groups, (a, b)) for a, b in PAIRS}
    (place, height), (place0, height0) = found["OO"].peak(), expected["OO"].peak()
    distance, noise = difference(found["OO"], expected["OO"])
    oxygens = trajectory.topology.select("element O")
    frame_ps = float(run.times[1] - run.times[0])
    mobility = diffusion(NM_TO_ANGSTROM * trajectory.xyz[:, oxygens], frame_ps)
    return Comparison(
        found=found,
        expected=expected,
        table={
            "molecules": row(stability.stable, "all whole", stability.stable),
            "gOO, first peak, A": row(
                place,
                f"{place0:.3f} +- {PEAK_PLACE}",
                abs(place - place0) <= PEAK_PLACE,
            ),
            "gOO, its height": row(
                height,
                f"{height0:.3f} +- {100 * PEAK_HEIGHT:.0f} %",
                abs(height - height0) <= PEAK_HEIGHT * height0,
            ),
            "gOO, mean difference from 2 to 6 A": row(
                distance,
                f"<= {DIFFERENCE} + {noise:.3f}",
                distance <= DIFFERENCE + noise,
            ),
            "diffusion, 1e-5 cm^2/s": row(list(mobility), "no reference", True),
        },
    )


def row(value: Any, limit: str, met: bool) -> dict[str, Any]:
    """Return one row of the table."""
    return {"value": value, "limit": limit, "met": bool(met)}


def report(rows: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table("quantity", "model", "limit", "")
    for name, entry in rows.items():
        value = entry["value"]
        values = value if isinstance(value, list) else [value]
        text = " +- ".join(
            f"{x:.3f}" if isinstance(x, float) else str(x) for x in values
        )
        table.add_row(name, text, entry["limit"], "" if entry["met"] else "MISSED")
    console.print(table)


if __name__ == "__main__":
    main()

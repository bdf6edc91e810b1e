"""The data of a run: read, checked, divided, and made into graphs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from rich.console import Console

from openmm_se3.data.checks.near_duplicates import near_duplicates
from openmm_se3.data.checks.units import require_plausible
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import SPLITS, Frames
from openmm_se3.data.load import read_sources, with_splits
from openmm_se3.data.self_energies import SelfEnergies, self_energies
from openmm_se3.data.splits import SplitConfig, make_splits, missed_shares, one_sided
from openmm_se3.elements import symbols_of
from openmm_se3.training.batches import FrameGraphs, frame_weights, lowest_energies
from openmm_se3.training.config import DataConfig, RunConfig, TrainingConfig
from openmm_se3.training.initial import InitialModel, matched_self_energies

MOST_UNEVEN = 8  # kinds and temperatures named that a split lacks


def read_data(
    config: DataConfig, console: Console, initial: InitialModel | None = None
) -> Dataset:
    """Read and divide the data, and say what they are.

    Args:
        config: Where they are.
        console: Where to report.
        initial: Model that the run starts from, which self-energies are to match; None
            for random weights.

    Raises:
        ValueError: The data cannot be read, none has energies, or units or signs cannot
            be right.
    """
    if config.files and all(source.forces_only for source in config.files):
        raise ValueError("all data files are forces_only; one must have energies")
    dataset = divide(read_sources(config.files, for_model=True), config.split)
    if initial is None:
        chosen = self_energies(dataset, cast(Any, config.self_energies))
    else:
        chosen = matched_self_energies(dataset, config, initial)
    # Self-energies that are all zero ask for total energies, as the thesis's first runs
    # had them: nothing is known about their size then.
    subtracted = chosen.energies if any(chosen.energies.values()) else None
    if config.check_units:
        require_plausible(dataset.frames, subtracted)
    dataset = dataclasses.replace(dataset, self_energies=chosen.energies)
    summary = data_summary(dataset, chosen)
    console.print(summary, markup=False, highlight=False, soft_wrap=True)
    if chosen.warning:
        warnings.warn(chosen.warning, stacklevel=2)
    near = near_duplicates(dataset.frames)
    if near.near:
        console.print(f"{near}", markup=False, highlight=False, soft_wrap=True)
    return dataset


def divide(dataset: Dataset, config: SplitConfig) -> Dataset:
    """Return the data with the splits that a run makes of them."""
    frames = with_splits(dataset.frames, make_splits(dataset.frames, config))
    notes = dataset.notes
    missed = missed_shares(frames, config)
    if missed:
        notes += (
            f"groups by {config.by} cannot be divided as split.fractions asks: "
            f"{', '.join(missed)}",
        )
    return dataclasses.replace(dataset, frames=frames, notes=notes)


def data_summary(dataset: Dataset, chosen: SelfEnergies) -> str:
    """Return what the data are in a few lines: level, splits, masked labels, atoms."""
    frames = dataset.frames
    no_energy = int(np.isnan(frames.column("energy")).sum())
    no_forces = frames_without_forces(frames)
    lines = [
        f"{len(frames):,} frames of {dataset.level}: {count_splits(frames)}; energies "
        "in eV, forces in eV/A",
        f"isolated atoms ({chosen.origin}), eV: {list_energies(chosen.energies)}",
    ]
    if no_energy or no_forces:
        lines.append(
            f"masked: {no_energy:,} frames without an energy, {no_forces:,} without "
            "forces"
        )
    lines += dataset.notes
    if len(frames.in_memory()) < len(frames):
        lines.append(
            "forces stay in the files: those that are missing are masked, and counted "
            "by 'openmm-se3 data inspect' on a sample"
        )
    uneven = one_sided(frames)
    if len(uneven) > MOST_UNEVEN:
        uneven = [*uneven[:MOST_UNEVEN], f"{len(uneven) - MOST_UNEVEN} more"]
    if uneven:
        lines.append(
            "not every split has frames of each kind and temperature, so that its "
            f"errors are of the others: {'; '.join(uneven)}"
        )
    return "\n".join(lines)


def count_splits(frames: Frames) -> str:
    """Return how many frames each split has, as text."""
    split = frames.column("split")
    return ", ".join(
        f"{(split == code).sum():,} {name}" for code, name in enumerate(SPLITS)
    )


def list_energies(energies: Mapping[int, float]) -> str:
    """Return energies by atomic number (eV) as text."""
    pairs = zip(symbols_of(energies), energies.values(), strict=True)
    return ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in pairs)


def frames_without_forces(frames: Frames) -> int:
    """Count frames some of whose forces are unknown; those in a file are not read."""
    count = 0
    for index, rows in frames.by_block():
        forces = frames.blocks[frames.block[index[0]]].forces
        if forces is None:
            count += len(rows)
        elif isinstance(forces, np.ndarray):
            count += int(np.isnan(forces[rows]).any(axis=(1, 2)).sum())
    return count


def normalized(
    config: TrainingConfig, frames: Frames, self_energies: Mapping[int, float]
) -> TrainingConfig:
    """Return settings whose weights measure errors in deviations of the labels.

    Args:
        config: Settings with ``normalize``.
        frames: Frames to train on; forces are those of ``evaluated_frames`` of them at
            most, drawn with the seed.
        self_energies: Energies of isolated atoms by atomic number, eV.

    Raises:
        ValueError: The labels do not differ, so that there is nothing to measure by.
    """
    interaction = frames.column("energy") - frames.isolated_energies(self_energies)
    energies = interaction[np.isfinite(interaction)]
    rng = np.random.default_rng(config.seed)
    drawn = rng.permutation(len(frames))[: config.evaluated_frames]
    forces = [frames[int(i)].forces for i in np.sort(drawn)]
    known = [f.ravel() for f in forces if f is not None]
    components = np.concatenate(known) if known else np.zeros(0)
    components = components[np.isfinite(components)]
    weights = {}
    for name, labels in (("energy", energies), ("force", components)):
        weight = getattr(config, f"{name}_weight")
        if not weight:
            continue
        deviation = float(labels.std()) if len(labels) else 0.0
        if not deviation > 0.0:
            raise ValueError(
                f"training.normalize: the training frames' {name} labels are missing "
                "or all the same, so they have no deviation to measure errors by; set "
                f"training.{name}_weight to 0, or normalize to false"
            )
        weights[f"{name}_weight"] = weight / deviation**2
        if name == "force":
            weights["direct_weight"] = config.direct_weight / deviation**2
    return dataclasses.replace(config, **weights)


def split_graphs(
    config: RunConfig, dataset: Dataset, split: str, most: int | None = None
) -> FrameGraphs:
    """Return the graphs of one split, weighted from the lowest training energies.

    Args:
        config: The run.
        dataset: The data.
        split: Name of the split.
        most: Frames at most, drawn with the run's seed; None takes all.
    """
    frames = dataset.select(split)
    lowest = lowest_energies(dataset.select("train"))
    if most is not None and len(frames) > most:
        rng = np.random.default_rng(config.training.seed)
        frames = frames[np.sort(rng.permutation(len(frames))[:most])]
    return FrameGraphs(
        frames,
        config.model.elements,
        config.model.cutoff,
        dataset.self_energies,
        frame_weights(frames, config.training.energy_cap, lowest),
    )


def surroundings(dataset: Dataset) -> str:
    """Return "periodic" if all frames have a box, "free" if none has one, or "both"."""
    boxes = {block.box is not None for block in dataset.frames.blocks}
    return "both" if len(boxes) > 1 else "periodic" if boxes == {True} else "free"


def reference_structure(dataset: Dataset) -> dict[str, Any]:
    """Return the structure of lowest energy an atom, which an exported file keeps.

    It is near a minimum, so that later checks can start dynamics from it.  Free
    molecules come before periodic boxes.
    """
    frames = dataset.frames
    energy = frames.column("energy") - frames.isolated_energies(dataset.self_energies)
    per_atom = np.nan_to_num(energy / frames.n_atoms, nan=np.inf)
    periodic = np.array([block.box is not None for block in frames.blocks])[
        frames.block
    ]
    frame = frames[int(np.lexsort((per_atom, periodic))[0])]
    return {
        "symbols": symbols_of(frame.numbers),
        "positions": frame.positions.tolist(),
    }

"""How near the test frames of the shipped models come to their training frames.

    python benchmarks/splits.py --out benchmarks/results/splits.json

A single molecule has few ways to move, so that every test trajectory passes near
training frames: the distance is that after superposition.  Frames of the liquid never
coincide, but those of one simulation keep their neighbors: counted are the pairs of
oxygens within the first shell of a test frame that are such pairs of its nearest
training frame too.  By chance it would be the share of all pairs that are neighbors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

HERE = Path(__file__).parent
sys.path += [str(HERE / "accuracy")]

from frames import SHARED, read_liquid_water  # noqa: E402

from openmm_se3.data.frames import Frames  # noqa: E402
from openmm_se3.data.load import read_datasets  # noqa: E402
from openmm_se3.files import atomic_write  # noqa: E402

NEAR = 0.1  # A, root mean square distance of atoms
FIRST_SHELL = 3.4  # A, about the first minimum of gOO
WATER = HERE.parent / "models/water/data"
MONOMERS = WATER / "water1.h5"
DISTORTED = WATER / "distorted1.h5", WATER / "distorted2.h5"  # trained on in whole


def superposed_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square distance [n, 3], A, after the best superposition."""
    p, q = one - one.mean(0), other - other.mean(0)
    u, s, v = np.linalg.svd(p.T @ q)
    s[-1] *= np.sign(np.linalg.det(u @ v))
    square = ((p**2).sum() + (q**2).sum() - 2.0 * s.sum()) / len(p)
    return float(np.sqrt(max(0.0, square)))


def monomer_distances(train: Frames, test: Frames) -> np.ndarray:
    """Return the distance of each test frame to its nearest training frame, A."""
    orders = ([0, 1, 2], [0, 2, 1])  # O, H, H, or the hydrogens exchanged
    references = [frame.positions for frame in train]
    return np.array(
        [
            min(
                superposed_distance(frame.positions[order], reference)
                for order in orders
                for reference in references
            )
            for frame in test
        ]
    )


def neighbor_pairs(frames: Frames) -> np.ndarray:
    """Return which pairs of oxygens are in the first shell [n_frames, n_pairs]."""
    rows = []
    for frame in frames:
        oxygens = frame.positions[frame.numbers == 8]
        assert frame.box is not None
        lengths = np.diagonal(frame.box)
        vectors = oxygens[:, None] - oxygens[None]
        vectors -= lengths * np.round(vectors / lengths)
        first, second = np.triu_indices(len(oxygens), 1)
        rows.append(np.linalg.norm(vectors[first, second], axis=1) < FIRST_SHELL)
    return np.array(rows)


def shared_pairs(train: Frames, test: Frames) -> dict[str, float]:
    """Return the share of first-shell pairs of test frames that training has too."""
    known, asked = neighbor_pairs(train), neighbor_pairs(test)
    shares = (asked.astype(float) @ known.T) / asked.sum(1, keepdims=True)
    return {
        "shared_with_nearest": float(shares.max(1).mean()),
        "by_chance": float(known.mean()),
    }


@click.command()
@click.option(
    "--shared",
    type=click.Path(path_type=Path),
    default=SHARED,
    show_default="../shared/data",
    help="Folder of the frames of the liquid, which are not in the repository.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False))
def main(shared: Path, out: Path | None) -> None:
    """Compare test frames of the shipped models with their training frames."""
    monomers = read_datasets([MONOMERS])
    train = [*monomers.select("train"), *read_datasets(DISTORTED).frames]
    distances = monomer_distances(train, monomers.select("test"))
    liquid = read_liquid_water(shared)
    found: dict[str, Any] = {
        "water, one molecule": {
            "test_frames": len(distances),
            f"within_{NEAR}_A_of_a_training_frame": int((distances < NEAR).sum()),
            "median_distance_A": float(np.median(distances)),
        },
        "liquid-water": {
            "test_frames": len(liquid.select("test")),
            "first_shell_A": FIRST_SHELL,
            **shared_pairs(liquid.select("train"), liquid.select("test")),
        },
    }
    text = json.dumps(found, indent=1)
    click.echo(text)
    if out is not None:
        with atomic_write(out) as temporary:
            temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()

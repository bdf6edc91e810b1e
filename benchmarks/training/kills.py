"""Kill a training run again and again: does it end with the curve it would have had?

    python benchmarks/training/kills.py --kills 20

A small network is trained on the committed water labels twice: once without a stop, and
once killed (SIGKILL) at random moments, start-up, validation and checkpoints included,
and resumed each time.  Exit code 1 if anything but the time differs.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
import yaml

from openmm_se3.training.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model": {
        "elements": ["H", "O"],
        "cutoff": 5.0,
        "channels": 8,
        "key_channels": 4,
        "heads": 2,
        "radial_width": 8,
        "self_interaction_width": 8,
        "layers": 2,
    },
    "training": {
        "steps": 400,
        "validate_every": 20,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 10,
        "precision": "float64",
        "device": "cpu",
        "threads": 1,
        "checkpoint_minutes": 0.01,
    },
    "data": {"files": [str(ROOT / "models/water/data/water3.h5")]},
}


def command(config: Path, out: Path) -> list[str]:
    """Return the command that starts the run or goes on with it."""
    started = any((out / name).exists() for name in (LAST, PREVIOUS))
    script = [str(Path(sys.executable).parent / "openmm-se3"), "train", str(config)]
    # Killed before its first checkpoint, a run has nothing to go on from.
    return [*script, "--out", str(out), "--resume" if started else "--overwrite"]


def finish(config: Path, out: Path, seconds: float | None = None) -> None:
    """Start a run or go on with it; kill it (SIGKILL) after some seconds.

    Raises:
        TimeoutExpired: It was killed.
        ClickException: It failed by itself.
    """
    done = subprocess.run(command(config, out), capture_output=True, timeout=seconds)
    if done.returncode:
        raise click.ClickException(done.stderr.decode())


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two finished runs, the time left out."""
    files, others = ({path.name for path in run.iterdir()} for run in (one, other))
    found = [f"{name} is in one folder only" for name in sorted(files ^ others)]
    for name in (LAST, BEST):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        rows, repeated = a["history"], b["history"]
        if len(rows) != len(repeated):
            found.append(f"{name}: {len(rows)} and {len(repeated)} validations")
        for row, again in zip(rows, repeated, strict=False):
            found += [
                f"{name}, step {row['step']:.0f}: {key} {row[key]} and {again[key]}"
                for key in row
                if key != "seconds" and row[key] != again[key]
            ]
        for part in ("network", "average"):
            found += [
                f"{name}: {part} {key}"
                for key, weights in a[part].items()
                if not torch.equal(weights, b[part][key])
            ]
        moments, repeated = (c["optimizer"]["state"] for c in (a, b))
        found += [
            f"{name}: optimizer {number} {key}"
            for number, state in moments.items()
            for key, value in state.items()
            if not torch.equal(value, repeated[number][key])
        ]
    return found


def progress(run: Path) -> str:
    """Return how far a run that was killed has come."""
    for name in (LAST, PREVIOUS):
        if (run / name).exists():
            return f"step {load_checkpoint(run / name)['step']}"
    return "no checkpoint"


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--longest",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds before a kill, at most.  [default: those of the whole run]",
)
def main(kills: int, seed: int, longest: float | None) -> None:
    """Kill a training run at random moments and resume it each time.

    Its end must be that of a run that was left alone, bit for bit.
    """
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="training-kills-"))
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    whole, killed = folder / "whole", folder / "killed"
    start = time.monotonic()
    finish(config, whole)
    seconds = time.monotonic() - start
    click.echo(f"left alone: {seconds:.0f} s")
    done, found = 0, []
    while done < kills and not found:
        limit = rng.uniform(0.0, longest or seconds)
        try:
            finish(config, killed, limit)
        except subprocess.TimeoutExpired:  # and killed
            done += 1
            click.echo(f"kill {done} after {limit:.1f} s: {progress(killed)}")
            continue
        click.echo(f"the run ended after {done} kills; from the beginning")
        found = differences(whole, killed)
        shutil.rmtree(killed)
    if not found:
        finish(config, killed)
        found = differences(whole, killed)
    click.echo(f"{done} kills: " + ("the same run" if not found else "DIFFERENT"))
    for line in found[:20]:
        click.echo(f"  {line}")
    shutil.rmtree(folder)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""Kill a training run again and again: does it end with the curve it would have had?

    python benchmarks/training_kills.py --kills 20

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

ROOT = Path(__file__).parents[1]
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


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two finished runs, the time left out."""
    a, b = load_checkpoint(one / BEST), load_checkpoint(other / BEST)
    found = []
    for row, again in zip(a["history"], b["history"], strict=True):
        found += [
            f"step {row['step']:.0f}: {key} {row[key]} and {again[key]}"
            for key in row
            if key != "seconds" and row[key] != again[key]
        ]
    for name, weights in a["average"].items():
        if not torch.equal(weights, b["average"][name]):
            found.append(f"weights {name}")
    return found


@click.command()
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--longest", default=20.0, show_default=True, help="Seconds before a kill, at most."
)
def main(kills: int, seed: int, longest: float) -> None:
    """Run the comparison."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="training-kills-"))
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(command(config, whole), check=True, **quiet)
    done = 0
    while done < kills:
        process = subprocess.Popen(command(config, killed), **quiet)
        try:
            process.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
            steps = "no checkpoint"
            for name in (LAST, PREVIOUS):
                if (killed / name).exists():
                    steps = f"step {load_checkpoint(killed / name)['step']}"
                    break
            click.echo(f"kill {done}: {steps}")
            continue
        if process.returncode:
            raise click.ClickException(process.stderr.read().decode())
        click.echo(f"the run ended after {done} kills; from the beginning")
        if differences(whole, killed):
            break
        shutil.rmtree(killed)
    start = time.monotonic()
    if not (killed / "errors.json").exists():
        subprocess.run(command(config, killed), check=True, **quiet)
    found = differences(whole, killed)
    click.echo(
        f"{done} kills, last sitting {time.monotonic() - start:.0f} s: "
        + ("the same run" if not found else "DIFFERENT")
    )
    for line in found[:20]:
        click.echo(f"  {line}")
    shutil.rmtree(folder)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

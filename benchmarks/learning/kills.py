"""Kill a campaign of `openmm-se3 learn` again and again: does it end the same?

    python benchmarks/learning/kills.py --kills 20

A small campaign, with GFN2-xTB as the reference, is run once without a stop.  Then the
same one is killed (SIGKILL) at random moments and resumed each time; every second kill
takes the worker processes too, as a power cut would.  Exit code 1 if a label, a weight
or an error on fresh frames differs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from openmm_se3.active_learning.campaign import JOURNAL, SETTINGS, Campaign
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.files import atomic_write
from openmm_se3.training.checkpoint import BEST, load_checkpoint

MOLECULE = "CO"
OPTIONS = {
    "reference": "gfn2",
    "labels": 60,
    "members": 2,
    "steps": 200,
    "explore-steps": 60,
    "target": 0.01,  # never reached, so that every label is spent
    "seed": 0,
}
TIMES = ("time", "seconds", "label_seconds", "command")


def finish(folder: Path, seconds: float | None = None, workers: bool = False) -> bool:
    """Start a campaign or resume it; tell whether it ended before it was killed.

    Args:
        folder: Its folder.
        seconds: When to kill it; None for never.
        workers: Kill its worker processes at the same time.

    Raises:
        ClickException: It failed by itself.
    """
    script = [str(Path(sys.executable).parent / "openmm-se3"), "learn"]
    if (folder / SETTINGS).exists():
        script += ["--resume", str(folder)]
    else:
        given = [f"--{name}={value}" for name, value in OPTIONS.items()]
        script += [MOLECULE, "--out", str(folder), "--no-checks", *given]
    process = subprocess.Popen(
        script,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        if workers:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    # 1: not trusted, which so small a campaign cannot be.
    if process.returncode not in (0, 1) or not Campaign(folder).all("verdict"):
        raise click.ClickException(errors.decode())
    return True


def events(folder: Path) -> list[dict[str, Any]]:
    """Return what a campaign found out, without times and repetitions."""
    found: list[dict[str, Any]] = []
    for event in Campaign(folder).events:
        entry = {key: value for key, value in event.items() if key not in TIMES}
        if entry not in found:
            found.append(entry)
    return found


def differences(whole: Path, killed: Path) -> list[str]:
    """Return what differs between two finished campaigns, times left out."""
    found = []
    for path in sorted((whole / "data").glob("*.h5")):
        pair = [list(read_hdf5(f / "data" / path.name).frames) for f in (whole, killed)]
        if len(pair[0]) != len(pair[1]):
            found.append(f"{path.name}: {len(pair[0])} and {len(pair[1])} frames")
        for index, (one, other) in enumerate(zip(*pair, strict=False)):
            same = (
                np.array_equal(one.positions, other.positions)
                and one.energy == other.energy
                and np.array_equal(one.forces, other.forces)
            )
            if not same:
                found.append(f"{path.name}: frame {index}")
    for path in sorted(whole.glob(f"runs/*/*/{BEST}")):
        name = path.relative_to(whole)
        one, other = (load_checkpoint(f / name)["average"] for f in (whole, killed))
        found += [
            f"{name}: {key}" for key in one if not torch.equal(one[key], other[key])
        ]
    journals = [events(folder) for folder in (whole, killed)]
    found += [
        f"{JOURNAL}: {one} and {other}"
        for one, other in zip(*journals, strict=False)
        if one != other
    ]
    if len(journals[0]) != len(journals[1]):
        found.append(f"{JOURNAL}: {len(journals[0])} and {len(journals[1])} events")
    return found


def last_event(folder: Path) -> str:
    """Return what a campaign finished last, in a few words."""
    if not (folder / JOURNAL).exists():
        return "nothing"
    shown = ("event", "file", "round")
    last = Campaign(folder).events[-1:]
    words = [str(event[key]) for event in last for key in shown if key in event]
    return " ".join(words) or "nothing"


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write.")
def main(kills: int, seed: int, out: Path | None) -> None:
    """Kill a campaign at random moments, resume it each time and compare its end."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="learning-kills-"))
    whole, killed = folder / "whole", folder / "killed"
    start = time.monotonic()
    finish(whole)
    seconds = time.monotonic() - start
    click.echo(f"left alone: {seconds:.0f} s")
    rows: list[dict[str, Any]] = []
    found: list[str] = []
    ends = 0
    while not found and (len(rows) < kills or killed.exists()):
        left = len(rows) < kills
        limit = rng.uniform(0.0, 0.7 * seconds) if left else None
        workers = len(rows) % 2 == 1
        if not finish(killed, limit, workers):
            where = last_event(killed)
            rows.append({"seconds": limit, "workers": workers, "after": where})
            click.echo(f"kill {len(rows)} after {limit:.1f} s, last finished: {where}")
            continue
        ends += 1
        found = differences(whole, killed)
        click.echo(f"the campaign ended after {len(rows)} kills")
        shutil.rmtree(killed)
    click.echo(
        f"{len(rows)} kills, {ends} ends: "
        + ("the same campaign" if not found else "DIFFERENT")
    )
    for line in found[:20]:
        click.echo(f"  {line}")
    if out is not None:
        with atomic_write(out) as temporary:
            content = {"options": OPTIONS, "kills": rows, "ends": ends}
            content["differences"] = found
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    if found:
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

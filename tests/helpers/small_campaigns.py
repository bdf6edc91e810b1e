"""Small campaigns of active learning, and how one is killed or stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from figures import leave_out_figures

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.data.labeling.executors import SerialExecutor

NETWORK: dict[str, Any] = {
    "layers": 1,
    "channels": 4,
    "key_channels": 4,
    "heads": 2,
    "lmax": 1,
    "jmax": 1,
    "radial_width": 8,
    "radial_functions": 4,
    "self_interaction_width": 4,
}

SCRIPT = """
import json, sys
from rich.console import Console
from openmm_se3.active_learning import learn
if __name__ == "__main__":
    folder, molecule, options = sys.argv[1], *map(json.loads, sys.argv[2:])
    given = {"resume": True} if molecule is None else options
    learn(molecule, folder, console=Console(quiet=True), **given)
"""


class StoppedError(Exception):
    """A campaign was stopped by a test."""


class OneProcess(SerialExecutor):
    """Trains members in the process of the test."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = 1


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Train the members of campaigns in this process, without figures of each.

    To start a worker takes longer than to train a small network.  The campaigns that
    :func:`kill_when` kills have workers.
    """
    with pytest.MonkeyPatch.context() as patch:
        name = "openmm_se3.active_learning.members.LocalExecutor"
        patch.setattr(name, OneProcess)
        leave_out_figures(patch)
        yield


@contextlib.contextmanager
def after(event: str, number: int, action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` when a campaign has recorded an event of a round."""
    record = Campaign.record

    def recorded(campaign: Campaign, name: str, **values: Any) -> dict[str, Any]:
        entry = record(campaign, name, **values)
        if name == event and values.get("round") == number:
            action()
        return entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Campaign, "record", recorded)
        yield


def stop() -> None:
    raise StoppedError


def kill_when(
    ready: Callable[[], bool],
    folder: Path,
    molecule: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Run a campaign in a process of its own, and kill it when ``ready()`` holds.

    Args:
        ready: Tells when.
        folder: Folder of the campaign.
        molecule: Its molecule; None resumes it.
        options: Its options.
    """
    script = folder.with_name("campaign_to_kill.py")
    script.write_text(SCRIPT)
    arguments = [json.dumps(molecule), json.dumps(options)]
    command = [sys.executable, str(script), str(folder), *arguments]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while process.poll() is None and not ready():
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it was killed"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # The workers notice by themselves that their parent is gone, and end.
    for lock in folder.glob("runs/*/member-*/run.lock"):
        wait_until_free(lock)


def wait_until_free(lock: Path) -> None:
    """Wait until the process that holds a lock has ended."""
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

"""Small campaigns of active learning, and how one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        # The workers notice by themselves that their parent is gone.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

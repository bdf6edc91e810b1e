"""Asks another process whether an HDF5 file can be read; see ``hdf5_probe``."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

PROBE = Path(__file__).with_name("hdf5_probe.py")

_lock = threading.Lock()
_probes: dict[int, subprocess.Popen[str]] = {}  # by process: forks start their own
_checked: set[tuple[str, int, int]] = set()


def require_readable(path: Path) -> None:
    """Refuse a file on which the HDF5 library hangs or ends the process.

    What is merely wrong passes: its reader says what.

    Raises:
        ValueError: Reading the file does not end, or ended the process.
    """
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    with _lock:
        if key in _checked:
            return
        try:
            probe = _probe()
        except OSError:
            return  # no second process here: the file is read as it is
        if not _survives(probe, key[0]):
            _probes.pop(os.getpid())
            raise ValueError(
                f"{path} is damaged: reading it with the HDF5 library does not end, or "
                "ends the process; copy or make it again"
            )
        _checked.add(key)


def _probe() -> subprocess.Popen[str]:
    if os.getpid() not in _probes:
        _probes[os.getpid()] = subprocess.Popen(
            [sys.executable, str(PROBE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    return _probes[os.getpid()]


def _survives(probe: subprocess.Popen[str], path: str) -> bool:
    assert probe.stdin is not None and probe.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        probe.stdin.write(json.dumps(path) + "\n")
        probe.stdin.flush()
        if probe.stdout.readline():
            return True
    with contextlib.suppress(BrokenPipeError):
        probe.stdin.close()
    probe.stdout.close()
    probe.wait()
    return False


@atexit.register
def _end() -> None:
    probe = _probes.pop(os.getpid(), None)
    if probe is not None and probe.stdin is not None and probe.stdout is not None:
        probe.stdin.close()
        probe.stdout.close()
        probe.wait()

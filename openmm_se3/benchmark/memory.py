"""Memory that a process has had."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory(process: int | str = "self") -> float:
    """Return the most memory that a process has had, MiB; Linux only.

    That of ``getrusage`` starts from the process that started this one.

    Args:
        process: Its number, or "self".
    """
    return _status(process, "VmHWM")


def reset_peak_memory() -> float:
    """Let the peak of this process start again from the memory it has now, MiB.

    Returns:
        What it has now.

    Raises:
        OSError: The system does not let a process do this.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _status("self", "VmRSS")


def _status(process: int | str, name: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.M)
    return int(found[1]) / 1024.0 if found else 0.0

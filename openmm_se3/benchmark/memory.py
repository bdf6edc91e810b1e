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
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return int(found[1]) / 1024.0 if found else 0.0

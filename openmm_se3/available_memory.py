"""How much memory the machine, or the container, has left."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GB = 1e9
MEMINFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> float:
    """Return the memory that a process can still get here, GB, infinite if unknown.

    That is what the system calls available, or less in a container (cgroup) with a
    limit, swap not counted.
    """
    try:
        lines = MEMINFO.read_text().splitlines()
        kilobytes = next(l.split()[1] for l in lines if l.startswith("MemAvailable:"))
        system = 1024.0 * int(kilobytes)
    except (OSError, StopIteration):
        try:
            system = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (AttributeError, ValueError, OSError):
            system = math.inf
    return min([system, *_left_in_cgroups()]) / GB


def _left_in_cgroups() -> Iterator[float]:
    """Yield what the limit of each control group of this process leaves, bytes."""
    try:
        rows = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for row in rows:
        _, controllers, path = row.split(":", 2)
        if not controllers:  # version 2
            root, files = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            files = (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be that of the host, and only the root be there.
        while group != root.parent:
            yield _left_in(group, *files)
            group = group.parent


def _left_in(group: Path, limit: str, usage: str, cache: str) -> float:
    """Return the bytes that a control group has left, infinite without a limit."""
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        statistics = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return math.inf
    if most == "max":
        return math.inf
    # Pages of files count as used and are given up where memory is short.
    given_up = sum(int(row.split()[1]) for row in statistics if row.split()[0] == cache)
    return float(int(most) - used + given_up)

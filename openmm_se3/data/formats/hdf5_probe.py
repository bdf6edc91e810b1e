"""Reads an HDF5 file in a process of its own, to find out whether reading it ends.

The HDF5 library trusts what it reads: one flipped bit in a heap or a tree of a file
makes it loop for ever, or ends the process.  So another process reads the file first,
with a limit of processor time.  A sound file of many groups may take longer than the
limit on a slow machine, so it is for some objects at a time.  That process is started
once, imports nothing but h5py, and ends with this one.  Of files with very many
objects, and of very large arrays, only a part is read.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

CPU_SECONDS = 5  # for each OBJECTS_AT_A_TIME, which take a tenth of a second
OBJECTS_AT_A_TIME = 500
MOST_OBJECTS = 20_000
MOST_BYTES = 1 << 26  # of all arrays that are read whole


def main() -> None:
    """Answer each line, a path as JSON, with a line once the file has been read."""
    for line in sys.stdin:
        _read(json.loads(line))
        sys.stdout.write("read\n")
        sys.stdout.flush()


def _renew_limit() -> None:
    """Let this process take CPU_SECONDS from now on, before the system ends it."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _read(path: str) -> None:
    """Read all that there is.  Errors are no matter here: what follows may still hang.

    Args:
        path: The file.
    """
    import h5py

    _renew_limit()
    ignored = contextlib.suppress(Exception)
    with ignored, h5py.File(path, "r", locking=False) as file:
        seen: set[int] = set()
        waiting: list[Any] = [file]
        left = MOST_BYTES
        while waiting and len(seen) < MOST_OBJECTS:
            item = waiting.pop()
            for name in _names(item.attrs):
                with ignored:
                    item.attrs[name]
            if isinstance(item, h5py.Group):
                for name in _names(item):
                    with ignored:
                        if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                            continue
                        below = item[name]
                        address = h5py.h5o.get_info(below.id).addr
                        if address not in seen:
                            seen.add(address)
                            waiting.append(below)
                            if len(seen) % OBJECTS_AT_A_TIME == 0:
                                _renew_limit()
            elif isinstance(item, h5py.Dataset):
                with ignored:
                    if item.chunks is not None:
                        item.id.get_num_chunks()
                    elsewhere = item.is_virtual or item.external
                    if item.shape is not None and item.nbytes <= left and not elsewhere:
                        left -= item.nbytes
                        item[()]


def _names(mapping: Any) -> list[str]:
    """Return the names up to the first that cannot be read."""
    names = []
    with contextlib.suppress(Exception):
        for name in mapping:
            names.append(name)
            if len(names) >= MOST_OBJECTS:
                break
    return names


if __name__ == "__main__":
    main()

"""A lock file: one run at a time writes an output."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# What flock reports on file systems that know no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class LockedError(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold a lock file, which names its owner and is removed at the end.

    The lock belongs to the open file, not to the name, so that the file left by a
    killed process does not block the next one.  On a file system without locks nothing
    is locked.

    Args:
        path: The lock file.

    Raises:
        LockedError: Another process holds it.
    """
    with _locked_file(path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked_file(path: Path) -> TextIO:
    while True:
        file = open(path, "a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            try:
                owner = path.read_text(encoding="utf-8") or "another process"
            except FileNotFoundError:
                continue  # its owner has just ended
            raise LockedError(f"{owner} holds {path}; let it end first") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        # The owner before may have removed the file between opening and locking it.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()

"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it when the block succeeds.

    The file is flushed to disk before the rename, so that a kill or a power cut leaves
    either the old file or the new one.  If the block raises, the old file stays.

    Yields:
        The temporary path, with the suffix of ``path``; the block writes and closes it.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what writers of a file that were killed have left beside it."""
    for left in path.parent.glob(f".{path.stem}.*{path.suffix}"):
        left.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_new_file(path: Path, overwrite: bool) -> None:
    """Make sure that an output can be written, before the work that leads to it.

    Raises:
        FileExistsError: There is something, which may not be replaced.
        FileNotFoundError: The folder that it is to be in does not exist.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; --overwrite replaces it")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to")


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

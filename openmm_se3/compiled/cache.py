"""The folder of compiled networks: where it is, and whether it can be trusted.

A library runs as soon as it is loaded, and the hash beside it tells damage only: who
can write the library can write the hash.  So libraries are loaded only from a folder
that nobody but its owner can write to, who is this user or the administrator.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import tempfile
from pathlib import Path

import torch

from openmm_se3.files import sha256

FOLDER = "openmm-se3"
FIX = "set XDG_CACHE_HOME to a folder of your own"

logger = logging.getLogger("openmm_se3")
_warned: set[str] = set()


class CompileError(RuntimeError):
    """The network cannot be compiled here."""


def warn_once(message: str) -> None:
    """Log a warning that is the same for every System, once in a process."""
    if message not in _warned:
        _warned.add(message)
        logger.warning("%s", message)


def cache_root() -> tuple[Path, str | None]:
    """Return the folder of caches, and why it is not the usual one, if it is not.

    That is XDG_CACHE_HOME or ~/.cache; a folder for temporary files where the user has
    no home, as in containers that run under a number without an account.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root), None
    try:
        return Path.home() / ".cache", None
    except RuntimeError:
        instead = Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
        return instead, (
            f"user {os.getuid()} has no home folder: compiled networks are kept in "
            f"{instead}, which may not last; fix: {FIX}, or HOME"
        )


def cache_folder() -> Path:
    """Return the folder of libraries.

    Every torch and every processor has its own: a home may be shared by machines, and
    loading what was compiled for another processor ends the process.
    """
    return cache_root()[0] / FOLDER / f"torch-{torch.__version__}-{processor_hash()}"


def processor_hash() -> str:
    """Return a few digits that stand for the processor."""
    return hashlib.sha256(processor().encode()).hexdigest()[:8]


def processor() -> str:
    """Return what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def make_folder(folder: Path) -> None:
    """Make the folder, before half a minute is spent on what could not be kept.

    Raises:
        CompileError: It cannot be written to, or others can.
    """
    why = cache_root()[1]
    if why is not None:
        warn_once(why)
    try:
        if not folder.parent.parent.exists():
            folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise CompileError(not_writable(folder))
    require_private(folder)


def require_private(path: Path) -> None:
    """Refuse a folder of libraries, or a file in it, that others can write to.

    Raises:
        CompileError: Its owner is another user, or others can write to it, or to the
            folders that it is in.
    """
    reason = reason_against_trust(path)
    if reason is not None:
        raise CompileError(f"compiled networks are not loaded: {reason}")


def reason_against_trust(path: Path) -> str | None:
    """Return why a path below the folder of caches cannot be trusted, or None."""
    root = cache_root()[0]
    own = [part for part in (path, *path.parents) if root in part.parents]
    for part in (*own, root):
        try:
            status = part.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue  # what is missing is made, or that fails
        except OSError as error:
            return f"{part} cannot be looked at ({error.strerror}); fix: {FIX}"
        mode = status.st_mode
        if part == root:
            # It may belong to a group, as long as not everybody can put another folder
            # in the place of ours.
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return f"everybody can write to {part}; fix: chmod o-w {part}"
        elif status.st_uid not in (os.geteuid(), 0):
            return f"{part} belongs to user {status.st_uid}; fix: {FIX}"
        elif mode & (stat.S_IWGRP | stat.S_IWOTH):
            return (
                f"others can write to {part}; fix: delete it, or chmod go-w {part} if "
                "you know all that is in it"
            )
    return None


def cache_problem() -> str | None:
    """Return cause and fix in one line if compiled networks cannot be kept, or None."""
    why = cache_root()[1]
    if why is not None:
        return why
    folder = cache_folder()
    reason = reason_against_trust(folder)
    if reason is not None:
        return f"compiled networks are not loaded: {reason}"
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    return None if os.access(there, os.W_OK) else not_writable(folder)


def not_writable(folder: Path) -> str:
    """Return cause and fix in one line where the folder cannot be written to."""
    return (
        f"compiled networks cannot be kept in {folder}, which is not writable; "
        f"fix: {FIX}"
    )


def hash_file(library: Path) -> Path:
    """Return the file that holds the SHA-256 of a library."""
    return library.with_suffix(".sha256")


def is_whole(library: Path) -> bool:
    """Tell whether a library is as it was compiled.

    Opening one that was cut off in the middle would end the process.
    """
    try:
        return sha256(library) == hash_file(library).read_text()
    except OSError:
        return False

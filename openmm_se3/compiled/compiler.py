"""The C++ compiler of this machine."""

from __future__ import annotations

import os
import shlex
import shutil

NO_COMPILER = "no C++ compiler found; fix: install g++, or name another in CXX"


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: CXX, g++ or clang++; None without one."""
    for candidate in (os.environ.get("CXX", ""), "g++", "clang++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    return None

"""Versions: this package's, in one place, and those of the packages it stands on."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

__version__ = "0.1.0"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, and Python's."""
    found = {"python": platform.python_version()}
    for name in distributions:
        version = installed_version(name)
        if version is not None:
            found[name] = version
    return found
